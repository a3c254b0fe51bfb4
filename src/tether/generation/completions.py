"""The file of completions: one row per sample, in order, continued after a stop and never mixed.

OUT             JSONL; `Row` per line
OUT.meta.json   what the rows were made from: `Meta`; a run with any other refuses to continue the file
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tether.errors import RunFolderError
from tether.generation.engines import Stop
from tether.records.results import Record, write_json
from tether.records.rows import Content, canonical_json

SCHEMA = 2
"""2: every model has noise of its own."""

StoppedBy = Stop | Literal["stop"]
"""`stop`: a server says that it ended, and not by which kind of stop."""


class Row(Record):
    """One completion."""

    id: str
    """The prompt's own id, else `file:line`."""
    prompt: Content
    completion: str
    """Without its end token, cut before its first stop text; special tokens in between are spelt out."""
    ended: bool
    """Came to its own end; false: cut."""
    stopped_by: StoppedBy
    tokens: int | None
    """Tokens written, end token included; of a server what it counted, None where it does not."""
    seed: int
    """The run's seed."""
    sample: int
    """0-based number among the prompt's samples."""
    model: str
    """The model folder as it was named, or the model's name on its server."""


class Meta(Record):
    """What decides the rows. `computed` may differ when a file is continued; everything else must not."""

    schema_version: int = SCHEMA
    model: dict[str, str | None]
    """weights, adapter: hashes; or server, name."""
    reference: dict[str, str | None] | None
    """The dial's second model, likewise."""
    dial: float | None
    sampling: dict[str, Any]
    num_samples: int
    prompts: dict[str, Any]
    """count, and a digest of ids, texts and (but for a server) token ids: so of tokenizer and template."""
    stop_ids: list[int]
    """Empty for a server, which has its own."""
    dtype: str | None
    computed: dict[str, Any]
    """path, device, batch_size, versions."""


class GenerateRecord(Record):
    """What `tether generate` left in its file."""

    out: str
    model: str
    prompts: int
    rows: int
    """Completions in the file."""
    left_out: tuple[str, ...]
    """Ids of the prompts longer than the model reads (`skip_long`)."""
    continued: int
    """How many of them an earlier run had written."""
    tokens: float | None
    """Mean tokens per completion, end token included; None where a server does not count them."""
    ended: float
    """Share that came to its own end."""
    cut_at_limit: float
    """Share cut at max_new_tokens."""
    cut_at_context: float
    """Share cut because the model reads no further."""
    seconds: float
    """Of this run, model loading not counted."""
    tokens_per_second: float | None
    """Of this run; None where nothing was left to write."""
    trained_on: str = "none"
    """How the base was stored while the adapter was trained; it answers beside the base in full."""


def summary(
    rows: Sequence[Row],
    *,
    out: Path,
    model: str,
    prompts: int,
    left_out: tuple[str, ...],
    continued: int,
    written: int,
    seconds: float,
    trained_on: str = "none",
) -> GenerateRecord:
    """Return the record of a finished file; `written` counts the tokens of this run."""

    def share(stop: str) -> float:
        return sum(row.stopped_by == stop for row in rows) / len(rows)

    counted = [row.tokens for row in rows if row.tokens is not None]
    return GenerateRecord(
        out=str(out),
        model=model,
        prompts=prompts,
        rows=len(rows),
        left_out=left_out,
        continued=continued,
        tokens=sum(counted) / len(rows) if len(counted) == len(rows) else None,
        ended=sum(row.ended for row in rows) / len(rows),
        cut_at_limit=share("limit"),
        cut_at_context=share("context"),
        seconds=seconds,
        tokens_per_second=written / seconds if written else None,
        trained_on=trained_on,
    )


def prompts_digest(parts: Iterable[Any]) -> str:
    """Return the digest of what each prompt is: any JSON value per prompt."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(canonical_json(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def meta_path(out: Path) -> Path:
    """Return the file beside `out` that says what it was made from."""
    return out.with_name(out.name + ".meta.json")


@contextmanager
def opened(
    out: Path,
    meta: Meta,
    expected: Sequence[tuple[str, int]],
    *,
    overwrite: bool = False,
    ordered: bool = True,
) -> Generator[tuple[BinaryIO, list[Row]]]:
    """Open `out` for appending and return it with the rows it already holds; a torn last line is cut off.

    `expected` are the (id, sample) of all rows. Rows that are not `ordered` stand as they came, each once;
    when all are there the file is put in order.

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
        rows = [] if fresh or overwrite else _rows(stream, out, meta)
        _check_places(out, rows, expected, ordered=ordered)
        if not rows:
            write_json(meta_path(out), meta)
        yield stream, rows
        stream.flush()
        os.fsync(stream.fileno())
        if not ordered and len(rows) == len(expected):
            _sort(out, rows, expected)


def _check_places(
    out: Path, rows: Sequence[Row], expected: Sequence[tuple[str, int]], *, ordered: bool
) -> None:
    left = dict.fromkeys(expected)
    for number, row in enumerate(rows, start=1):
        key = row.id, row.sample
        due = number <= len(expected) and key == expected[number - 1] if ordered else key in left
        if not due:
            raise RunFolderError(
                f"{out}:{number}: holds {row.id!r} sample {row.sample}, which is not the row due there; "
                "name another file, or --overwrite"
            )
        left.pop(key, None)


def _sort(out: Path, rows: list[Row], expected: Sequence[tuple[str, int]]) -> None:
    places = {key: place for place, key in enumerate(expected)}
    if [(row.id, row.sample) for row in rows] == list(expected):
        return
    rows.sort(key=lambda row: places[row.id, row.sample])
    draft = out.with_name(out.name + ".sorting")
    with draft.open("wb") as stream:
        append(stream, rows)
        os.fsync(stream.fileno())
    draft.replace(out)


def _rows(stream: BinaryIO, out: Path, meta: Meta) -> list[Row]:
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
    if whole < len(data):
        stream.truncate(whole)
    rows: list[Row] = []
    for number, line in enumerate(data[:whole].splitlines(keepends=True), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValueError as error:
            raise RunFolderError(
                f"{out}:{number}: not a row of ours; name another file, or --overwrite"
            ) from error
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


def read_rows(out: Path) -> list[Row]:
    """Return the rows of a finished file."""
    return [Row.model_validate_json(line) for line in out.read_bytes().splitlines()]


def append(stream: BinaryIO, rows: Iterable[Row]) -> None:
    """Write whole lines."""
    documents = (row.model_dump(mode="json") for row in rows)
    text = "".join(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n" for document in documents)
    stream.write(text.encode("utf-8", "surrogatepass"))
    stream.flush()
