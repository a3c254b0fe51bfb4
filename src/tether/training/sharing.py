"""What runs of one process, or of one folder of runs, take over from one another. A run alone shares nothing.

Every entry is keyed by all it depends on, so a run that takes it over computes the same bits as one that made
it itself. Rows and reference tables are also kept on disk: another process waits for the one that makes them.
"""

import copy
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from tether.config.launch import process_count
from tether.errors import RunFolderError, UsageError
from tether.policies.artifact import MANIFEST
from tether.policies.load import LoadedModel
from tether.records.results import write_json, write_text
from tether.records.rows import canonical_json

ONE_AT_A_TIME = frozenset({"scorers", "reference tokens"})
"""Entries that hold a model of their own: only the last of each name stays loaded."""

Made = TypeVar("Made")
Key = Mapping[str, Any]


class Shared:
    """Keeps nothing: every run makes its own."""

    def once(self, name: str, key: Key, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, made at most once per process for this key."""
        return make()

    def stored(self, name: str, key: Key, kind: type[Made], make: Callable[[], Made]) -> Made:
        """Return what `make` gives, made at most once per folder; `kind` is a dataclass of plain values."""
        return make()

    def model(self, key: Key, make: Callable[[], LoadedModel], *, frozen: bool) -> LoadedModel:
        """Return a model of the caller's own; where `frozen`, its weights may be shared: leave them."""
        return make()

    def hold(self, name: str, now: Mapping[str, str | None]) -> None:
        """Hold all runs to one thing under this name; a run alone has nothing to be held to."""

    @contextmanager
    def reference(self, folder: Path, key: Key) -> Generator[None]:
        """Hold the one place where this reference is made; `folder` holds it on entry if it was made."""
        yield


class Kept(Shared):
    """Keeps what was made: in memory for this process, under `folder` for all that use it.

    Raises:
        UsageError: torchrun started this process. Processes of one run wait for each other in exchanges; one
            that waits for a file lock another holds would never come.

    """

    def __init__(self, folder: Path) -> None:
        if process_count() > 1:
            raise UsageError(f"{folder.parent}: a study starts workers of its own; start it without torchrun")
        self._folder = folder
        self._memory: dict[str, Any] = {}
        self._last: dict[str, str] = {}
        """Place of the entry that stays, by names of which only the last does."""
        self.made: dict[str, int] = {}
        """How often each kind of entry had to be made here."""

    def once(self, name: str, key: Key, make: Callable[[], Made]) -> Made:
        """Return the entry, made now if this process does not have it."""
        place = _place(name, key)
        if place not in self._memory:
            self.made[name] = self.made.get(name, 0) + 1
            if name in ONE_AT_A_TIME:
                self._memory.pop(self._last.get(name, ""), None)
                self._last[name] = place
            self._memory[place] = make()
        return self._memory[place]

    def stored(self, name: str, key: Key, kind: type[Made], make: Callable[[], Made]) -> Made:
        """Return the entry from memory, from disk, or made now."""
        place = _place(name, key)
        if place in self._memory:
            return self._memory[place]
        path = self._folder / name / f"{place}.json"
        with self.lock(name, place):
            if path.is_file():
                self._memory[place] = TypeAdapter(kind).validate_json(path.read_bytes())
                return self._memory[place]
            value = self.once(name, key, make)
            try:
                write_text(path, TypeAdapter(kind).dump_json(value).decode())
            except PydanticSerializationError:
                return value  # a text with half a character in it has no JSON: every process reads it itself
        return value

    def model(self, key: Key, make: Callable[[], LoadedModel], *, frozen: bool) -> LoadedModel:
        """Return a copy of the model loaded once; a frozen one shares its weights with the original."""
        loaded = self.once("models", key, make)
        model: Any = loaded.model
        tensors = [*model.parameters(), *model.buffers()] if frozen else []
        own = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        return replace(loaded, model=own)

    def hold(self, name: str, now: Mapping[str, str | None]) -> None:
        """Hold every run of this folder to what the first one found under this name.

        Raises:
            RunFolderError: it is something else now; a run of it beside the others would compare two things.

        """
        place = _place("names", {"name": name})
        path = self._folder / "names" / f"{place}.json"
        with self.lock("names", place):
            if not path.is_file():
                write_json(path, {"name": name, **now})
            known = json.loads(path.read_text())
        for key, value in now.items():
            if known.get(key) != value:
                raise RunFolderError(
                    f"{name}: not what this study began with: {key} {value}, was {known.get(key)}; "
                    "put it back, or start another study"
                )

    @contextmanager
    def reference(self, folder: Path, key: Key) -> Generator[None]:
        """Bring the reference in before, and keep it after, alone among all processes."""
        place = _place("references", key)
        kept = self._folder / "references" / place
        with self.lock("references", place):
            if (kept / MANIFEST).is_file() and not (folder / MANIFEST).is_file():
                _copy(kept, folder)
            yield
            if (folder / MANIFEST).is_file() and not (kept / MANIFEST).is_file():
                self.made["references"] = self.made.get("references", 0) + 1
                _copy(folder, kept)

    @contextmanager
    def lock(self, name: str, place: str) -> Generator[None]:
        """Be alone with one entry among all processes that use the folder."""
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        with (self._folder / name / f"{place}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _place(name: str, key: Key) -> str:
    return hashlib.sha256(f"{name} {canonical_json(dict(key))}".encode("utf-8", "surrogatepass")).hexdigest()[
        :32
    ]


def _copy(source: Path, target: Path) -> None:
    """Copy a finished folder, the manifest last: a run folder stays whole wherever it is moved."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == MANIFEST):
        shutil.copyfile(path, target / path.name)
