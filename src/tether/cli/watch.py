"""`tether watch RUN`: a run's numbers and curves from the files it writes; the run knows nothing of it."""

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tether.cli.output import console, print_json
from tether.errors import RunFolderError
from tether.records.results import RunRecord, read_lines, read_run
from tether.training.folder import LOCK

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
QUIET = 60.0
"""Seconds without a new line after which that is said."""

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
    out = console()
    if json:
        print_json(latest(*_read(run)))
    elif once or not out.is_terminal:
        out.print(Text("\n".join(view(run, *_read(run)))), soft_wrap=True)
    else:
        _follow(run, every, out)


def _follow(run: Path, every: float, out: Console) -> None:
    try:
        _wait(run, every)
        record, lines = _read(run)
        pace = Pace(time.monotonic(), latest(record, lines)["step"])
        with Live(console=out, auto_refresh=False) as screen:
            while True:
                screen.update(Text("\n".join(view(run, record, lines, pace)), no_wrap=True), refresh=True)
                if record.status != "running":
                    return
                time.sleep(max(every, 0.1))
                record, lines = _read(run)
    except KeyboardInterrupt:
        return


class Pace(NamedTuple):
    """Where the run stood when the watching began, and when that was."""

    began: float
    step: int

    def left(self, step: int, total: int) -> float | None:
        """Return the seconds the other updates take at the pace seen, or None before any was."""
        seen = step - self.step
        return (time.monotonic() - self.began) / seen * (total - step) if seen > 0 else None


def _wait(run: Path, every: float) -> None:
    """Wait for a run that has begun to write its record."""
    told = False
    while not (run / "run.json").is_file() and _process(run):
        if not told:
            console().print(f"{run}: reading data and model; waiting for the first update (Ctrl-C ends)")
        told = True
        time.sleep(max(every, 0.1))


def _process(run: Path) -> int | None:
    """Return the process that runs here, if it is on this machine."""
    lock = run / LOCK
    try:
        number = int(lock.read_text())
    except (OSError, ValueError):
        return None
    try:
        # The number alone may be another process's by now; only the run itself has its lock open.
        held = any(entry.exists() and entry.samefile(lock) for entry in Path(f"/proc/{number}/fd").iterdir())
    except PermissionError:
        return number  # another user's process: its number is all that can be seen
    except OSError:
        return None
    return number if held else None


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


def view(run: Path, record: RunRecord, lines: Sequence[Line], pace: Pace | None = None) -> list[str]:
    """Return the lines of the screen: where the run stands, then one curve each, newest value first."""
    state = latest(record, lines)
    objective = f"{record.objective['name']}, beta {record.objective['beta']:g}"
    head = f"{run}   {objective}, reference {record.reference['kind']}"
    text = [head[:WIDTH], *_where(run, record, state["step"], pace), ""]
    scores = sorted({name for line in lines for name in line if name.startswith("scores/")})
    for label, phase, name in (*CURVES, *((score[7:], "measure", score) for score in scores)):
        values = [line[name] for line in lines if line["phase"] == phase and line.get(name) is not None]
        if values:
            text.append(_curve(label, values))
    for event in record.events[-3:]:
        text += ["", *textwrap.wrap(f"step {event['step']}: {event['text']}", WIDTH, subsequent_indent="  ")]
    return text


def _where(run: Path, record: RunRecord, step: int, pace: Pace | None) -> list[str]:
    total = record.planned_steps
    if record.status != "running":
        return [f"{record.status} after {record.steps} of {total} updates"]
    told = f"running: update {step} of {total}"
    silent = time.time() - max(_written(run / name) for name in ("metrics.jsonl", "run.json"))
    if silent > QUIET:
        gone = "" if _process(run) else "; its process is not on this machine (the same command resumes)"
        return textwrap.wrap(f"{told}; no news for {_words(silent)}{gone}", WIDTH)
    since = (datetime.now(UTC) - datetime.fromisoformat(record.created)).total_seconds()
    seconds = pace.left(step, total) if pace else None
    if seconds is None and step:
        seconds = since / step * (total - step)
    return [told if seconds is None else f"{told}, about {_words(seconds)} left"]


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


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
