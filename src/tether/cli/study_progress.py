"""What a study shows while it runs: a live table of running cells on a terminal, plain lines elsewhere."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tether.cli.progress import clock, silence_downloads
from tether.records.study import StudyRecord
from tether.study.collect import cell_labels

SCORING = re.compile(r"scoring the reference.*: (\d+) of (\d+) rows")


@dataclass
class _Row:
    cell: str
    began: float
    first: tuple[int, float] | None = None
    """Step and time of the first report, for the time left."""
    stage: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    margin: float | None = None

    def left(self, now: float) -> float | None:
        """Return the seconds of training left, from the updates seen so far."""
        if self.first is None or self.step <= self.first[0]:
            return None
        return (now - self.first[1]) / (self.step - self.first[0]) * (self.total - self.step)


class StudyTerminal:
    """Shows a study on standard error; standard output stays free for results."""

    def __init__(self, *, quiet: bool = False) -> None:
        if quiet:
            silence_downloads()
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        self._rows: dict[str, _Row] = {}
        self._record: StudyRecord | None = None
        self._labels: dict[str, str] = {}
        self._began = time.monotonic()
        self._done_before = 0

    def close(self) -> None:
        """End the live table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def cells(self, record: StudyRecord) -> None:
        """Show how many cells are done, failed, running."""
        if self._record is None or len(record.cells) != len(self._record.cells):
            self._began = time.monotonic()
            self._done_before = sum(cell.state == "finished" for cell in record.cells)
            self._labels = cell_labels(record)
        self._record = record
        self._draw()

    def stage(self, text: str) -> None:
        """Show what is being done before the first cell."""
        self._show(Text(f"{text} ...", no_wrap=True, overflow="ellipsis"))

    def note(self, text: str) -> None:
        """Print one thing the user should know."""
        if not self._quiet:
            self._console.print(Text(text))

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in what happened in a cell."""
        name, cell, now = event["event"], event.get("cell"), time.monotonic()
        if cell is None:
            return
        if name == "begin":
            self._rows[cell] = _Row(cell, now)
        row = self._rows.get(cell)
        if row is None:
            return
        if name == "stage":
            row.stage = SCORING.sub(r"scored \1 of \2", event["text"])
        elif name == "step":
            row.step, row.total, row.loss = event["step"], event["total"], event["loss"]
            row.first = row.first or (row.step, now)
            row.stage = ""
        elif name == "log":
            line = event["line"]
            row.margin = line.get("rewards/margins", line.get("eval_rewards/margins", row.margin))
        elif name in ("end", "lost"):
            self._rows.pop(cell)
            self._end(row, event)
        self._draw()

    def _end(self, row: _Row, event: Mapping[str, Any]) -> None:
        state = event.get("state", "lost")
        said = f": {event['error']}" if event.get("error") else ""
        loss = "" if row.loss is None else f", loss {row.loss:.4f}"
        name = self._labels.get(row.cell, row.cell)
        self.note(f"{name}: {state}{said} after {clock(time.monotonic() - row.began)}{loss}")

    def _draw(self) -> None:
        summary = Text(self._summary(), no_wrap=True, overflow="ellipsis")
        self._show(Group(self._table(), summary) if self._rows else summary)

    def _show(self, what: RenderableType) -> None:
        if self._quiet or not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(what)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("cell", overflow="ellipsis", no_wrap=True, max_width=36)
        table.add_column("step", justify="right", overflow="ellipsis", no_wrap=True, max_width=22)
        for name in ("loss", "margin", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        now = time.monotonic()
        for row in self._rows.values():
            left = None if row.stage else row.left(now)
            table.add_row(
                self._labels.get(row.cell, row.cell),
                row.stage or f"{row.step}/{row.total}",
                "" if row.loss is None else f"{row.loss:.4f}",
                "" if row.margin is None else f"{row.margin:.3f}",
                "" if left is None else clock(left),
            )
        return table

    def _summary(self) -> str:
        if self._record is None:
            return ""
        states = [cell.state for cell in self._record.cells]
        done, failed = states.count("finished"), states.count("failed")
        text = f"{done} of {len(states)} cells finished" + (f", {failed} failed" if failed else "")
        waiting = len(states) - done - failed
        if not waiting:
            return f"{text}; writing findings and page"
        # A cell that is trained is still to be measured.
        begun = sum(0.9 * row.step / row.total for row in self._rows.values() if row.total)
        passed = done - self._done_before + begun
        if passed > 0:
            each = (time.monotonic() - self._began) / passed
            text += f"; about {clock(each * max(waiting - begun, 0))} left"
        elif not self._rows:
            text += "; starting workers"
        return text
