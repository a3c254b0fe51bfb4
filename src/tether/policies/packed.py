"""How a packed row attends: which tokens meet which, cut into a few rectangular calls, never a T x T mask.

The row is [P, C1, C2, ..., P, C1, C2, ...]. Every completion is one *attention row* whose keys are its prompt
and itself. The first completion of a group also computes the prompt (queries = keys, plain causal); a further
one asks from its own tokens only, under a small mask, or, where that costs more than letting the causal flag
skip half of the work, asks again from the prompt and drops those answers. Rows of like size share one call.

A variable-length kernel (`varlen`) takes the same attention rows as they are, in one call: `Segments`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

T = TypeVar("T")

Rule = Callable[[Tensor, Tensor], Tensor]
"""Positions of queries and keys of one sequence, broadcast -> may this query see this key."""


@dataclass(frozen=True)
class CallCosts:
    """What decides how rows are joined, in query-key pairs; one set for CPUs, one for accelerators."""

    overhead: int
    """Padding worth paying to save one call."""
    causal_block: int
    """Key block of the kernel: the causal flag saves nothing on rows shorter than this."""
    mask_factor: float
    """Cost of a pair in a call with a mask, relative to one without."""


CPU_COSTS = CallCosts(overhead=2_048, causal_block=512, mask_factor=1.0)
ACCELERATOR_COSTS = CallCosts(overhead=262_144, causal_block=64, mask_factor=2.0)


def moved(record: T, device: torch.device) -> T:
    """Return a frozen record with its own tensors on this device; records inside it stay where they are."""
    here: Any = record
    values = {field.name: getattr(here, field.name) for field in fields(here)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return replace(here, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


@dataclass(frozen=True)
class Bucket:
    """B attention rows computed by one call, padded to Q queries and K keys."""

    query_positions: Int64[Tensor, "B Q"]
    """Position of each query in its sequence; 0 where the slot is padding, so that no query sees nothing."""
    key_positions: Int64[Tensor, "B K"]
    key_valid: Bool[Tensor, "B K"]
    causal: bool
    """Queries are the keys, so that the causal flag alone is right (padding stands behind everything)."""

    @property
    def rows(self) -> int:
        """B, the number of rows in this call."""
        return self.query_positions.shape[0]

    @property
    def queries(self) -> int:
        """Q, the padded number of queries of a row."""
        return self.query_positions.shape[1]

    @property
    def keys(self) -> int:
        """K, the padded number of keys of a row."""
        return self.key_positions.shape[1]

    def mask(self, rule: Rule) -> Bool[Tensor, "B 1 Q K"]:
        """Return which query of each row may see which key under a layer's rule."""
        allowed = rule(self.query_positions[:, :, None], self.key_positions[:, None, :])
        return (allowed & self.key_valid[:, None, :])[:, None]


@dataclass(frozen=True)
class PackedPlan:
    """Calls that compute the attention of a packed row of T tokens; slots are numbered over all calls."""

    query_index: Int64[Tensor, " query_slots"]
    """Token each query slot reads."""
    key_index: Int64[Tensor, " key_slots"]
    """Token each key slot reads."""
    output_index: Int64[Tensor, " T"]
    """Query slot that holds the answer for each token."""
    buckets: tuple[Bucket, ...]

    @property
    def longest(self) -> int:
        """Length of the longest sequence (prompt and one completion)."""
        return max(bucket.keys for bucket in self.buckets)

    def to(self, device: torch.device) -> "PackedPlan":
        """Return the plan with its index tensors on this device."""
        buckets = tuple(moved(bucket, device) for bucket in self.buckets)
        return replace(moved(self, device), buckets=buckets)


@dataclass(frozen=True)
class Segments:
    """The N attention rows of a packed row of T tokens for a variable-length kernel: nothing is padded.

    The queries are the packed row as it stands: [P, C1], [C2], ..., [P, C1], ... A row's last query is its
    last key's token, so that causal means aligned at the end.
    """

    query_ends: Int32[Tensor, " N1"]
    """Where each row's queries end, after a leading 0."""
    key_ends: Int32[Tensor, " N1"]
    key_index: Int64[Tensor, " K"]
    """Token each key slot reads: prompt and own completion, row after row."""
    longest_query: int
    longest: int
    """Keys of the longest row (prompt and one completion)."""

    def to(self, device: torch.device) -> "Segments":
        """Return the rows with their tensors on this device."""
        return moved(self, device)


@dataclass(frozen=True)
class _Row:
    """One completion's attention: `queries` of its own tokens, or of prompt and own tokens when `causal`."""

    prompt_start: int
    prompt: int
    start: int
    length: int
    first: bool
    causal: bool

    @property
    def keys(self) -> int:
        return self.prompt + self.length

    @property
    def queries(self) -> int:
        return self.keys if self.causal else self.length


