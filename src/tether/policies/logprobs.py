"""The one place where hidden states become log-probs: for training, scoring, and judging alike.

Nothing vocabulary-sized is kept for longer than one chunk of completion tokens. `sequence_logprobs` gives
values (and, where asked for, a graph that computes each chunk again); `forward_backward` fuses loss and
backward into each chunk of whole groups, so that nothing is computed twice.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tether.errors import ModelError
from tether.policies.attention import layout_attention
from tether.policies.head import Parts, take_apart, token_logprobs
from tether.policies.layouts import Layout, LayoutInputs, lay_out
from tether.policies.sharding import in_shards, within
from tether.records.tensors import GroupBatch, SequenceLogProbs

HEAD_CHUNK = 512
"""Completion tokens per pass through the LM head; its logits take 4 x V bytes each."""

WHOLE_LOGITS = 2**24
"""A group of more tokens than a chunk still goes through the head at once while its logits are this few."""

Loss = Callable[[SequenceLogProbs, Int64[Tensor, " g"]], Tensor]
"""(log-probs of the completions of some whole groups, indices of these groups) -> scalar to differentiate."""


def sequence_logprobs(
    model: Any, batch: GroupBatch, *, layout: Layout = "padded", head_chunk: int = HEAD_CHUNK
) -> SequenceLogProbs:
    """Return log-probs of every completion and of its tokens, nats, fp32, on the model's device.

    Values stand in the batch's order whatever the layout. With gradients enabled the result carries a graph;
    chunks of the head are then computed again in the backward pass.

    Raises:
        ModelError: the model cannot be taken apart, or a graph is asked for of a model in shards, or in a
            layout other than padded with activation checkpointing (its backward pass would run outside).
        DataError: a prompt without tokens, or a group without completions.

    """
    parts = take_apart(model)
    graph = torch.is_grad_enabled()
    if graph and in_shards(model):
        raise ModelError("a graph through a model in shards needs forward_backward; use that")
    if graph and layout != "padded" and _checkpoints_activations(parts):
        raise ModelError(
            f"a graph in the {layout} layout with activation checkpointing needs forward_backward; use that"
        )

    def tokens() -> Float[Tensor, " T"]:
        with completion_states(parts, batch, layout) as hidden:
            ids = batch.scored_ids.to(hidden.device)
            pieces = [
                checkpoint(token_logprobs, parts, part, some, use_reentrant=False, preserve_rng_state=False)
                if graph
                else token_logprobs(parts, part, some)
                for part, some in zip(hidden.split(head_chunk), ids.split(head_chunk), strict=True)
            ]
        return torch.cat(pieces) if pieces else hidden.new_zeros(0, dtype=torch.float32)

    return summed(within(model, tokens), batch.scored_lengths)


def summed_hidden(model: Any, batch: GroupBatch, *, layout: Layout = "padded") -> Float[Tensor, "S h"]:
    """Return per completion the sum of the hidden states that predict its tokens, fp32, without gradient."""
    with torch.no_grad(), completion_states(take_apart(model), batch, layout) as hidden:
        sums = torch.zeros(batch.sequences, hidden.shape[-1], dtype=torch.float32, device=hidden.device)
        of = torch.repeat_interleave(torch.arange(batch.sequences), batch.scored_lengths)
        return sums.index_add_(0, of.to(hidden.device), hidden.float())


def forward_backward(
    model: Any,
    batch: GroupBatch,
    *,
    layout: Layout,
    loss: Loss,
    head_chunk: int = HEAD_CHUNK,
) -> SequenceLogProbs:
    """Add the gradient of the summed losses of all groups to `.grad`; return the log-probs, detached.

    `loss` is called once per chunk of whole groups and must not couple groups of different chunks. A chunk
    holds at most `head_chunk` completion tokens or one group; a group of more logits than `WHOLE_LOGITS` goes
    through the head in parts, twice. Works with activation checkpointing and under autocast.

    Raises:
        ModelError: the model cannot be taken apart.
        DataError: a prompt without tokens, or a group without completions.

    """
    parts = take_apart(model)
    with torch.enable_grad(), _laid_out(parts, batch, layout) as inputs:

        def through_head() -> tuple[Tensor, Tensor, Tensor]:
            hidden = _hidden(parts, inputs).index_select(0, _sources(inputs, batch))
            return hidden, *_head_gradient(parts, hidden, batch, loss, head_chunk)

        hidden, gradient, values = within(model, through_head)
        if hidden.requires_grad:
            hidden.backward(gradient)
    return summed(values, batch.scored_lengths)


def _head_gradient(
    parts: Parts, hidden: Float[Tensor, "T h"], batch: GroupBatch, loss: Loss, head_chunk: int
) -> tuple[Float[Tensor, "T h"], Float[Tensor, " T"]]:
    """Return the gradient of the hidden states and the tokens' log-probs; the head's goes to its `.grad`."""
    ids = batch.scored_ids.to(hidden.device)
    values = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
    gradient = torch.empty_like(hidden, requires_grad=False)
    whole = max(head_chunk, WHOLE_LOGITS // parts.vocabulary)
    for chunk in whole_groups(batch, head_chunk):
        part = hidden.detach()[chunk.tokens].requires_grad_(hidden.requires_grad)
        step = _whole if len(part) <= whole else _in_parts
        tokens = step(parts, part, ids[chunk.tokens], chunk, loss, head_chunk)
        values[chunk.tokens] = tokens
        if part.grad is not None:
            gradient[chunk.tokens] = part.grad
        else:
            gradient[chunk.tokens] = 0.0
    return gradient, values


@dataclass(frozen=True)
class Chunk:
    """Neighbouring whole groups, and where their scored tokens stand."""

    groups: Int64[Tensor, " g"]
    lengths: Int64[Tensor, " s"]
    tokens: slice


def whole_groups(batch: GroupBatch, head_chunk: int) -> list[Chunk]:
    """Cut a batch into runs of whole groups of at most `head_chunk` scored tokens, one group at least."""
    lengths = batch.scored_lengths
    per_group = torch.zeros(len(batch), dtype=torch.int64).index_add_(0, batch.group_of, lengths)
    bounds: list[tuple[int, int, int, int]] = []
    first, begin, end = 0, 0, 0
    for group, count in enumerate(per_group.tolist()):
        if group > first and end + count - begin > head_chunk:
            bounds.append((first, group, begin, end))
            first, begin = group, end
        end += count
    if len(batch):
        bounds.append((first, len(batch), begin, end))
    return [
        Chunk(
            torch.arange(low, high),
            lengths[(batch.group_of >= low) & (batch.group_of < high)],
            slice(start, stop),
        )
        for low, high, start, stop in bounds
    ]


def _whole(
    parts: Parts, hidden: Tensor, ids: Tensor, chunk: Chunk, loss: Loss, head_chunk: int
) -> Float[Tensor, " n"]:
    """Logits, loss and backward of one chunk at once."""
    tokens = token_logprobs(parts, hidden, ids)
    loss(summed(tokens, chunk.lengths), chunk.groups).backward()
    return tokens.detach()


def _in_parts(
    parts: Parts, hidden: Tensor, ids: Tensor, chunk: Chunk, loss: Loss, head_chunk: int
) -> Float[Tensor, " n"]:
    """Values first, the loss's derivative with respect to them next, then part by part again with a graph."""
    with torch.no_grad():
        pairs = zip(hidden.split(head_chunk), ids.split(head_chunk), strict=True)
        tokens = torch.cat([token_logprobs(parts, part, some) for part, some in pairs])
    leaf = tokens.clone().requires_grad_()
    loss(summed(leaf, chunk.lengths), chunk.groups).backward()
    assert leaf.grad is not None, "the loss does not depend on the log-probs"
    pieces: list[Tensor] = []
    for part, some, slope in zip(
        hidden.detach().split(head_chunk), ids.split(head_chunk), leaf.grad.split(head_chunk), strict=True
    ):
        piece = part.requires_grad_(hidden.requires_grad)
        token_logprobs(parts, piece, some).backward(slope)
        pieces.append(torch.zeros_like(piece) if piece.grad is None else piece.grad)
    if hidden.requires_grad:
        hidden.grad = torch.cat(pieces)
    return tokens


