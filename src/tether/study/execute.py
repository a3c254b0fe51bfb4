"""Running a study: which cells are to do, handing them out, and keeping `study.json` true."""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from tether import __version__
from tether.config.hub import Pins
from tether.config.study import StudyConfig, of_factors, resolved
from tether.errors import Interrupted, RefusedInput, RunFolderError, TetherError, UsageError
from tether.records.results import read_lines, write_json, write_text
from tether.records.study import (
    CELL,
    CELLS,
    SHARED,
    STUDY,
    CellRecord,
    StudyRecord,
    cell_folder,
    measures,
    read_record,
    read_study,
)
from tether.study.bench import Bench
from tether.study.executor import Event, Executor, LocalWorkers
from tether.study.extras import complete
from tether.study.grid import EXCLUDED, Cell, cells, pinned_study
from tether.study.leftover import stopped, wait_for_end
from tether.study.plan import StudyPlan, plan_study
from tether.training.hardware import hardware, versions
from tether.training.score import device_of
from tether.training.signals import stop_requests

FREE_TO_CHANGE = frozenset(
    {"output_dir", "workers", "threads", "keep_checkpoints", "add", "dial", "dial_cells", "ches", "cross_fit"}
)
"""Keys that may differ when a study goes on; grids that were added stay, new ones join them."""
OWN = frozenset({".lock", "study.yaml", "study.yaml.tmp", "study.json.tmp", CELLS, SHARED})
"""What a study that was stopped early may have left."""


class StudyWatcher(Protocol):
    """Shows a study while it runs."""

    def cells(self, record: StudyRecord) -> None:
        """Show the state of every cell."""
        ...

    def event(self, event: Mapping[str, Any]) -> None:
        """Show what happened in a cell."""
        ...

    def note(self, text: str) -> None:
        """Show one thing the user should know."""
        ...


class Unwatched:
    """A watcher that shows nothing."""

    def cells(self, record: StudyRecord) -> None:
        """Ignore."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


def run_study(
    config: StudyConfig, watcher: StudyWatcher, executor: Callable[[StudyPlan], Executor] | None = None
) -> StudyRecord:
    """Run a study in its folder, or go on with it; `executor` says where cells run (here, by default).

    Raises:
        TetherError: options, data or folder are refused.
        Interrupted: a signal came; all running cells were saved.

    """
    folder = StudyFolder(config)
    bench = Bench(folder.config)
    with folder.locked():
        began = time.monotonic()
        known = folder.known()
        plan = plan_study(bench, timing=False)
        record = folder.begin(known, complete(bench))
        for text in told(plan) if plan.finished < plan.cells else told(plan)[:1]:
            watcher.note(text)
        made = added(record.shared.get("made", {}), bench.shared.made)
        shared = {**record.shared, "workers": plan.workers, "threads": plan.threads, "made": made}
        timing = {**record.timing, "prepare": time.monotonic() - began}
        record = record.model_copy(update={"shared": shared, "timing": timing})
        workers = executor(plan) if executor else local_workers(folder.path, plan, bench)
        return Running(folder, record, workers, watcher).run()


def local_workers(folder: Path, plan: StudyPlan, bench: Bench) -> LocalWorkers:
    """Return the workers of this machine: on GPUs one device each, among those that are visible."""
    devices: tuple[str, ...] = ()
    if device_of(bench.common.device).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = tuple(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))
    return LocalWorkers(folder, plan.workers, plan.threads, devices)


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of several counts, name by name."""
    names = dict.fromkeys(name for count in counts for name in count)
    return {name: sum(count.get(name, 0) for count in counts) for name in names}


def told(plan: StudyPlan) -> list[str]:
    """Return the plan in a few lines."""
    scored, alone = sum(plan.references.values()), sum(plan.alone.values())
    lines = [
        f"{many(plan.cells, 'cell')}, {plan.finished} finished; {many(plan.updates, 'update')} to do; "
        f"{many(plan.held_out, 'row')} held out, {many(plan.prompts, 'prompt')} to answer",
        f"references scored {many(scored, 'time')} instead of {alone}; "
        "rows read and start model measured once",
        f"{many(plan.workers, 'worker')} of {many(plan.threads, 'thread')}, {plan.memory_mib:.0f} MiB each "
        f"({plan.memory_free_mib:.0f} free); {plan.disk_mib:.0f} MiB of disk ({plan.disk_free_mib:.0f} free)",
    ]
    unasked = {reason: count for reason, count in plan.skipped.items() if reason != EXCLUDED}
    return [*lines, *(f"left out: {count} x {reason}" for reason, count in unasked.items())]


