"""Where cells run: one small protocol, and the workers of this machine behind it.

A study hands over cell ids and hears events; it never asks where a cell runs. Another executor (Slurm, Ray)
submits `python -m tether.study.worker FOLDER --cell ID`, reads the cells' `cell.json` and `metrics.jsonl`,
and gives the same events.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

WORKER = "tether.study.worker"
"""The module a worker runs; another one must do the same work (a benchmark's puts clocks around it)."""

Event = dict[str, Any]
"""As in `study.worker`, with `worker`, its number; and `lost`, with `cell`, `code`, `said`, when it ends."""


class Executor(Protocol):
    """Runs cells somewhere and tells what happens."""

    def submit(self, cell_id: str) -> None:
        """Run a cell as soon as there is room."""
        ...

    def next(self, timeout: float) -> Event | None:
        """Return the next event, or None when none came in time."""
        ...

    @property
    def alive(self) -> int:
        """How many workers have not ended; each tells `lost` when it does."""
        ...

    def stop(self) -> None:
        """Ask every running cell to save and stop; nothing new begins. Events still come."""
        ...

    def close(self) -> None:
        """Wait until nothing runs any more."""
        ...


@dataclass
class _Worker:
    number: int
    process: "subprocess.Popen[str]"
    log: Path
    cell: str | None = None
    ready: bool = False
    gone: bool = False


@dataclass
class LocalWorkers:
    """Long-lived processes of this machine, each running one cell after the other."""

    folder: Path
    count: int
    threads: int
    devices: tuple[str, ...] = ()
    """CUDA devices, one per worker in turn; none on a machine without."""
    _events: "queue.Queue[tuple[int, Event]]" = field(default_factory=queue.Queue)
    _waiting: deque[str] = field(default_factory=deque)
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _stopping: bool = False
    _started: int = 0

    def submit(self, cell_id: str) -> None:
        """Give the cell to a worker that waits, or to a new one while there may be more, or keep it."""
        self._waiting.append(cell_id)
        alive = [worker for worker in self._workers.values() if not worker.gone]
        free = sum(worker.cell is None for worker in alive)
        if len(alive) < self.count and free < len(self._waiting):
            self._start()
        self._hand_out()

    def next(self, timeout: float) -> Event | None:
        """Return the next event of any worker; a worker's death is one."""
        try:
            number, event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        worker = self._workers[number]
        event = {**event, "worker": number}
        if event["event"] in ("ready", "end"):
            worker.cell = None
            worker.ready = event["event"] == "ready"
        elif event["event"] == "lost":
            worker.gone = True
            event = {**event, "cell": worker.cell, "said": self._last_words(worker)}
            if self._waiting and not self._stopping:
                self._start()
        self._hand_out()
        return event

    @property
    def alive(self) -> int:
        """Return how many workers have not ended."""
        return sum(not worker.gone for worker in self._workers.values())

    def stop(self) -> None:
        """Tell every worker to save and end."""
        self._stopping = True
        self._waiting.clear()
        for worker in self._workers.values():
            self._send(worker, {"stop": True})

    def close(self) -> None:
        """End idle workers and wait for the others; one that does not end within a minute is killed."""
        self.stop()
        deadline = time.monotonic() + 60
        for worker in self._workers.values():
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _last_words(self, worker: _Worker) -> str:
        try:
            lines = worker.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _start(self) -> None:
        number = self._started
        self._started += 1
        log = self.folder / "shared" / "logs" / f"worker-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=self._environment(number),
                # Ctrl-C in the terminal is for the study's process, which tells its workers to save.
                start_new_session=True,
            )
        worker = _Worker(number, process, log)
        self._workers[number] = worker
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _environment(self, number: int) -> dict[str, str]:
        values = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        if self.devices:
            values["CUDA_VISIBLE_DEVICES"] = self.devices[number % len(self.devices)]
        return values

    def _listen(self, worker: _Worker) -> None:
        stream: IO[str] | None = worker.process.stdout
        assert stream is not None
        for line in stream:
            if line.endswith("\n"):
                self._events.put((worker.number, json.loads(line)))
        code = worker.process.wait()
        self._events.put((worker.number, {"event": "lost", "code": code}))

    def _hand_out(self) -> None:
        for worker in self._workers.values():
            if not self._waiting or self._stopping:
                return
            if worker.ready and worker.cell is None and not worker.gone:
                worker.cell = self._waiting.popleft()
                worker.ready = False
                self._send(worker, {"cell": worker.cell})

    def _send(self, worker: _Worker, order: dict[str, Any]) -> None:
        stream = worker.process.stdin
        try:
            if stream is not None:
                stream.write(json.dumps(order) + "\n")
                stream.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is gone: its "lost" event is on the way
