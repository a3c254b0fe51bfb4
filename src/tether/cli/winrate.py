"""`tether winrate`: win rates of ready-made annotations, raw and length-controlled, with intervals."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from tether.cli.output import console, print_json, print_table
from tether.errors import UsageError

if TYPE_CHECKING:
    from tether.judging.annotations import Annotations
    from tether.judging.winrate import ModelWinRate, WinRates

winrate = App(name="winrate", help="Win rates with intervals from annotations against one baseline.")
Flag = Annotated[bool, Parameter(negative=())]


@winrate.default
def rates(
    annotations: Path,
    /,
    *,
    difficulty: Path | None = None,
    gamed: Path | None = None,
    prompts: Path | None = None,
    draws: int = 1000,
    seed: int = 0,
    json: Flag = False,
) -> None:
    """Show every model's win rate and length-controlled win rate with 95 % intervals over prompts.

    Parameters
    ----------
    annotations
        AlpacaEval's annotations.json, or Parquet with model, index, preference, chars_model, chars_baseline.
    difficulty
        CSV with index and instruction_difficulty: AlpacaEval 2's length control instead of "own-prompts".
    gamed
        CSV with the gamed baselines' rows, as AlpacaEval's df_gamed.csv.
    prompts
        JSON list with the benchmark's instructions in order, for annotations that carry no index.
    draws
        Bootstrap samples of prompts.
    seed
        Of the bootstrap.
    json
        Print one JSON document instead of a table.

    """
    from tether.judging.annotations import (
        gamed_difficulty_table,
        read_annotations,
        read_difficulty,
        read_gamed,
    )
    from tether.judging.winrate import win_rates

    if draws < 100:
        raise UsageError(f"--draws {draws}: at least 100 are needed for an interval")
    read = read_annotations(annotations, prompts)
    table = difficulty
    if table is None and gamed is not None:
        if not gamed_difficulty_table(gamed):
            raise UsageError(f"--gamed {gamed}: no instruction_difficulty in it; name --difficulty too")
        table = gamed
    values = None if table is None else read_difficulty(table, read)
    held = None if gamed is None else read_gamed(gamed, read, values)
    found = win_rates(read, difficulty=values, gamed=held, draws=draws, seed=seed)
    if json:
        print_json(_document(read, found))
    else:
        _show(found)


@winrate.command(name="fit-difficulty")
def fit_difficulty_table(
    annotations: Path,
    /,
    *,
    published: Path,
    output: Path,
    gamed_output: Path | None = None,
    leave_models_out: Flag = False,
    json: Flag = False,
) -> None:
    """Rebuild AlpacaEval's difficulty table from annotations of models whose term weights are known.

    Parameters
    ----------
    annotations
        Annotations of those models.
    published
        CSV: model, win_rate, length_controlled_winrate and the three term weights.
    output
        Difficulty table to write, for --difficulty.
    gamed_output
        Stand-ins of the gamed baselines' rows to write, for --gamed.
    leave_models_out
        Predict each model by a table that never saw it, and show the errors (minutes).
    json
        Print one JSON document instead of a table.

    """
    from tether.judging import difficulty as rebuild
    from tether.judging.annotations import read_annotations
    from tether.judging.winrate import GAMING

    read, known = read_annotations(annotations), rebuild.read_published(published)
    names = [m for m in read.models if m in known and m not in GAMING]
    values = rebuild.fit_difficulty(read, known, names)
    stand_ins = rebuild.fit_gamed(read, known, names, values)
    rebuild.write_tables(read, values, stand_ins, output, gamed_output)
    document: dict[str, Any] = {"models": len(names), "prompts": len(values), "table": str(output)}
    report = None
    if leave_models_out:
        sizes = [n for n in (4, 8, 12, 16, 20) if n < len(names)]
        report = rebuild.leave_models_out(read, known, sizes=sizes)
        document["left_out"] = report.model_dump(mode="json")
    if json:
        print_json(document)
        return
    console().print(f"difficulty of {len(values)} prompts from {len(names)} models: {output}")
    if report is not None:
        errors = [
            ("position, as for publication", report.mean_absolute_error, report.spearman),
            ("prompt, as tether winrate", report.identity_mean_absolute_error, report.identity_spearman),
        ]
        print_table(
            f"{report.models} models left out one by one, against what was published",
            ["joined by", "mean error, points", "Spearman"],
            [(joined, f"{error:.2f}", f"{rank:.4f}") for joined, error, rank in errors],
        )
        rows = [(size, value) for size, value in report.learning_curve]
        print_table("mean error by number of models", ["models", "points"], rows)


def _document(read: "Annotations", found: "WinRates") -> dict[str, Any]:
    models = {entry.model: entry.model_dump(mode="json") for entry in found.models}
    return {
        "annotations": read.source,
        "prompts": len(read.prompts),
        "lc_kind": found.kind,
        "models": models,
    }


def _show(found: "WinRates") -> None:
    ranked = sorted(found.models, key=lambda entry: -(entry.lc_win_rate or 0))
    columns = ["model", "win rate", "95 %", "LC", "95 % ", "n", "missing"]
    title = "win rate and length-controlled win rate (%), AlpacaEval 2's model"
    if found.kind == "own-prompts":
        title = "win rate and length-controlled win rate (%), own prompts: not comparable with published LC"
    print_table(title, columns, [_row(entry) for entry in ranked if not entry.apart])
    apart = [_row(entry) for entry in ranked if entry.apart]
    if apart:
        print_table("made to game the judge, reported apart", columns, apart)
    for note in sorted({entry.lc_note for entry in ranked if entry.lc_note}):
        console().print(f"note: {note}")


def _row(entry: "ModelWinRate") -> tuple[object, ...]:
    return (
        entry.model,
        "-" if entry.win_rate is None else f"{entry.win_rate:.2f}",
        "-" if entry.win_rate_interval is None else _span(entry.win_rate_interval),
        "-" if entry.lc_win_rate is None else f"{entry.lc_win_rate:.2f}",
        "-" if entry.lc_win_rate_interval is None else _span(entry.lc_win_rate_interval),
        entry.n,
        entry.missing,
    )


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"