def known_names(folder: Path) -> dict[str, str]:
    """Return the models of the hub a study in this folder asked for, with the commits it uses."""
    return read_study(folder).hub if (folder / STUDY).is_file() else {}


def known_additions(folder: Path) -> list[dict[str, Any]]:
    """Return the grids added to the study in this folder so far."""
    return list(read_study(folder).config.get("add", ())) if (folder / STUDY).is_file() else []


def many(number: int, word: str) -> str:
    """Return `1 cell` or `3 cells`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


class StudyFolder:
    """A study on disk, open in one process."""

    def __init__(self, config: StudyConfig) -> None:
        self.path = Path(config.output_dir)
        pins = Pins(known_names(self.path))
        pinned = pinned_study(config, pins)
        # Cells that were added stay, whichever file the study is run from again.
        added_before = of_factors(known_additions(self.path))
        later = tuple(entry for entry in pinned.add if entry not in added_before)
        self.config = pinned.model_copy(update={"add": (*added_before, *later)})
        self.hub = pins.made
        self.cells, self.skipped = cells(self.config)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Be the only process that runs this study.

        Raises:
            RunFolderError: another one runs it, or the folder holds something else.

        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be made: {error.strerror}") from error
        self.refuse_strangers()
        with (self.path / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunFolderError(f"{self.path}: another process runs this study; wait for it") from error
            yield

    def refuse_strangers(self) -> None:
        """Refuse a folder of something else.

        Raises:
            RunFolderError: it holds other files and no study, or is no folder.

        """
        if not self.path.exists() or (self.path / STUDY).is_file():
            return
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: is no folder; choose another --output-dir")
        strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in OWN)
        if strangers:
            raise RunFolderError(
                f"{self.path}: holds {strangers[0]!r} and no study; choose another --output-dir"
            )

    def known(self) -> StudyRecord | None:
        """Return the study the folder holds, if any.

        Raises:
            RunFolderError: it has other options; lists what differs.

        """
        known = read_study(self.path) if (self.path / STUDY).is_file() else None
        if known is not None:
            self._same(known)
        return known

    def begin(self, known: StudyRecord | None, complete: Set[str]) -> StudyRecord:
        """Write the study's record, or take the old one up again, every cell in the state it was left in.

        A finished cell that is not in `complete` has something left to measure and is open again.
        """
        records = tuple(self._cell(cell, complete) for cell in self.cells)
        named = [*self.config.evaluators, self.config.judge or ""]
        record = StudyRecord(
            study_id=known.study_id if known else secrets.token_hex(8),
            created=known.created if known else datetime.now(UTC).isoformat(timespec="seconds"),
            tether_version=__version__,
            status="running",
            config=resolved(self.config),
            cells=records,
            # What the user left out on purpose stands in the options already.
            skipped=tuple(entry for entry in self.skipped if entry["reason"] != EXCLUDED),
            hub={**known.hub, **self.hub} if known else self.hub,
            shared=known.shared if known else {},
            timing=known.timing if known else {},
            versions=versions(),
            hardware=hardware(device_of(self.cells[0].config.device)),
            evaluators=known.evaluators if known else (),
            judge=self.config.judge,
            world=next((name.partition(":")[2] for name in named if name.startswith("world:")), None),
            prompts=known.prompts if known else (),
        )
        write_text(self.path / "study.yaml", yaml.safe_dump(resolved(self.config), sort_keys=False))
        write_json(self.path / STUDY, record)
        for cell in records:
            home = cell_folder(self.path, cell.cell_id)
            home.mkdir(parents=True, exist_ok=True)
            write_json(home / CELL, cell)
        return record

    def _cell(self, cell: Cell, complete: Set[str]) -> CellRecord:
        home = cell_folder(self.path, cell.cell_id)
        if not (home / CELL).is_file():
            return CellRecord(cell_id=cell.cell_id, factors=cell.factors)
        record = read_record(CellRecord, home / CELL)
        if record.state == "running":
            wait_for_end(record.worker)
            record = read_record(CellRecord, home / CELL)
        if record.state == "running":
            # Its worker was killed: that is no fault of the cell.
            return stopped(record)
        if record.state == "finished" and cell.cell_id not in complete:
            return record.model_copy(update={"state": "interrupted"})
        return record

    def _same(self, known: StudyRecord) -> None:
        old, new = known.config, resolved(self.config)
        differences = [
            f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
            for key in sorted({*old, *new} - FREE_TO_CHANGE)
            if old.get(key) != new.get(key)
        ]
        if differences:
            raise RunFolderError(
                f"{self.path}: this folder holds another study: {'; '.join(differences)}; add cells with "
                "tether study add, or choose another --output-dir"
            )


class Running:
    """One process's run of a study: what is open, what was lost, what was told."""

    def __init__(
        self, folder: StudyFolder, record: StudyRecord, executor: Executor, watcher: StudyWatcher
    ) -> None:
        self.folder, self.record, self.executor, self.watcher = folder, record, executor, watcher
        self.open = {cell.cell_id for cell in record.cells if cell.state != "finished"}
        self.lost: dict[str | None, int] = {}
        self.stopping = False
        self._made: dict[int, dict[str, int]] = {}
        self._began = time.monotonic()
        self._before = record.timing.get("wall", 0.0)
        self._earlier = dict(record.shared.get("made", {}))

    def run(self) -> StudyRecord:
        """Run every cell that is not finished; cells that failed before are tried once more.

        Raises:
            Interrupted: a signal came; all running cells were saved.
            TetherError: no worker could be started.

        """
        for cell in self.record.cells:
            if cell.cell_id in self.open:
                self.executor.submit(cell.cell_id)
        self.watcher.cells(self.record)
        with stop_requests() as stop:
            try:
                while self.open and not (self.stopping and self.executor.alive == 0):
                    if stop.signal_number is not None and not self.stopping:
                        self.stopping = True
                        self.watcher.note("stopping: running cells save their state")
                        self.executor.stop()
                    event = self.executor.next(0.2)
                    if event is not None:
                        self._hear(event)
            finally:
                self.executor.close()
                self._end_running()
                self._write("interrupted" if self.open else "finished")
        if self.open:
            number = stop.signal_number or 15
            raise Interrupted(
                f"stopped by signal {number} with {many(len(self.open), 'cell')} left; what was running is "
                "saved: run the same command to go on",
                number,
            )
        return self.record

    def _hear(self, event: Event) -> None:
        name, cell = event["event"], event.get("cell")
        if name == "broken":
            raise (UsageError if event["code"] == 2 else RefusedInput)(event["error"])
        self.watcher.event(event)
        self._made[event["worker"]] = event.get("shared", self._made.get(event["worker"], {}))
        if name == "end" and event["state"] in ("finished", "failed"):
            self.open.discard(cell)
        elif name == "lost" or (name == "end" and not self.stopping):
            self._lose(event, cell)
        if name in ("begin", "end", "lost"):
            self._write("running")

    def _lose(self, event: Event, cell: str | None) -> None:
        """Give a cell whose worker died a second try; a worker that cannot start ends the study."""
        if self.stopping or (cell is None and event.get("code") in (0, None)):
            return
        self.lost[cell] = self.lost.get(cell, 0) + 1
        why = f"its worker ended with status {event.get('code')}" + (
            f": {event['said']}" if event.get("said") else ""
        )
        if cell is None:
            if self.lost[None] > 2:
                raise TetherError(f"no worker can be started: {why}")
            return
        if self.lost[cell] < 2:
            self.watcher.note(f"{cell}: {why}; it is tried once more")
            self.executor.submit(cell)
            return
        self.open.discard(cell)
        path = cell_folder(self.folder.path, cell) / CELL
        record = read_record(CellRecord, path)
        write_json(path, record.model_copy(update={"state": "failed", "error": f"twice {why}"}))

    def _end_running(self) -> None:
        """Say of cells whose worker ended outside of training that they were stopped: nothing runs now."""
        for cell in self.record.cells:
            path = cell_folder(self.folder.path, cell.cell_id) / CELL
            record = read_record(CellRecord, path)
            if record.state == "running":
                write_json(path, stopped(record))

    def _write(self, status: str) -> None:
        """Bring `study.json` up to date."""
        path = self.folder.path
        seconds = self._before + time.monotonic() - self._began
        made = added(self._earlier, *self._made.values())
        start = measures(path / SHARED / "start")
        self.record = self.record.model_copy(
            update={
                "status": status,
                "cells": tuple(
                    read_record(CellRecord, cell_folder(path, cell.cell_id) / CELL)
                    for cell in self.record.cells
                ),
                "timing": {**self.record.timing, "wall": seconds},
                "shared": {**self.record.shared, "made": made},
                "evaluators": tuple(start.scores) if start else (),
                "prompts": tuple(line["row_id"] for line in read_lines(path / SHARED / "prompts.jsonl")),
            }
        )
        write_json(path / STUDY, self.record)
        self.watcher.cells(self.record)