@contextmanager
def completion_states(parts: Parts, batch: GroupBatch, layout: Layout) -> Generator[Float[Tensor, "T h"]]:
    """Run the backbone; give the hidden state that predicts each scored token, inside the layout."""
    with _laid_out(parts, batch, layout) as inputs:
        yield _hidden(parts, inputs).index_select(0, _sources(inputs, batch))


@contextmanager
def _laid_out(parts: Parts, batch: GroupBatch, layout: Layout) -> Generator[LayoutInputs]:
    device = next(parts.backbone.parameters()).device
    inputs = lay_out(batch, layout, device)
    with layout_attention(parts.backbone, inputs):
        yield inputs


def _sources(inputs: LayoutInputs, batch: GroupBatch) -> Int64[Tensor, " T"]:
    """Return where the states stand that predict the scored tokens."""
    return inputs.sources if batch.scored is None else inputs.sources[batch.scored.to(inputs.sources.device)]


def _hidden(parts: Parts, inputs: LayoutInputs) -> Float[Tensor, "n h"]:
    output = parts.backbone(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        position_ids=inputs.position_ids,
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)


def summed(tokens: Float[Tensor, " T"], lengths: Int64[Tensor, " S"]) -> SequenceLogProbs:
    """Return per-token log-probs with their sum over each completion."""
    # One sum per completion: its rounding then depends on that completion alone, not on its neighbours.
    sums = torch.stack([part.sum() for part in tokens.split(lengths.tolist())])
    return SequenceLogProbs(sums, lengths.to(tokens.device), tokens)


def _checkpoints_activations(parts: Parts) -> bool:
    return parts.backbone.training and any(
        getattr(module, "gradient_checkpointing", False) for module in parts.backbone.modules()
    )
