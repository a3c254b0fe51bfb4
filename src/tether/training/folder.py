"""A run is a folder: made, resumed or refused, never mixed; one process at a time."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tether.errors import RunFolderError
from tether.records.results import read_run

LOCK = ".lock"
OWN = {
    "run.json", "config.yaml", "preflight.json", "metrics.jsonl", "samples.jsonl", "samples", "reference",
    "checkpoints", "model", "report.html", "report", "cell.json", "measures", "tensorboard", "wandb", LOCK,
}  # fmt: skip
FREE_TO_CHANGE = frozenset(
    {"output_dir", "device", "save_total_limit", "parallel", "report_to", "run_name", "project"}
)
"""Config keys that may differ on resume: they change no number."""


class RunFolder:
    """The open run folder of this process; the lock goes with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._made = False

    def acquire(self) -> None:
        """Make the folder if needed and lock it.

        Raises:
            RunFolderError: another process runs here, or the folder holds something else.

        """
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be made: {error.strerror}") from error
        # A kill while the first file was written leaves its temporary name behind: that is ours too.
        own = OWN | {f"{name}.tmp" for name in OWN}
        strangers = sorted({entry.name for entry in self.path.iterdir()} - own)
        if strangers and not (self.path / "run.json").is_file():
            raise RunFolderError(
                f"{self.path}: holds {strangers[0]!r} and no run.json; choose an empty --output-dir"
            )
        lock = (self.path / LOCK).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise RunFolderError(
                f"{self.path}: process {holder} is running here; wait or choose another"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Unlock the folder; one that was made for a run that never began is taken away."""
        if self._lock is None:
            return
        if self._made and self.path.is_dir() and [entry.name for entry in self.path.iterdir()] == [LOCK]:
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.close()
        self._lock = None

    @property
    def started(self) -> bool:
        """Whether a run was started here before."""
        return (self.path / "run.json").is_file()

    def refuse_if_other(self, fingerprint: Mapping[str, Any]) -> None:
        """Compare a run's fingerprint (config, data, model, reference) with the one the folder holds.

        Raises:
            RunFolderError: they differ; lists every field that does.

        """
        known = fingerprint_of(read_run(self.path).model_dump(mode="json"))
        wanted = json.loads(json.dumps(fingerprint))
        differences = [
            f"{key} was {known.get(key)!r}, now {wanted.get(key)!r}"
            for key in sorted({*known, *wanted})
            if known.get(key) != wanted.get(key)
        ]
        if differences:
            raise RunFolderError(
                f"{self.path}: this folder holds another run: {'; '.join(differences)}; "
                "choose another --output-dir, or repeat the old options to resume"
            )


def fingerprint_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run record that must be equal for a resume."""
    result = {f"config.{key}": value for key, value in run["config"].items() if key not in FREE_TO_CHANGE}
    for part, fields in (
        ("model", ("weights", "adapter", "start_adapter", "tokenizer")),
        ("data", ("train", "eval")),
    ):
        for field in fields:
            result[f"{part}.{field}"] = run[part].get(field)
    return result
