"""A small study in files, and an executor that runs its cells in this process."""

import json
import os
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import gentle_model, save_model
from tests.training.conftest import rows
from tether.config.study import StudyConfig, build_study
from tether.errors import Interrupted
from tether.records.study import StudyRecord
from tether.study.bench import Bench
from tether.study.cell import run_cell
from tether.study.execute import run_study
from tether.study.executor import Event
from tether.training.track import Silent
from tether.worlds import load_world
from tether.worlds.enumerable import Enumerable


class Here:
    """An executor that runs every cell in this process, one after the other, when asked for events."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.waiting: list[str] = []
        self.events: queue.Queue[Event] = queue.Queue()
        self.alive = 1

    def submit(self, cell_id: str) -> None:
        self.waiting.append(cell_id)

    def next(self, timeout: float) -> Event | None:
        if self.events.empty() and self.waiting:
            self._run(self.waiting.pop(0))
        return None if self.events.empty() else self.events.get()

    def _run(self, cell: str) -> None:
        self.events.put({"event": "begin", "cell": cell, "worker": 0})
        try:
            record = run_cell(self.bench, cell, Silent(), worker=None)
        except Interrupted as stopped:
            self.events.put({"event": "end", "cell": cell, "state": "interrupted", "worker": 0})
            self.events.put({"event": "lost", "cell": None, "code": stopped.exit_code, "worker": 0})
            self.alive = 0
            # Here the signal meant for the study's process reached the run inside it.
            os.kill(os.getpid(), stopped.exit_code - 128)
            return
        made = dict(self.bench.shared.made)
        self.events.put(
            {"event": "end", "cell": cell, "state": record.state, "error": record.error, "worker": 0}
            | {"shared": made, "seconds": record.seconds}
        )

    def stop(self) -> None:
        self.waiting.clear()
        self.alive = 0

    def close(self) -> None:
        self.stop()


class Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[Mapping[str, Any]] = []
        self.records: list[StudyRecord] = []

    def cells(self, record: StudyRecord) -> None:
        self.records.append(record)

    def event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_here(config: StudyConfig, told: Told | None = None) -> StudyRecord:
    """Run a study in this process."""
    return run_study(config, told or Told(), lambda plan: Here(Bench(config)))


def tiny_world() -> Enumerable:
    world = load_world("enumerable-tiny")
    assert isinstance(world, Enumerable)
    return world


def world_study(folder: Path, *, pairs: int, **options: Any) -> StudyConfig:
    """Make the tiny listed world's files in this folder; return a small study of them."""
    files = tiny_world().make(folder / "world", pairs=pairs, eval_pairs=8)
    values: dict[str, Any] = {
        "model": str(files.model),
        "data": str(files.train),
        "eval_data": str(files.eval),
        "output_dir": str(folder / "study"),
        "train_batch_size": 8,
        "measured_prompts": 2,
        "kl_max_new_tokens": 4,
    }
    return build_study({**values, **options})


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., StudyConfig]:
    """Return a maker of study configs over a tiny model and 20 + 6 rows: 3 updates, 4 prompts answered."""
    folder = save_model(tmp_path / "model-in", gentle_model())
    for name, count, first in (("train", 20, 0), ("eval", 6, 100)):
        text = "".join(json.dumps(row) + "\n" for row in rows(count, first))
        (tmp_path / f"{name}.jsonl").write_text(text)

    def make(**options: Any) -> StudyConfig:
        values: dict[str, Any] = {
            "model": str(folder),
            "data": str(tmp_path / "train.jsonl"),
            "eval_data": str(tmp_path / "eval.jsonl"),
            "output_dir": str(tmp_path / "study"),
            "beta": [1, 0.1],
            "learning_rate": [1e-3],
            "max_steps": 3,
            "train_batch_size": 4,
            "logging_steps": 1,
            "kl_max_new_tokens": 6,
            "measured_prompts": 4,
        }
        return build_study({**values, **options})

    return make
