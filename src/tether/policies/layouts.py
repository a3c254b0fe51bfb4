"""From a ragged `GroupBatch` to model inputs, in layouts that give one answer.

    padded   every completion in a row of its own behind its own copy of the prompt: the oracle
    shared   one row per group: prompt, then completions that see the prompt and themselves only
    packed   all groups in one row, one after the other: linear layers see real tokens only
    varlen   the same row; its attention is one call of a variable-length kernel (CUDA, half precision)

Positions of every completion start where its prompt ends. The hidden state that predicts a token is the one
before it; for a completion's first token that is the prompt's last, once per completion.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tether.config.train import Layout
from tether.errors import DataError
from tether.policies.packed import (
    ACCELERATOR_COSTS,
    CPU_COSTS,
    PackedPlan,
    Segments,
    moved,
    plan_packed,
    plan_segments,
)
from tether.records.tensors import GroupBatch, starts_of, within

PROMPT, PADDING = 0, -1


@dataclass(frozen=True)
class LayoutInputs:
    """What the backbone is given (B rows of L tokens) and where the answers stand in what it returns."""

    layout: Layout
    input_ids: Int64[Tensor, "B L"]
    position_ids: Int64[Tensor, "B L"]
    segments: Int64[Tensor, "B L"]
    """-1 padding, 0 prompt, k the k-th completion of the row's group (padded: 0 for every real token)."""
    sources: Int64[Tensor, " T"]
    """For each completion token, in the batch's order, the flat index of the state that predicts it."""
    plan: PackedPlan | Segments | None = None
    """How a packed row attends: in a few calls, or (varlen) in one."""

    @property
    def attention_mask(self) -> Int64[Tensor, "B L"]:
        """1 for a token, 0 for padding."""
        return (self.segments != PADDING).to(torch.int64)

    def to(self, device: torch.device) -> "LayoutInputs":
        """Return the inputs on this device."""
        return replace(moved(self, device), plan=None if self.plan is None else self.plan.to(device))


def lay_out(batch: GroupBatch, layout: Layout, device: torch.device | None = None) -> LayoutInputs:
    """Return the model inputs of a batch in one layout, on `device` (the CPU unless given).

    Raises:
        DataError: a prompt without tokens, or a group without completions.

    """
    device = device or torch.device("cpu")
    _check(batch)
    if layout == "padded":
        inputs = _padded(batch)
    elif layout == "shared":
        inputs = _shared(batch)
    else:
        inputs = _packed(batch, layout, accelerator=device.type != "cpu")
    return inputs.to(device)


def _check(batch: GroupBatch) -> None:
    empty = (batch.prompt_lengths < 1).nonzero()
    if len(empty):
        name = batch.row_ids[int(empty[0])]
        raise DataError(f"row {name}: the prompt has no tokens; a prompt needs at least one (a BOS will do)")
    alone = (batch.sizes == 0).nonzero()
    if len(alone):
        raise DataError(f"row {batch.row_ids[int(alone[0])]}: the group has no completions")


def _padded(batch: GroupBatch) -> LayoutInputs:
    prompts = torch.split(batch.prompt_ids, batch.prompt_lengths.tolist())
    completions = torch.split(batch.completion_ids, batch.completion_lengths.tolist())
    groups = batch.group_of.tolist()
    rows = [torch.cat([prompts[g], completion]) for g, completion in zip(groups, completions, strict=True)]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=0)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    sources = [
        row * input_ids.shape[1] + len(prompts[group]) - 1 + torch.arange(len(completions[row]))
        for row, group in enumerate(groups)
    ]
    return LayoutInputs(
        "padded",
        input_ids,
        columns,
        torch.where(columns < lengths, PROMPT, PADDING),
        torch.cat(sources),
    )


@dataclass(frozen=True)
class _Places:
    """Where every prompt and completion begins: its row and column."""

    prompt_column: Int64[Tensor, " G"]
    completion_column: Int64[Tensor, " S"]
    rank: Int64[Tensor, " S"]
    sizes: Int64[Tensor, " G"]


def _places(batch: GroupBatch, *, one_row: bool) -> _Places:
    begin = starts_of(batch.completion_lengths)
    first = starts_of(batch.sizes)
    sizes = batch.group_lengths
    prompt_column = starts_of(sizes) if one_row else torch.zeros_like(sizes)
    inside = begin - begin[first][batch.group_of]
    completion_column = (prompt_column + batch.prompt_lengths)[batch.group_of] + inside
    rank = torch.arange(batch.sequences) - first[batch.group_of] + 1
    return _Places(prompt_column, completion_column, rank, sizes)


def _filled(batch: GroupBatch, places: _Places, layout: Layout, rows: int, width: int) -> LayoutInputs:
    """Write prompts and completions to their places; everything else is padding."""
    one_row = layout in ("packed", "varlen")
    prompt_row = torch.zeros_like(batch.prompt_lengths) if one_row else torch.arange(len(batch))
    prompt_at = torch.repeat_interleave(
        prompt_row * width + places.prompt_column, batch.prompt_lengths
    ) + within(batch.prompt_lengths)
    step = within(batch.completion_lengths)
    completion_at = (
        torch.repeat_interleave(
            prompt_row[batch.group_of] * width + places.completion_column, batch.completion_lengths
        )
        + step
    )
    last_prompt = (prompt_row * width + places.prompt_column + batch.prompt_lengths - 1)[batch.group_of]
    offset = torch.repeat_interleave(batch.prompt_lengths[batch.group_of], batch.completion_lengths)
    input_ids = torch.zeros(rows * width, dtype=torch.int64)
    position_ids = torch.zeros(rows * width, dtype=torch.int64)
    segments = torch.full((rows * width,), PADDING)
    input_ids[prompt_at], input_ids[completion_at] = batch.prompt_ids, batch.completion_ids
    position_ids[prompt_at], position_ids[completion_at] = within(batch.prompt_lengths), offset + step
    segments[prompt_at] = PROMPT
    segments[completion_at] = torch.repeat_interleave(places.rank, batch.completion_lengths)
    last_prompt = torch.repeat_interleave(last_prompt, batch.completion_lengths)
    sources = torch.where(step == 0, last_prompt, completion_at - 1)
    shape = (rows, width)
    return LayoutInputs(
        layout, input_ids.view(shape), position_ids.view(shape), segments.view(shape), sources
    )


def _shared(batch: GroupBatch) -> LayoutInputs:
    places = _places(batch, one_row=False)
    return _filled(batch, places, "shared", len(batch), int(places.sizes.max()))


def _packed(batch: GroupBatch, layout: Layout, *, accelerator: bool) -> LayoutInputs:
    places = _places(batch, one_row=True)
    columns = (
        places.prompt_column.tolist(),
        batch.prompt_lengths.tolist(),
        places.completion_column.tolist(),
        batch.completion_lengths.tolist(),
        batch.group_of.tolist(),
    )
    if layout == "varlen":
        plan = plan_segments(*columns)
    else:
        plan = plan_packed(*columns, costs=ACCELERATOR_COSTS if accelerator else CPU_COSTS)
    return replace(_filled(batch, places, layout, 1, int(places.sizes.sum())), plan=plan)
