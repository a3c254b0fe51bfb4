"""What a spec names: files, folders, globs, splits of the hub, rows in memory; each a stream of raw rows."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tether.config.sources import HubName, hub_name
from tether.data.hub import read_hub
from tether.data.raw import BadRow, RawRow, checked_value
from tether.data.sources import expand, iter_raw
from tether.records.results import file_digest
from tether.records.rows import Origin, Preference

Spec = str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]]
"""A file, folder, glob or split of the hub, several of them, or rows in memory."""


@dataclass(frozen=True)
class Input:
    """One file, one split of the hub, or rows in memory."""

    split: Literal["train", "eval"]
    path: Path | None
    name: str
    values: Sequence[Any] = ()
    hub: HubName | None = None
    source: int = 0
    """Which of the named sources it belongs to."""
    _hash: Any = field(default_factory=hashlib.sha256)

    def raw_rows(self, name: str) -> Iterator[RawRow]:
        """Yield the rows; `name` is what row ids begin with."""
        if self.path is not None:
            yield from iter_raw(self.path, name)
        elif self.hub is not None:
            for raw in read_hub(self.hub, name):
                # The digest is of what was read: the hub may hold something else tomorrow.
                self._hash.update(json.dumps(raw.value, sort_keys=True, default=repr).encode())
                yield raw
        else:
            for index, value in enumerate(self.values):
                yield _in_memory(Origin(name, index), value)

    def digest(self) -> str:
        """Return the SHA-256 of the file, or of the rows that were read."""
        if self.path is not None:
            return file_digest(self.path)
        if self.hub is not None:
            return self._hash.hexdigest()
        text = json.dumps(list(self.values), sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()

    def mark(self, row: Preference) -> Preference:
        """Return the row with the source it came from."""
        return row if self.source == 0 else replace(row, origin=replace(row.origin, source=self.source))


def _in_memory(origin: Origin, value: Any) -> RawRow:
    try:
        return RawRow(origin, dict(checked_value(value)))
    except BadRow as problem:
        return RawRow(origin, None, str(problem), problem.kind)


def inputs(spec: Spec, split: Literal["train", "eval"]) -> list[Input]:
    """Return what a spec names, in order.

    Raises:
        DataError: nothing there, or a file named twice.

    """
    parts: list[Any] = [spec] if isinstance(spec, str | Path) else list(spec)
    if not parts or not all(isinstance(part, str | Path) for part in parts):
        return [Input(split, None, "rows" if split == "train" else "eval rows", parts)]
    paths = [part for part in parts if hub_name(str(part)) is None]
    if paths:
        expand(paths)
    found: list[Input] = []
    for number, part in enumerate(parts):
        named = hub_name(str(part))
        if named is not None:
            found.append(Input(split, None, str(named), hub=named, source=number))
        else:
            found += [Input(split, path, path.name, source=number) for path in expand(part)]
    return found
