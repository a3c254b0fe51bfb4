"""Parquet files as raw rows, a batch at a time. In its own file, so that a JSONL run never loads Arrow."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tether.data.raw import RawRow, without_nulls
from tether.errors import DataError
from tether.records.rows import Origin

BATCH = 256


def read_parquet(path: Path, name: str) -> Iterator[RawRow]:
    """Yield one row per record; a damaged file or an undecodable cell becomes a problem of its row."""
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            twice = next((column for column in columns if columns.count(column) > 1), None)
            if twice is not None:
                yield RawRow(Origin(name, 0), None, f"column {twice!r} appears twice; rename one")
                return
            for batch in file.iter_batches(batch_size=BATCH):
                for value in _values(batch):
                    yield _row(Origin(name, row), value)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield RawRow(Origin(name, row), None, f"the Parquet file cannot be read further: {reason}")


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _row(origin: Origin, value: dict[str, Any] | UnicodeDecodeError) -> RawRow:
    if isinstance(value, UnicodeDecodeError):
        message = f"byte {value.start} of a text cell (0x{value.object[value.start]:02x}) is not UTF-8"
        return RawRow(origin, None, message, "bad_utf8")
    return RawRow(origin, {column: without_nulls(part) for column, part in value.items()})


AS_JSON = ("tools", "chat_template_kwargs")
"""Columns without one schema: written as JSON text, which every reader takes."""


def parquet_bytes(path: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """Return rows as the bytes of a Parquet file.

    Raises:
        DataError: a column holds values of different kinds.

    """
    names = list(dict.fromkeys(name for _, columns in rows for name in columns))
    stream = io.BytesIO()
    arrays: dict[str, pa.Array] = {}
    for name in names:
        try:
            arrays[name] = pa.array([_stored(name, columns.get(name)) for _, columns in rows])
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: Parquet cannot hold the column {name}: {reason}; write .jsonl"
            ) from error
    pq.write_table(pa.table(arrays), stream)
    return stream.getvalue()


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if name in AS_JSON and value is not None else value
