"""Parquet files as raw rows, a batch at a time. In its own file, so that a JSONL run never loads Arrow."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tether.data.raw import BOMB_BYTES, BOMB_RATIO, MAX_ROW_BYTES, BadRow, RawRow, without_nulls
from tether.errors import DataError
from tether.records.rows import Origin

BATCH = 256
BATCH_BYTES = 1 << 30
"""What a batch may unpack to."""


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
            for batch in file.iter_batches(batch_size=_batch_size(path, file.metadata)):
                for value in _values(batch):
                    yield _row(Origin(name, row), value)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield RawRow(Origin(name, row), None, f"the Parquet file cannot be read further: {reason}")


def _batch_size(path: Path, metadata: pq.FileMetaData) -> int:
    """Return how many rows to unpack at a time: a text stored once may stand in every row.

    Raises:
        DataError: the file unpacks to more than text ever does.

    """
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    if sum(groups) > BOMB_BYTES and sum(groups) > BOMB_RATIO * path.stat().st_size:
        raise DataError(
            f"{path.name}: unpacks to more than {BOMB_BYTES >> 20} MiB and {BOMB_RATIO} times its size; "
            "no text does that. Unpack it yourself if you trust it"
        )
    return max(1, min(BATCH, BATCH_BYTES // max(groups, default=1)))


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | Exception]:
    """Yield the rows of a batch, or why one is none; in a large batch each is looked at alone."""
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            pass
    for index in range(batch.num_rows):
        one = batch.slice(index, 1)
        if one.nbytes > MAX_ROW_BYTES:
            yield BadRow(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
            continue
        try:
            yield one.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield error


def _row(origin: Origin, value: dict[str, Any] | Exception) -> RawRow:
    if isinstance(value, BadRow):
        return RawRow(origin, None, str(value), value.kind)
    if isinstance(value, UnicodeDecodeError):
        message = f"byte {value.start} of a text cell (0x{value.object[value.start]:02x}) is not UTF-8"
        return RawRow(origin, None, message, "bad_utf8")
    assert isinstance(value, dict)
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
