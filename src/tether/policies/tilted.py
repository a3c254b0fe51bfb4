"""A policy tilted a step away from, and towards, its reference: needs both models' logits at every token.

This is what epsilon-DPO reads (2502.13177), and what decode-time realignment samples from (2402.02992).
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tether.policies.head import Parts, take_apart
from tether.policies.layouts import Layout
from tether.policies.logprobs import HEAD_CHUNK, completion_states, summed
from tether.policies.sharding import within
from tether.records.tensors import GroupBatch, Tilted


@dataclass(frozen=True)
class LiveReference:
    """The reference as a runnable model: a frozen one, or the policy with its adapter off."""

    model: Any
    adapter_off: bool = False

    @contextmanager
    def running(self) -> Generator[Any]:
        """Give the model as the reference, in evaluation mode."""
        with evaluating(self.model):
            if self.adapter_off:
                with self.model.disable_adapter():
                    yield self.model
            else:
                yield self.model


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """Put a model into evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def tilted_logprobs(
    policy: Any,
    reference: LiveReference,
    batch: GroupBatch,
    *,
    step: float,
    layout: Layout = "padded",
    head_chunk: int = HEAD_CHUNK,
) -> Tilted:
    """Return summed log-probs under softmax((1 +- step) z -+ step z_ref), nats, fp32, without gradient.

    Raises:
        ModelError: a model cannot be taken apart.

    """
    parts = take_apart(policy)

    def both() -> tuple[Tensor, Tensor]:
        with evaluating(policy), completion_states(parts, batch, layout) as found:
            mine = found
        with reference.running() as model:
            frozen = take_apart(model)
            with completion_states(frozen, batch, layout) as found:
                theirs = found
        ids = batch.scored_ids.to(mine.device)
        sides = (mine, theirs.to(mine.device), ids)
        chunks = zip(*(side.split(head_chunk) for side in sides), strict=True)
        pieces = [_tilted(parts, frozen, a, b, some, step) for a, b, some in chunks]
        away, towards = (torch.cat([piece[side] for piece in pieces]) for side in (0, 1))
        return away, towards

    with torch.no_grad():
        away, towards = within(policy, lambda: within(reference.model, both))
    lengths = batch.scored_lengths
    return Tilted(summed(away, lengths).sums, summed(towards, lengths).sums)


def _tilted(
    parts: Parts,
    frozen: Parts,
    mine: Float[Tensor, "n h"],
    theirs: Float[Tensor, "n h"],
    ids: Int64[Tensor, " n"],
    step: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    policy, reference = parts.logits(mine).float(), frozen.logits(theirs).float()
    further = step * (policy - reference)
    away, towards = (
        torch.log_softmax(logits, dim=-1).gather(1, ids[:, None]).squeeze(1)
        for logits in (policy + further, policy - further)
    )
    return away, towards
