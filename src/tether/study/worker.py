"""A worker of a study: `python -m tether.study.worker FOLDER`, one JSON object per line in and out.

    in    {"cell": ID}          run this cell
          {"stop": true}        save and end; so does the end of the input (the study's process is gone)
    out   {"event": "ready"}    waiting for a cell
          {"event": "begin" | "stage" | "step" | "log" | "note" | "end", "cell": ID, ...}

Nothing but JSON passes, so a worker may as well stand on another machine that sees the same folder:
`--cell ID` runs one cell and ends. Standard output carries events only; whatever else prints goes to the
worker's log.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tether.config.study import build_study
from tether.errors import Interrupted, TetherError
from tether.records.study import read_study
from tether.study.bench import Bench
from tether.study.cell import failure, run_cell


class Events:
    """Writes what happens in a cell as JSON lines; a reader that is gone does not matter."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.cell: str | None = None
        self._last = 0

    def tell(self, event: str, **values: Any) -> None:
        """Write one event of the current cell."""
        document = {"event": event, "cell": self.cell, **values}
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stream.write(json.dumps(document, allow_nan=False) + "\n")
            self._stream.flush()

    def stage(self, text: str) -> None:
        """Tell that a stage began."""
        self.tell("stage", text=text)

    def log(self, line: Mapping[str, Any], *, total: int) -> None:
        """Tell one line of metrics."""
        self.tell("log", line=dict(line), total=total)

    def step(self, step: int, total: int, loss: float) -> None:
        """Tell that an update was done, a hundred times per cell at most."""
        if step == total or step * 100 // total != self._last:
            self._last = step * 100 // total
            self.tell("step", step=step, total=total, loss=loss)

    def note(self, text: str) -> None:
        """Tell one thing the user should know."""
        self.tell("note", text=text)


def main() -> int:
    """Run cells until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tether.study.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cell", help="run this cell and end")
    arguments = parser.parse_args()
    # Ctrl-C in the terminal reaches the whole group: the study's process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    events = Events(_own_output())
    try:
        study = read_study(arguments.folder)
        config = build_study(
            {**study.config, "output_dir": str(arguments.folder)}, source=str(arguments.folder)
        )
        bench = Bench(config)
    except TetherError as error:
        events.tell("broken", error=failure(error), code=error.exit_code)
        return error.exit_code
    if arguments.cell:
        return _run(bench, events, arguments.cell)
    orders = Orders()
    threading.Thread(target=orders.listen, args=(sys.stdin,), daemon=True).start()
    events.tell("ready")
    while (cell := orders.next()) is not None:
        status = _run(bench, events, cell)
        if status > 128:
            return status
        orders.busy = False
        events.tell("ready")
    return 0


class Orders:
    """What the study's process asks for, heard in a thread of its own."""

    def __init__(self) -> None:
        self._cells: queue.Queue[str | None] = queue.Queue()
        self.busy = False
        self._stopping = False

    def next(self) -> str | None:
        """Return the next cell, or None at the end."""
        cell = self._cells.get()
        # Busy first, stopping second; `listen` the other way round: one of the two sees the other.
        self.busy = cell is not None
        return None if self._stopping else cell

    def listen(self, stream: IO[str]) -> None:
        """Take orders; at the end of the input, or when told, stop the cell that is running."""
        for line in stream:
            order = json.loads(line)
            if order.get("stop"):
                break
            self._cells.put(order["cell"])
        self._stopping = True
        self._cells.put(None)
        if self.busy:
            os.kill(os.getpid(), signal.SIGTERM)


def _run(bench: Bench, events: Events, cell: str) -> int:
    events.cell = cell
    events.tell("begin")
    try:
        record = run_cell(bench, cell, events, worker=os.getpid())
    except Interrupted as stopped:
        events.tell("end", state="interrupted", shared=bench.shared.made)
        return stopped.exit_code
    events.tell(
        "end", state=record.state, error=record.error, seconds=record.seconds, shared=bench.shared.made
    )
    return 0 if record.state == "finished" else 1


def _end(number: int, frame: Any) -> None:
    """End at once: outside training nothing is half-written that would not be made again."""
    os._exit(128 + number)


def _own_output() -> IO[str]:
    """Keep standard output for events; whatever else prints goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    sys.exit(main())