def plan_packed(
    prompt_starts: list[int],
    prompt_lengths: list[int],
    starts: list[int],
    lengths: list[int],
    group_of: list[int],
    *,
    costs: CallCosts = CPU_COSTS,
) -> PackedPlan:
    """Return the calls for a packed row whose prompts and completions begin at these columns."""
    rows = _rows(prompt_starts, prompt_lengths, starts, lengths, group_of, costs)
    total = sum(prompt_lengths) + sum(lengths)
    output_index = torch.zeros(total, dtype=torch.int64)
    query_index: list[Tensor] = []
    key_index: list[Tensor] = []
    buckets: list[Bucket] = []
    slot = 0
    for members in _bucketed(rows, costs):
        bucket, queries, keys, owned = _bucket(members)
        slots = slot + torch.arange(queries.numel()).view_as(queries)
        output_index[queries[owned]] = slots[owned]
        slot += queries.numel()
        query_index.append(queries.flatten())
        key_index.append(keys.flatten())
        buckets.append(bucket)
    return PackedPlan(torch.cat(query_index), torch.cat(key_index), output_index, tuple(buckets))


def plan_segments(
    prompt_starts: list[int],
    prompt_lengths: list[int],
    starts: list[int],
    lengths: list[int],
    group_of: list[int],
) -> Segments:
    """Return the attention rows of a packed row whose prompts and completions begin at these columns."""
    rows = _rows(prompt_starts, prompt_lengths, starts, lengths, group_of, ACCELERATOR_COSTS)
    asked = [row.keys if row.first else row.length for row in rows]
    keys = [
        torch.arange(begin, begin + count)
        for row in rows
        for begin, count in ((row.prompt_start, row.prompt), (row.start, row.length))
    ]
    given = [row.keys for row in rows]
    return Segments(_ends(asked), _ends(given), torch.cat(keys), max(asked), max(given))


def _rows(
    prompt_starts: list[int],
    prompt_lengths: list[int],
    starts: list[int],
    lengths: list[int],
    group_of: list[int],
    costs: CallCosts,
) -> list[_Row]:
    """Return the attention rows in the packed row's order; an empty completion has none but its prompt's."""
    rows: list[_Row] = []
    seen: set[int] = set()
    for start, length, group in zip(starts, lengths, group_of, strict=True):
        prompt, first = prompt_lengths[group], group not in seen
        seen.add(group)
        causal = first or _causal_is_cheaper(prompt, length, costs)
        if first or length:
            rows.append(_Row(prompt_starts[group], prompt, start, length, first, causal))
    return rows


def _ends(lengths: list[int]) -> Int32[Tensor, " N1"]:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def _causal_is_cheaper(prompt: int, length: int, costs: CallCosts) -> bool:
    keys = prompt + length
    causal = keys * (keys + costs.causal_block) / 2 if keys > costs.causal_block else keys * keys
    return causal < costs.mask_factor * length * keys


def _bucketed(rows: list[_Row], costs: CallCosts) -> list[list[_Row]]:
    """Join rows of like size, longest first, while the padding costs less than a call of their own."""
    ordered = sorted(rows, key=lambda row: (row.causal, row.keys, row.queries), reverse=True)
    buckets: list[list[_Row]] = []
    widest = 0  # Queries of the last call so far.
    for row in ordered:
        cost = row.queries * row.keys
        if buckets:
            head = buckets[-1][0]
            queries = max(row.queries, widest)
            grown = (queries - widest) * head.keys * len(buckets[-1])
            padding = queries * head.keys - cost + grown
            if head.causal == row.causal and padding <= costs.overhead + cost // 20:
                buckets[-1].append(row)
                widest = queries
                continue
        buckets.append([row])
        widest = row.queries
    return buckets


def _bucket(
    rows: list[_Row],
) -> tuple[Bucket, Int64[Tensor, "B Q"], Int64[Tensor, "B K"], Bool[Tensor, "B Q"]]:
    """Return the call, the token of each query and key slot, and the queries whose answers are kept."""
    prompt_start, prompt, start, length = (
        torch.tensor([getattr(row, name) for row in rows])[:, None]
        for name in ("prompt_start", "prompt", "start", "length")
    )
    key = torch.arange(max(row.keys for row in rows)).expand(len(rows), -1)
    key_valid = key < prompt + length
    keys = torch.where(key < prompt, prompt_start + key, start + key - prompt)
    keys = torch.where(key_valid, keys, prompt_start)
    causal = rows[0].causal
    if causal:
        first = torch.tensor([row.first for row in rows])[:, None]
        owned = key_valid & (first | (key >= prompt))
        positions = torch.where(key_valid, key, 0)
        return Bucket(positions, positions, key_valid, causal), keys, keys, owned
    query = torch.arange(max(row.queries for row in rows)).expand(len(rows), -1)
    owned = query < length
    queries = torch.where(owned, start + query, prompt_start)
    bucket = Bucket(torch.where(owned, prompt + query, 0), torch.where(key_valid, key, 0), key_valid, causal)
    return bucket, queries, keys, owned
