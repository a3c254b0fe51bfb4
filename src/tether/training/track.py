"""The run's own record: metrics.jsonl, weighted sums between log lines, and what the terminal shows."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from tether.records.results import Phase, read_lines, write_lines
from tether.training.trackers import Trackers


class Sums:
    """Weighted means that never depend on how rows were batched: a sum and a count per name."""

    def __init__(self, state: Mapping[str, list[float]] | None = None) -> None:
        self.values: dict[str, list[float]] = {name: list(pair) for name, pair in (state or {}).items()}

    def add(self, name: str, total: float, count: float) -> None:
        """Add a sum over `count` units."""
        entry = self.values.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count

    def add_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Add one value per pair for every name."""
        for name, vector in vectors.items():
            if vector.numel():
                self.add(name, float(vector.double().sum()), vector.numel())

    def means(self) -> dict[str, float]:
        """Return the mean of every name."""
        return {name: total / count for name, (total, count) in self.values.items() if count}


class Watcher(Protocol):
    """Shows a run while it runs: a terminal line, a test's list, a page."""

    def stage(self, text: str) -> None:
        """Say that a stage began (loading, scoring, training)."""
        ...

    def log(self, line: Mapping[str, Any], *, total: int) -> None:
        """Show one line of metrics."""
        ...

    def step(self, step: int, total: int, loss: float) -> None:
        """Show that an update was done."""
        ...

    def note(self, text: str) -> None:
        """Show one thing the user should know."""
        ...


class Silent:
    """A watcher that shows nothing."""

    def stage(self, text: str) -> None:
        """Ignore."""

    def log(self, line: Mapping[str, Any], *, total: int) -> None:
        """Ignore."""

    def step(self, step: int, total: int, loss: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class MetricsFile:
    """Appends flat lines to metrics.jsonl; on resume, lines after the checkpoint are taken back.

    Of several processes only the first one writes (`writes`). Every line also goes to `trackers`.
    """

    def __init__(self, path: Path, *, writes: bool = True, trackers: Trackers | None = None) -> None:
        self.path, self._writes = path, writes
        self.trackers = trackers or Trackers()

    def rewind(self, step: int) -> None:
        """Keep only what the checkpoint of `step` had already seen."""
        if not self._writes:
            return
        kept = [line for line in read_lines(self.path) if line["step"] <= step]
        write_lines(self.path, kept)

    def append(
        self, step: int, epoch: float, phase: Phase, values: Mapping[str, float | int | None]
    ) -> dict[str, Any]:
        """Write one line and return it."""
        line = {"step": step, "epoch": round(epoch, 6), "phase": phase, **values}
        if not self._writes:
            return line
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.trackers.write(line)
        return line


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
