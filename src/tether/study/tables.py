"""The tables of a study as Parquet, written whole or not at all, read as numpy columns. No torch.

    cells/<cell_id>/measures/held_out.parquet   one row per held-out completion     `HeldOut`
    cells/<cell_id>/measures/tokens.parquet     one row per token of those          `Tokens`
    cells/<cell_id>/measures/samples.parquet    one row per sample of the policy    `Samples`
    shared/start/{held_out,tokens,samples}.parquet   the same of the start model
    shared/start/ches.parquet                   one row per pair                    `Ches`, where asked for
    shared/dial/<cell_id>/d-<value>.parquet     samples of a dialled model          `Samples`
    shared/prompts.jsonl                        row_id and prompt of every row of the samples
    shared/completions.jsonl                    row_id, prompt, role and text of every held-out completion
    shared/vocabulary.json                      token text by id

Log-probs are nats: sums over a completion's tokens, or of one token. A column of a model that is not there
(no reference, another tokenizer) holds NaN. Rows of `samples` are in the order of the study's prompts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tether.errors import RunFolderError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

SCORE = "score:"
"""Prefix of the columns evaluators gave."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out completions under three models; a pair is two rows of one `row_id`."""

    row_id: list[str]
    role: list[str]
    tokens: Ints
    policy_logp: Floats
    start_logp: Floats
    reference_logp: Floats


@dataclass(frozen=True)
class Tokens:
    """Tokens of the held-out completions, a completion's together and in order."""

    row_id: list[str]
    role: list[str]
    position: Ints
    """From 0 at the completion's first token."""
    token_id: Ints
    policy_logp: Floats
    start_logp: Floats
    reference_logp: Floats
    is_end: Flags
    """The completion's stop token."""


@dataclass(frozen=True)
class Samples:
    """A model's own samples at temperature 1; KL are Rao-Blackwell sums per sequence."""

    row_id: list[str]
    """Row the prompt is of."""
    sample: Ints
    text: list[str]
    token_ids: list[list[int]]
    tokens: Ints
    ended: Flags
    cut: Flags
    policy_logp: Floats
    start_logp: Floats
    reference_logp: Floats
    kl_start: Floats
    kl_reference: Floats
    entropy: Floats
    """Mean nats per token."""
    scores: dict[str, Floats] = field(default_factory=dict[str, Floats])
    """By evaluator; a judge's is the probability that this sample beats the start model's."""


@dataclass(frozen=True)
class Ches:
    """Centred hidden embedding similarity of pairs under the start model (arXiv 2410.08847)."""

    row_id: list[str]
    part: list[str]
    """train or eval"""
    ches: Floats
    ches_normalised: Floats


_TYPES: dict[str, pa.DataType] = {
    "row_id": pa.string(),
    "role": pa.string(),
    "part": pa.string(),
    "text": pa.string(),
    "token_ids": pa.list_(pa.int32()),
    "tokens": pa.int32(),
    "position": pa.int32(),
    "token_id": pa.int32(),
    "sample": pa.int32(),
    "is_end": pa.bool_(),
    "ended": pa.bool_(),
    "cut": pa.bool_(),
}
_NARROW = frozenset({"policy_logp", "start_logp", "reference_logp"})
Table = TypeVar("Table", HeldOut, Tokens, Samples, Ches)


def write_table(path: Path, table: HeldOut | Tokens | Samples | Ches) -> None:
    """Write a table: temporary name, fsync, rename."""
    columns: dict[str, pa.Array] = {}
    for entry in fields(table):
        value = getattr(table, entry.name)
        if isinstance(value, Mapping):
            columns |= {SCORE + name: _column(v, pa.float64()) for name, v in value.items()}
            continue
        single = isinstance(table, Tokens) and entry.name in _NARROW
        columns[entry.name] = _column(value, pa.float32() if single else _TYPES.get(entry.name, pa.float64()))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    # NaN stands for "not there" in numpy and for null on disk.
    return pa.array(values, type=kind, from_pandas=pa.types.is_floating(kind))


def read_table(kind: type[Table], path: Path) -> Table:
    """Read a table as numpy columns; null becomes NaN.

    Raises:
        RunFolderError: the file is missing, damaged, or lacks a column.

    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: not there; run the study again to measure this cell") from error
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(
            f"{path}: unreadable ({str(error).splitlines()[0]}); delete it and run the study again"
        ) from error
    values: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name == "scores":
            names = [name for name in table.column_names if name.startswith(SCORE)]
            values["scores"] = {name.removeprefix(SCORE): _numbers(table[name]) for name in names}
            continue
        if entry.name not in table.column_names:
            raise RunFolderError(f"{path}: no column {entry.name!r}; written by another version of tether")
        values[entry.name] = _read(table[entry.name])
    return kind(**values)


def _read(column: pa.ChunkedArray) -> Any:
    if pa.types.is_floating(column.type):
        return _numbers(column)
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64)
    if pa.types.is_boolean(column.type):
        return column.to_numpy().astype(np.bool_)
    return column.to_pylist()


def _numbers(column: pa.ChunkedArray) -> Floats:
    return column.to_numpy().astype(np.float64)
