"""Encoded rows to one ragged batch, and the batch to micro-batches under a token budget."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import get_args

import torch

from tether.config.train import Layout
from tether.errors import UsageError
from tether.records.tensors import GroupBatch
from tether.tokens.render import EncodedCompletion, EncodedGroup


def collate(groups: Sequence[EncodedGroup]) -> GroupBatch:
    """Return the groups as one batch, in order; no padding, no layout (see `records.tensors`)."""
    completions = [completion for group in groups for completion in group.completions]
    return GroupBatch(
        row_ids=tuple(group.row_id for group in groups),
        prompt_ids=_ids(chain.from_iterable(group.prompt_ids for group in groups)),
        prompt_lengths=_ids(len(group.prompt_ids) for group in groups),
        completion_ids=_ids(chain.from_iterable(completion.ids for completion in completions)),
        completion_lengths=_ids(len(completion.ids) for completion in completions),
        group_of=_ids(index for index, group in enumerate(groups) for _ in group.completions),
        roles=tuple(completion.role for completion in completions),
        keys=tuple(completion.key for completion in completions),
        weights=torch.tensor([group.weight for group in groups], dtype=torch.float32),
        margins=torch.tensor([group.margin for group in groups], dtype=torch.float32),
        probabilities=torch.tensor([group.probability for group in groups], dtype=torch.float32),
        scored=_scored(completions),
    )


def _scored(completions: Sequence[EncodedCompletion]) -> torch.Tensor | None:
    if all(completion.scored is None for completion in completions):
        return None
    marks = (completion.scored or (True,) * len(completion.ids) for completion in completions)
    return torch.tensor(list(chain.from_iterable(marks)), dtype=torch.bool)


def _ids(values: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def plan_microbatches(batch: GroupBatch, max_tokens: int, layout: Layout) -> list[list[int]]:
    """Cut the batch into micro-batches of at most `max_tokens` positions each; indices of groups, in order.

    A group larger than the budget is a micro-batch of its own. The order is the batch's: sums do not depend
    on it, and a plan made from lengths and budget alone is the same after a resume.

    Raises:
        UsageError: the budget is not positive.

    """
    if max_tokens < 1:
        raise UsageError(f"max_tokens_per_microbatch: {max_tokens}; at least 1")
    plan: list[list[int]] = []
    size = _Size(layout)
    for index, (prompt, completions) in enumerate(_lengths(batch)):
        if not plan or size.with_group(prompt, completions) > max_tokens:
            plan.append([])
            size = _Size(layout)
        plan[-1].append(index)
        size.add(prompt, completions)
    return plan


class _Size:
    """Positions of a growing micro-batch: rows x longest row, or the plain sum where rows are packed."""

    def __init__(self, layout: Layout) -> None:
        if layout not in get_args(Layout):
            raise UsageError(f"layout: {layout!r}; one of {', '.join(get_args(Layout))}")
        self._layout = layout
        self._rows = self._longest = self._sum = 0

    def with_group(self, prompt: int, completions: list[int]) -> int:
        """Return the positions there would be with one more group."""
        rows, longest = self._row(prompt, completions)
        if self._layout in ("packed", "varlen"):
            return self._sum + longest
        return (self._rows + rows) * max(self._longest, longest)

    def add(self, prompt: int, completions: list[int]) -> None:
        """Add a group."""
        rows, longest = self._row(prompt, completions)
        self._rows += rows
        self._longest = max(self._longest, longest)
        self._sum += longest

    def _row(self, prompt: int, completions: list[int]) -> tuple[int, int]:
        if self._layout == "padded":
            return len(completions), prompt + max(completions, default=0)
        return 1, prompt + sum(completions)


def _lengths(batch: GroupBatch) -> list[tuple[int, list[int]]]:
    lengths: list[tuple[int, list[int]]] = [(prompt, []) for prompt in batch.prompt_lengths.tolist()]
    for group, length in zip(batch.group_of.tolist(), batch.completion_lengths.tolist(), strict=True):
        lengths[group][1].append(length)
    return lengths
