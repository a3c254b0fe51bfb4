"""Rows as files: JSONL, JSON, CSV, TSV (gzipped or not) and Parquet, whole or not at all."""

import csv
import gzip
import importlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tether.errors import DataError, UsageError

Written = Sequence[tuple[str, dict[str, Any]]]
"""Row ids, for messages, and columns."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula and runs."""


def write_rows(path: Path, rows: Written) -> None:
    """Write rows in the format of the path's suffix.

    Raises:
        UsageError: a suffix nothing is written for.
        DataError: CSV cannot hold a cell, Parquet cannot hold a column, or the place cannot be written.

    """
    name = path.name.lower()
    suffix = next((s for s in WRITERS if name.removesuffix(".gz").endswith(s)), None)
    if suffix is None or (suffix == ".parquet" and name.endswith(".gz")):
        raise UsageError(f"{path}: nothing is written for this name; use {', '.join(WRITERS)} (.gz too)")
    data = WRITERS[suffix](path, rows)
    if name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def _line(columns: dict[str, Any]) -> str:
    return json.dumps(columns, ensure_ascii=False, allow_nan=False)


def _lines(path: Path, rows: Written) -> bytes:
    return "".join(_line(columns) + "\n" for _, columns in rows).encode("utf-8")


def _document(path: Path, rows: Written) -> bytes:
    return ("[\n" + ",\n".join(_line(columns) for _, columns in rows) + "\n]\n").encode("utf-8")


def _table(path: Path, rows: Written) -> bytes:
    names = list(dict.fromkeys(name for _, columns in rows for name in columns))
    stream = io.StringIO(newline="")
    mark = "\t" if ".tsv" in path.name.lower() else ","
    # All cells are quoted: left to itself the writer leaves a lone carriage return bare, which ends a row.
    writer = csv.writer(stream, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    for row_id, columns in rows:
        writer.writerow([_cell(path, row_id, name, columns.get(name)) for name in names])
    return stream.getvalue().encode("utf-8")


def _cell(path: Path, row_id: str, name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if not isinstance(value, str):
        raise DataError(
            f"{path}: {row_id}: {name} is a list or an object, a table holds text and numbers; write .jsonl"
        )
    if value.startswith(FORMULA):
        raise DataError(
            f"{path}: {row_id}: {name} starts with {value[0]!r}, which a spreadsheet runs as a formula; "
            "write .jsonl"
        )
    return value


def _parquet(path: Path, rows: Written) -> bytes:
    # Arrow is loaded only here (see the head of `data.sources`).
    write: Callable[[Path, Written], bytes] = importlib.import_module("tether.data.parquet").parquet_bytes
    return write(path, rows)


WRITERS: dict[str, Callable[[Path, Written], bytes]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _document,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
"""Suffix -> how rows become its bytes."""
