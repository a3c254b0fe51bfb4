"""A reference on disk: `table.parquet` (key, sum, count, tokens) and `manifest.json` (identity, digest)."""

import json
import os
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tether.errors import ReferenceMismatch
from tether.policies.reference import SCORING_VERSION, ReferenceIdentity, ReferenceTable, Score
from tether.records.results import file_digest, write_json

TABLE, MANIFEST = "table.parquet", "manifest.json"
_ROWS_PER_GROUP = 50_000
_SCHEMA = pa.schema(
    [("key", pa.string()), ("sum", pa.float64()), ("count", pa.int64()), ("tokens", pa.list_(pa.float32()))]
)


def write_artifact(folder: Path, table: ReferenceTable, *, source: dict[str, Any]) -> None:
    """Write a reference to a folder; the manifest comes last, so a folder without one is no reference.

    `source` says in plain words which model and data were scored, for people and for re-scoring.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    temporary = folder / (TABLE + ".tmp")
    with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        items = sorted(table.scores.items())
        for start in range(0, max(len(items), 1), _ROWS_PER_GROUP):
            writer.write_batch(_batch(items[start : start + _ROWS_PER_GROUP]))
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(folder / TABLE)
    write_json(
        folder / MANIFEST,
        {
            "schema": 1,
            "scoring_version": SCORING_VERSION,
            "kind": table.identity.kind,
            "rows": len(table.scores),
            "scored": dict(table.identity.scored),
            "computed": dict(table.identity.computed),
            "source": source,
            "digest": file_digest(folder / TABLE),
        },
    )


def _batch(items: Sequence[tuple[str, Score]]) -> pa.RecordBatch:
    """Return rows as Arrow, made of buffers: `pa.array` would import pandas wherever it is installed."""
    keys = [key.encode() for key, _ in items]
    tokens = [score.tokens for _, score in items]
    values = np.array([value for some in tokens for value in some or ()], dtype=np.float32)
    child = pa.Array.from_buffers(pa.float32(), len(values), [None, pa.py_buffer(values)])
    known = np.packbits(np.array([some is not None for some in tokens], dtype=bool), bitorder="little")
    columns = [
        [None, _offsets(keys), pa.py_buffer(b"".join(keys))],
        [None, pa.py_buffer(np.array([score.total for _, score in items], dtype=np.float64))],
        [None, pa.py_buffer(np.array([score.count for _, score in items], dtype=np.int64))],
        [pa.py_buffer(known), _offsets([some or () for some in tokens])],
    ]
    arrays = [
        pa.Array.from_buffers(
            field.type, len(items), buffers, children=[child] if field.name == "tokens" else None
        )
        for field, buffers in zip(_SCHEMA, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _offsets(parts: Sequence[Sized]) -> pa.Buffer:
    return pa.py_buffer(np.cumsum([0, *map(len, parts)], dtype=np.int32))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read an artifact's manifest.

    Raises:
        ReferenceMismatch: there is none, it is damaged, or another scoring version wrote it.

    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReferenceMismatch(
            f"{folder}: no {MANIFEST}; make a reference with tether score --out"
        ) from error
    except ValueError as error:
        raise ReferenceMismatch(f"{path}: damaged: {error}") from error
    if manifest.get("scoring_version") != SCORING_VERSION:
        raise ReferenceMismatch(
            f"{path}: scoring_version is {manifest.get('scoring_version')!r}, this tether scores version "
            f"{SCORING_VERSION}; score the data again"
        )
    return manifest


def read_artifact(folder: Path) -> tuple[ReferenceTable, dict[str, Any]]:
    """Read a reference and its manifest; the table's digest is checked.

    Raises:
        ReferenceMismatch: missing, damaged (names the file), or of another scoring version.

    """
    manifest = read_manifest(folder)
    path = folder / TABLE
    if not path.is_file() or file_digest(path) != manifest["digest"]:
        raise ReferenceMismatch(f"{path}: missing or changed since it was written; score the data again")
    identity = ReferenceIdentity(manifest["kind"], manifest["scored"], manifest["computed"])
    scores: dict[str, Score] = {}
    for group in pq.ParquetFile(path).iter_batches():
        for row in group.to_pylist():
            tokens = None if row["tokens"] is None else tuple(row["tokens"])
            scores[row["key"]] = Score(row["sum"], row["count"], tokens)
    return ReferenceTable(identity, scores), manifest
