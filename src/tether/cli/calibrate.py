"""`tether calibrate`: how tight, from one training run and the dial."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.options import with_options
from tether.cli.output import console, print_json, print_table
from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.train import TrainConfig

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
            dials=[float(value) for value in dial.split(",") if value.strip()],
            judge=judge,
            evaluator=evaluator,
            prompts=prompts,
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


def show(found: Any, folder: Path) -> None:
    """Print the answer, then what it rests on."""
    out = console()
    out.print(found.answer.sentence)
    for note in (*found.answer.notes, *found.notes):
        out.print(f"- {note}")
    print_table(
        "",
        ["dial", "stands for beta", "KL from start", "gain over start", "tokens"],
        [
            [p.dial, p.beta, _told(p.kl), "-" if p.gain is None else _told(p.gain), f"{p.tokens:.1f}"]
            for p in found.points
        ],
    )
    out.print(f"cost {found.cost:.2f} training runs; {found.prompts} prompts; {folder / 'calibration.json'}")
    if found.recommended_dial is not None:
        out.print(
            f"ship it: tether generate {found.trained} --reference {found.model} "
            f"--dial {found.recommended_dial:g} ..."
        )


def _told(estimate: Any) -> str:
    if estimate.low is None:
        return f"{estimate.estimate:.3g}"
    return f"{estimate.estimate:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"
