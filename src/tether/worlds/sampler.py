"""Sampling from a causal LM at temperature 1, small and self-contained: worlds need it before any run exists.

Every row has its own stream of uniform numbers, drawn before anything else, so a row's sample does not depend
on how rows are batched (up to the rounding of the model's own kernels).
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache


@dataclass(frozen=True)
class Drawn:
    """One sampled completion: its token ids without the end token, and whether it ended by itself."""

    ids: tuple[int, ...]
    ended: bool


@contextmanager
def one_thread() -> Generator[None]:
    """Compute in one thread: steps this small lose more to threads that wait for each other than they gain.

    On two cores that were busy otherwise, two threads took seven times the processor time of one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def draw(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end: int,
    max_new_tokens: int,
    generator: torch.Generator,
    batch_size: int = 256,
) -> list[Drawn]:
    """Return one completion per prompt (token ids), drawn from the model's own distribution, no filters.

    Inverse-CDF sampling of one uniform number per row and step; stops at `end` or at `max_new_tokens`.
    """
    uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator, dtype=torch.float64)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    found: dict[int, Drawn] = {}
    with one_thread():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, drawn in zip(
                rows, _draw(model, [prompts[r] for r in rows], end, uniforms[rows]), strict=True
            ):
                found[row] = drawn
    return [found[row] for row in range(len(prompts))]


def _draw(model: Any, prompts: list[Sequence[int]], end: int, uniforms: Tensor) -> list[Drawn]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), end, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    cache = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    drawn: list[list[int]] = [[] for _ in prompts]
    live = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(uniforms.shape[1]):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = inverse_cdf(logits, uniforms[:, step])
        for row in torch.nonzero(live).flatten().tolist():
            drawn[row].append(int(chosen[row]))
        live &= chosen != end
        if not live.any():
            break
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return [Drawn(tuple(t for t in tokens if t != end), tokens[-1] == end) for tokens in drawn]


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return the token each uniform number in [0, 1) picks from softmax(logits), computed in fp64.

    logits [rows, V], uniforms [rows] -> int64 [rows].
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    reached = uniforms[:, None].double() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, reached, right=True).flatten().clamp(max=logits.shape[-1] - 1)
