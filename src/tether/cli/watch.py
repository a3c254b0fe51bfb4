"""`tether watch RUN`: a run's numbers and curves from the files it writes; the run knows nothing of it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.live import Live
from rich.text import Text

from tether.cli.output import console, print_json
from tether.errors import RunFolderError
from tether.records.results import RunRecord, read_lines, read_run

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = (
    ("loss", "train", "loss"),
    ("margin", "train", "rewards/margins"),
    ("accuracy", "train", "rewards/accuracies"),
    ("chosen", "train", "logratios/chosen"),
    ("rejected", "train", "logratios/rejected"),
    ("gradient norm", "train", "grad_norm"),
    ("held-out loss", "eval", "eval_loss"),
    ("held-out accuracy", "eval", "eval_rewards/accuracies"),
    ("KL from start", "measure", "kl_start"),
    ("entropy", "measure", "entropy"),
    ("tokens", "measure", "tokens"),
)
"""Label, phase and metric of each curve; scores of evaluators follow by their own names."""

LABEL, NUMBER, WIDTH = 18, 10, 80

Line = Mapping[str, Any]


def watch(
    run: Annotated[Path, Parameter(help="Run folder: the --output-dir of a tether train run.")],
    /,
    *,
    every: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, Parameter(negative="", help="Print what there is now, and stop.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the latest numbers as JSON, and stop.")] = False,
) -> None:
    """Show a run's numbers and curves until it ends; Ctrl-C ends the watching, not the run."""
    record, lines = _read(run)
    if json:
        print_json(latest(record, lines))
        return
    out = console()
    if once or not out.is_terminal:
        out.print(Text("\n".join(view(run, record, lines))), soft_wrap=True)
        return
    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(Text("\n".join(view(run, record, lines)), no_wrap=True), refresh=True)
                if record.status != "running":
                    return
                time.sleep(max(every, 0.1))
                record, lines = _read(run)
    except KeyboardInterrupt:
        return


def _read(run: Path) -> tuple[RunRecord, list[dict[str, Any]]]:
    if not (run / "run.json").is_file() and (run / "config.yaml").is_file():
        raise RunFolderError(f"{run}: this run has only just begun; its run.json is not written yet")
    return read_run(run), list(read_lines(run / "metrics.jsonl"))


def latest(record: RunRecord, lines: Iterable[Line]) -> dict[str, Any]:
    """Return where a run stands and the newest value of every metric."""
    newest: dict[str, Any] = {}
    step, epoch = record.steps, record.epochs
    for line in lines:
        step, epoch = line["step"], line["epoch"]
        newest |= {name: v for name, v in line.items() if name not in ("step", "epoch", "phase")}
    return {
        "status": record.status,
        "step": step,
        "planned_steps": record.planned_steps,
        "epoch": epoch,
        "latest": newest,
        "events": [event["text"] for event in record.events],
    }


def view(run: Path, record: RunRecord, lines: Sequence[Line]) -> list[str]:
    """Return the lines of the screen: where the run stands, then one curve each, newest value first."""
    state = latest(record, lines)
    objective = f"{record.objective['name']}, beta {record.objective['beta']:g}"
    head = f"{run}   {objective}, reference {record.reference['kind']}"
    text = [head[:WIDTH], _where(record, state["step"]), ""]
    scores = sorted({name for line in lines for name in line if name.startswith("scores/")})
    for label, phase, name in (*CURVES, *((score[7:], "measure", score) for score in scores)):
        values = [line[name] for line in lines if line["phase"] == phase and line.get(name) is not None]
        if values:
            text.append(_curve(label, values))
    text += ["", *(f"step {e['step']}: {e['text']}"[:WIDTH] for e in record.events[-3:])]
    return text if record.events else text[:-1]


def _where(record: RunRecord, step: int) -> str:
    total = record.planned_steps
    if record.status != "running":
        return f"{record.status} after {record.steps} of {total} updates"
    since = (datetime.now(UTC) - datetime.fromisoformat(record.created)).total_seconds()
    left = f", about {_words(since / step * (total - step))} left" if step else ""
    return f"running: update {step} of {total}{left}"


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _curve(label: str, values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    ends = f"  {low:.3g} to {high:.3g}"
    room = WIDTH - LABEL - NUMBER - 2 - len(ends)
    return f"{label:<{LABEL}}{values[-1]:>{NUMBER}.4g}  {sparkline(values, room)}{ends}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values left to right in eight heights; more of them than `width` are averaged in equal runs."""
    count = min(len(values), width)
    bounds = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    if high == low:
        return BLOCKS[0] * count
    return "".join(BLOCKS[min(int((v - low) / (high - low) * len(BLOCKS)), len(BLOCKS) - 1)] for v in means)
