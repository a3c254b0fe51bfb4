"""`tether calibrate`: how tight, from one training run (or two of half the pairs) and the dial."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.options import with_options
from tether.cli.output import console, print_json, print_table, wrapped
from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.records.calibration import CALIBRATION
from tether.reports.tables import decimals_for, number

GROUPS = [
    "Data", "Objective", "Model", "LoRA", "Optimiser", "Speed", "Watching", "Measuring", "Run",
]  # fmt: skip


@with_options(TrainConfig, GROUPS, TRAIN_ALIASES)
def calibrate(
    *,
    dial: Annotated[
        str, Parameter(help="Dial values with commas; 1 is the trained model.")
    ] = "0.25,0.5,1,2,4",
    judge: Annotated[
        str | None, Parameter(help="Who compares answers: local:MODEL, server:URL#MODEL, reward:MODEL...")
    ] = None,
    evaluator: Annotated[
        str | None, Parameter(help="Or who scores them: world:NAME, taken as the judge.")
    ] = None,
    prompts: Annotated[
        int | None, Parameter(help="Prompts answered; unset: what half a training run pays for, at least 20.")
    ] = None,
    halves: Annotated[
        bool, Parameter(help="Train two, each on half of the pairs, each scored by the other.", negative="")
    ] = False,
    json: Annotated[bool, Parameter(help="Print calibration.json.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress and no notes.", negative="")] = False,
    **options: Any,
) -> int:
    """Train once, turn the result up and down by the dial, and say how tight to hold.

    At most 1.5 training runs in all, sampling and scoring counted. Options are those of tether train.
    """
    settings = build(TrainConfig, {}, overrides=options, aliases=TRAIN_ALIASES, source="options")
    from tether import api
    from tether.cli.progress import Terminal

    terminal = Terminal(quiet=quiet or json)
    try:
        found = api.calibrate_config(
            settings,
            dials=_numbers(dial),
            judge=judge,
            evaluator=evaluator,
            prompts=prompts,
            halves=halves,
            watcher=terminal,
        )
    finally:
        terminal.close()
    if json:
        print_json(found)
        return 0
    if not quiet:
        show(found, Path(settings.output_dir))
    return 0


def _numbers(dial: str) -> list[float]:
    try:
        return [float(value) for value in dial.split(",") if value.strip()]
    except ValueError as error:
        raise UsageError(f"--dial: {dial!r}; give numbers with commas between them") from error


def show(found: Any, folder: Path) -> None:
    """Print the answer, then what it rests on."""
    out = console()
    out.print(wrapped(found.answer.sentence))
    rule = found.cross_fitted
    notes = [*found.answer.notes, *found.notes]
    if rule is not None:
        choice = "nothing" if rule.choice is None else rule.choice
        notes.append(f"cross-fitting, which is not proven to choose well, would take {choice}")
    for note in notes:
        out.print(wrapped(f"- {note}"))
    columns = ["dial", "as beta", "KL from start", *([] if found.judge is None else ["gain over start"])]
    columns += [] if rule is None else ["cross-fitted reward"]
    rows: list[list[object]] = []
    for p in found.points:
        row: list[object] = [p.dial, p.beta, _told(p.kl)]
        row += [] if found.judge is None else [_told(p.gain)]
        row += [] if rule is None else [_told(p.cross_fitted)]
        rows.append([*row, f"{p.tokens:.1f}"])
    out.print()
    print_table("", [*columns, "tokens"], rows)
    out.print()
    out.print(
        wrapped(f"cost {found.cost:.2f} training runs; {found.prompts} prompts; {folder / CALIBRATION}")
    )
    if found.recommended_dial is not None:
        out.print("ship it, or train again with the beta:")
        for trained in found.trained:
            out.print(
                f"  tether generate {trained} --reference {found.model} --dial {found.recommended_dial:g} ..."
            )


def _told(estimate: Any) -> str:
    if estimate is None:
        return "-"
    decimals = decimals_for(estimate.se)
    ends = (
        ""
        if estimate.low is None
        else f" ({number(estimate.low, decimals)} to {number(estimate.high, decimals)})"
    )
    return number(estimate.estimate, decimals) + ends
