"""The file of completions: one row per sample, in order, continued after a stop and never mixed.

OUT             JSONL; `Row` per line
OUT.meta.json   what the rows were made from: `Meta`; a run with any other refuses to continue the file
"""

import fcntl
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tether.errors import RunFolderError
from tether.generation.engines import Stop
from tether.records.results import Record, write_json
from tether.records.rows import Content

SCHEMA = 1


class Row(Record):
    """One completion."""

    id: str
    """The prompt's own id, else `file:line`."""
    prompt: Content
    completion: str
    """Without its end token, cut before its first stop text; special tokens in between are spelt out."""
    ended: bool
    """Came to its own end; false: cut."""
    stopped_by: Stop
    tokens: int
    """Tokens written, end token included."""
    seed: int
    """The run's seed."""
    sample: int
    """0-based number among the prompt's samples."""
    model: str
    """The model folder as it was named."""


class Meta(Record):
    """What decides the rows. `computed` may differ when a file is continued; everything else must not."""

    schema_version: int = SCHEMA
    model: dict[str, str | None]
    """weights, adapter: hashes."""
    reference: dict[str, str | None] | None
    """The dial's second model, likewise."""
    dial: float | None
    sampling: dict[str, Any]
    num_samples: int
    prompts: dict[str, Any]
    """count, and a digest of ids, texts and token ids (so of tokenizer and chat template)."""
    stop_ids: list[int]
    dtype: str
    computed: dict[str, Any]
    """path, device, batch_size, versions."""


def meta_path(out: Path) -> Path:
    """Return the file beside `out` that says what it was made from."""
    return out.with_name(out.name + ".meta.json")


@contextmanager
def opened(
    out: Path, meta: Meta, expected: Sequence[tuple[str, int]], *, overwrite: bool = False
) -> Generator[tuple[BinaryIO, list[Row]]]:
    """Open `out` for appending and return it with the rows it already holds; a torn last line is cut off.

    `expected` are the (id, sample) of all rows.

    Raises:
        RunFolderError: another process writes it, it was made from something else, or it is none of ours.

    """
    if out.is_dir() or not out.parent.is_dir():
        raise RunFolderError(f"{out}: is a folder, or lies in none; name a file in an existing folder")
    fresh = not out.exists()
    with out.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(f"{out}: another process is writing it") from error
        if overwrite:
            stream.truncate(0)
        rows = [] if fresh or overwrite else _rows(stream, out, meta, expected)
        if not rows:
            write_json(meta_path(out), meta)
        yield stream, rows
        stream.flush()
        os.fsync(stream.fileno())


def _rows(stream: BinaryIO, out: Path, meta: Meta, expected: Sequence[tuple[str, int]]) -> list[Row]:
    stream.seek(0)
    data = stream.read()
    if not meta_path(out).is_file():
        if not data:
            return []
        raise RunFolderError(
            f"{out}: exists and has no {meta_path(out).name} beside it; name another file, or --overwrite"
        )
    _same(meta_path(out), meta)
    whole = data.rfind(b"\n") + 1
    stream.truncate(whole)
    rows: list[Row] = []
    for number, line in enumerate(data[:whole].splitlines(keepends=True), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValueError as error:
            raise RunFolderError(
                f"{out}:{number}: not a row of ours; name another file, or --overwrite"
            ) from error
        if number > len(expected) or (row.id, row.sample) != expected[number - 1]:
            raise RunFolderError(
                f"{out}:{number}: holds {row.id!r} sample {row.sample}, which is not the row due there; "
                "name another file, or --overwrite"
            )
        rows.append(row)
    return rows


def _same(path: Path, meta: Meta) -> None:
    try:
        found = Meta.model_validate_json(path.read_bytes()).model_dump(mode="json")
    except ValueError as error:
        raise RunFolderError(f"{path}: not readable by this version of tether; name another --out") from error
    wanted = meta.model_dump(mode="json")
    for name in wanted:
        if name == "computed" or found[name] == wanted[name]:
            continue
        inner = [
            key
            for key in (wanted[name] if isinstance(wanted[name], dict) else {})
            if not isinstance(found[name], dict) or found[name].get(key) != wanted[name][key]
        ]
        field = f"{name}.{inner[0]}" if inner else name
        before = found[name].get(inner[0]) if inner and isinstance(found[name], dict) else found[name]
        now = wanted[name][inner[0]] if inner else wanted[name]
        raise RunFolderError(
            f"{path}: {field} was {before!r} and is {now!r} now; name another --out, or --overwrite"
        )


def append(stream: BinaryIO, rows: Iterable[Row]) -> None:
    """Write whole lines."""
    documents = (row.model_dump(mode="json") for row in rows)
    text = "".join(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n" for document in documents)
    stream.write(text.encode("utf-8", "surrogatepass"))
    stream.flush()
