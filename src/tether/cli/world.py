"""`tether world list` and `tether world make`: tasks whose true reward is known, as ordinary files."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from tether.cli.output import console, print_json, print_table

app = App(name="world", help="Tasks whose true reward is known, written as ordinary model and data files.")


@app.command(name="list")
def list_worlds(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List the worlds.

    Parameters
    ----------
    json
        Print one JSON document instead of a table.

    """
    from tether.worlds import WORLDS

    rows = [
        {
            "name": world.name,
            "version": world.version,
            "description": world.description,
            "pairs": world.sizes.pairs,
            "eval_pairs": world.sizes.eval_pairs,
            "prompts": world.sizes.prompts,
        }
        for world in WORLDS.values()
    ]
    if json:
        print_json({"worlds": rows})
    else:
        print_table(
            "", ["world", "pairs", "what it is"], [(r["name"], r["pairs"], r["description"]) for r in rows]
        )


@app.command(name="make")
def make_world(
    name: str,
    *,
    out: Path,
    pairs: int | None = None,
    eval_pairs: int | None = None,
    prompts: int | None = None,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a world's base model, preference pairs and prompts into a new folder.

    Parameters
    ----------
    name
        A world of `tether world list`, or the folder of one made before.
    out
        The folder; must be new, empty, or hold exactly this world already.
    pairs
        Rows of train.jsonl [default: the world's own].
    eval_pairs
        Rows of eval.jsonl [default: the world's own].
    prompts
        Rows of prompts.jsonl [default: the world's own].
    seed
        Decides prompts, samples and labels; never the base model or the reward.
    json
        Print one JSON document (the folder and world.json) instead of a table.
    quiet
        Print nothing but errors.

    """
    from transformers.utils import logging

    from tether.worlds import load_world

    logging.disable_progress_bar()
    world = load_world(name)
    stage = console(stderr=True)

    def report(line: str) -> None:
        if not json and not quiet:
            stage.print(f"{world.name}: {line}")

    files = world.make(out, pairs=pairs, eval_pairs=eval_pairs, prompts=prompts, seed=seed, report=report)
    record = files.record
    if json:
        document = record.model_dump(mode="json")
        print_json({"folder": str(out), "made_now": files.made_now, "world": document})
        return
    if quiet:
        return
    rows = [
        ("model/", "the base model: wrote both completions of every pair, and is the reference"),
        (
            "train.jsonl",
            f"{record.train.rows} pairs, {record.train.label_agreement:.1%} agree with the truth",
        ),
        ("eval.jsonl", f"{record.eval.rows} pairs, {record.eval.label_agreement:.1%} agree with the truth"),
        ("prompts.jsonl", f"{record.made['prompts']} prompts"),
        ("world.json", f"gold reward of the base model: {record.base.gold_reward:.3f}"),
    ]
    print_table(f"{out}" if files.made_now else f"{out} (was there already)", ["file", "what it is"], rows)
