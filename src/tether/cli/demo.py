"""`tether demo`: the whole chain on a bundled small model, measured against its known reward."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.output import print_json, print_table

WORLD = "sentiment"
OPTIONS: dict[str, Any] = {
    "beta": 0.1,
    "learning_rate": 5e-4,
    "num_train_epochs": 2,
    "train_batch_size": 32,
    "warmup_steps": 9,
    "logging_steps": 21,
    "eval_strategy": "steps",
    "eval_steps": 42,
    "measure_prompts": 64,
    "kl_max_new_tokens": 80,
    "max_length": 256,
    "save_total_limit": 1,
}
"""Small enough for two cores and three minutes; a real run starts from a smaller learning rate."""


def demo(
    *,
    output_dir: Annotated[Path, Parameter(help="Folder for the world, the run and the page.")] = Path("demo"),
    pairs: Annotated[int, Parameter(help="Preference pairs to draw.")] = 2000,
    json: Annotated[bool, Parameter(help="Print the run record as JSON.", negative="")] = False,
) -> int:
    """Make a readable world, tune its base model by DPO, and write DIR/report.html."""
    from tether import api
    from tether.cli.progress import Terminal
    from tether.cli.train import summary
    from tether.worlds import WORLDS

    world, run = output_dir / "world", output_dir / "run"
    terminal = Terminal(quiet=json)
    try:
        if not (world / "world.json").is_file():
            terminal.stage(f"making the {WORLD} world")
            WORLDS[WORLD].make(world, pairs=pairs, eval_pairs=200, prompts=64, seed=0)
        record = api.train(
            world / "model",
            world / "train.jsonl",
            run,
            eval_data=world / "eval.jsonl",
            evaluators=(f"world:{WORLD}",),
            watcher=terminal,
            **OPTIONS,
        )
    finally:
        terminal.close()
    api.report(run, page=output_dir / "report.html")
    if json:
        print_json(record)
        return 0
    rows = [row for row in summary(record) if row[0] != "page"]
    print_table("", ["", "demo"], [*rows, ["page", f"{output_dir}/report.html"]])
    return 0
