"""Files as raw rows: what a path means, which reader a suffix gets, and a file's digest.

Readers are named by import string and loaded when a file needs them: the first step of a run on JSONL must
not pay for Arrow (about 0.3 s).
"""

import difflib
import glob
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tether.config.sources import is_hub_name
from tether.data.raw import RawRow
from tether.errors import DataError

__all__ = ["READERS", "RawRow", "expand", "iter_raw", "labels"]

READERS = {
    ".jsonl": "tether.data.jsontext:read_lines",
    ".ndjson": "tether.data.jsontext:read_lines",
    ".json": "tether.data.jsontext:read_document",
    ".csv": "tether.data.csvtext:read_table",
    ".tsv": "tether.data.csvtext:read_table",
    ".parquet": "tether.data.parquet:read_parquet",
}
"""Suffix -> reader; all but Parquet may be gzipped (`.jsonl.gz`)."""

NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "world.json"}
"""Files beside the data in folders that `datasets` and `tether world make` write."""

_SPLIT = re.compile(r"^(train|test|validation|valid|val|eval|dev)(?=[-_.\d]|$)", re.IGNORECASE)


def expand(spec: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the data files a file, folder or glob names (or several of them), sorted within each.

    Raises:
        DataError: nothing there, a suffix without a reader, a file named twice, or a folder that holds
            training and held-out files side by side.

    """
    specs: list[str | Path] = [spec] if isinstance(spec, str | Path) else list(spec)
    if not specs:
        raise DataError("no data file was named")
    files = [path for one in specs for path in _expand_one(one)]
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise DataError(f"{path}: named twice; its rows would count twice")
        seen.add(path.resolve())
    return files


def _expand_one(spec: str | Path) -> list[Path]:
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if _suffix(path) is None:
            raise DataError(f"{path}: no reader for this name; known: {', '.join(READERS)} (.gz too)")
        return [path]
    if any(mark in str(spec) for mark in "*?["):
        found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if p.is_file()]
        files = [p for p in found if _suffix(p) is not None]
        if files:
            return files
        what = f"matches {len(found)} files but none is {', '.join(READERS)}" if found else "matches no file"
        raise DataError(f"{spec}: {what}")
    split = f"; a data set of the hub is named with its split: {spec}:train" if is_hub_name(str(spec)) else ""
    raise DataError(f"{spec}: no such file, folder or pattern{_nearest(path)}{split}")


def _folder(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    data = [p for p in files if _suffix(p) is not None and p.name not in NOT_ROWS]
    if not data:
        arrow = any(p.suffix == ".arrow" for p in files)
        hint = (
            "; write it with Dataset.to_parquet" if arrow else f"; looked for {', '.join(READERS)} (.gz too)"
        )
        raise DataError(f"{folder}: holds no data file{hint}")
    splits = {match[1].lower() for p in data if (match := _SPLIT.match(p.name))}
    if "train" in splits and len(splits) > 1:
        example = next(p for p in data if p.name.lower().startswith("train"))
        raise DataError(
            f"{folder}: holds training and held-out files ({', '.join(sorted(splits))}); "
            f"name the ones you mean, such as {example}"
        )
    return data


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _suffix(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


def _nearest(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else None
    if folder is None:
        return f"; the folder {path.parent} does not exist either"
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    return f"; did you mean {folder / near[0]}?" if near else ""


def labels(files: Sequence[Path]) -> list[str]:
    """Return the shortest name of each file that tells it from the others: row ids start with it."""
    depth = 1
    longest = max((len(p.parts) for p in files), default=1)
    while True:
        names = [str(Path(*p.parts[-depth:])) for p in files]
        if len(set(names)) == len(set(files)) or depth >= longest:
            return names
        depth += 1


def iter_raw(path: Path, name: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of one file in order; a bad row carries its problem and the rows after it follow.

    `name` is what row ids call the file (default: its file name).

    Raises:
        DataError: the whole file is refused: unknown suffix, UTF-16, gzip bomb, unusable CSV header.

    """
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(f"{path}: no reader for this name; known: {', '.join(READERS)} (.gz too)")
    module, function = READERS[suffix].split(":")
    # By import string (see the head of this file); the targets are checked by a test.
    yield from getattr(importlib.import_module(module), function)(path, name or path.name)
