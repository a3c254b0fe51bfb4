"""Start-up check: the layout asked for must give the padded layout's numbers, or the run uses padded."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from tether.errors import ModelError, UsageError
from tether.policies.attention import compute_dtype
from tether.policies.head import check_head, take_apart
from tether.policies.layouts import Layout
from tether.policies.logprobs import sequence_logprobs
from tether.policies.sharding import in_shards, within
from tether.records.tensors import GroupBatch, SequenceLogProbs

ROWS = 4
"""Groups compared; a wrong mask shows on every one."""

GRADIENTS = 4
"""The smallest vectors and matrices, this many of each: keys and values are among them. Their gradients are
compared where a kernel's backward pass is not torch's usual one."""
GRADIENT_LIMIT = 0.1
"""Relative; rounding of half precision stays below, a wrong mask does not."""

Autocast = Callable[[], AbstractContextManager[object]]

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class LayoutChoice:
    """The layout a run uses, what was asked for, why they differ (one line), and the measured error."""

    name: Layout
    requested: str
    reason: str | None
    error: float
    """Largest |difference of a completion's sum from padded| / (1 + sum of its tokens' |log p|)."""


def choose_layout(
    model: Any, requested: str, batch: GroupBatch, *, autocast: Autocast = nullcontext
) -> LayoutChoice:
    """Compare the layout asked for with `padded` on a few groups of `batch` and return the one to use.

    `auto` takes varlen (CUDA in half precision only), packed, shared or padded: the first that agrees. The
    limit is 1e-5 relative in fp32, one unit of rounding in half precision, or four times the difference
    between two padded batch sizes. `autocast` is what the run computes in; varlen is compared in it, the
    others in the model's own precision, where a mistake shows best.

    Raises:
        ModelError: the model's logits are not understood (see `head.check_head`).
        UsageError: a layout that does not exist.

    """
    known = (*get_args(Layout), "auto")
    if requested not in known:
        raise UsageError(f"layout {requested!r} does not exist; use one of {', '.join(known)}")
    within(model, lambda: check_head(model))
    if requested == "padded":
        return LayoutChoice("padded", requested, None, 0.0)
    if reason := _cannot_share(model):
        return LayoutChoice("padded", requested, reason, 0.0)
    some = batch.select(range(min(ROWS, len(batch))))
    training = model.training
    model.eval()
    reasons: list[str] = []
    try:
        for names, context in _tries(model, requested, autocast):
            with context():
                choice = _first_that_agrees(model, requested, some, names, reasons)
            if choice is not None:
                return choice
    finally:
        model.train(training)
    return LayoutChoice("padded", requested, "; ".join(reasons), 0.0)


def _tries(model: Any, requested: str, autocast: Autocast) -> list[tuple[tuple[Layout, ...], Autocast]]:
    """Return layouts in the order they are tried, and what each is compared in."""
    if requested == "varlen":
        return [(("varlen",), autocast)]
    if requested != "auto":
        return [((_named(requested),), nullcontext)]
    rest: tuple[tuple[Layout, ...], Autocast] = (("packed", "shared"), nullcontext)
    with autocast():
        half = _compute_dtype(model) in (torch.float16, torch.bfloat16)
    return [(("varlen",), autocast), rest] if half and next(model.parameters()).is_cuda else [rest]


def _first_that_agrees(
    model: Any, requested: str, batch: GroupBatch, names: tuple[Layout, ...], reasons: list[str]
) -> LayoutChoice | None:
    with torch.no_grad():
        # Group by group: the longest would pad all the others to its length.
        singles = [
            sequence_logprobs(model, batch.select([group]), layout="padded") for group in range(len(batch))
        ]
        for name in names:
            try:
                error, limit = _measured(model, batch, name, singles)
            except torch.OutOfMemoryError:
                raise
            except (ModelError, RuntimeError, TypeError, ValueError, AttributeError, LookupError) as failure:
                # Whatever a model's own code makes of a foreign mask, the answer is the same: do not use it.
                reasons.append(
                    f"{name}: {str(failure).splitlines()[0] if str(failure) else type(failure).__name__}"
                )
                continue
            if error <= limit:
                return LayoutChoice(name, requested, "; ".join(reasons) or None, error)
            reasons.append(
                f"{name}: log-probs differ from padded by {error:.1e} relative (limit {limit:.0e})"
            )
    return None


def _measured(
    model: Any, batch: GroupBatch, name: Layout, singles: list[SequenceLogProbs]
) -> tuple[float, float]:
    """Return a layout's error against padded rows of one group each, and its limit."""
    if name == "varlen":
        _refuse_dropout(model)
    error = _error(sequence_logprobs(model, batch, layout=name), _joined(singles))
    limit = max(1e-5, torch.finfo(_compute_dtype(model)).eps)
    if error > limit:  # only then is another pass worth it, to know the noise of a batch
        short = sequence_logprobs(model, batch.select(range(min(2, len(batch)))), layout="padded")
        limit = max(limit, 4 * _error(short, _joined(singles[:2])))
    if error <= limit and name == "varlen":
        _check_gradient(model, batch)
    return error, limit


def _refuse_dropout(model: Any) -> None:
    """Refuse what only shows once the model trains; the comparison is made without dropout."""
    backbone: Any = take_apart(model).backbone
    config = backbone.config.get_text_config()
    for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
        if rate := getattr(config, name, None):
            raise ModelError(f"{name} is {rate:g}, and the variable-length kernel has no dropout")


def _check_gradient(model: Any, batch: GroupBatch) -> None:
    """Hold the variable-length kernel's backward pass to padded's, through a few small parameters.

    Raises:
        ModelError: they differ by more than half precision explains.

    """
    if in_shards(model):  # a graph through shards is not to be had; the forward pass was compared
        return
    ordered = sorted((p for p in model.parameters() if p.requires_grad), key=Tensor.numel)
    matrices = [p for p in ordered if p.dim() > 1][:GRADIENTS]
    parameters = [*[p for p in ordered if p.dim() <= 1][:GRADIENTS], *matrices]
    if not parameters:
        return
    group = batch.select([int(batch.group_lengths.argmin())])
    found: list[Tensor] = []
    for name in ("padded", "varlen"):
        with torch.enable_grad():
            sums = sequence_logprobs(model, group, layout=name).sums.sum()
        parts = torch.autograd.grad(sums, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.flatten().float() for part in parts]))
    error = float((found[1] - found[0]).norm() / found[0].norm().clamp(min=1e-12))
    if not error <= GRADIENT_LIMIT:
        raise ModelError(f"gradients differ from padded by {error:.1e} relative (limit {GRADIENT_LIMIT:g})")


def _named(requested: str) -> Layout:
    return next(name for name in get_args(Layout) if name == requested)


def _joined(parts: list[SequenceLogProbs]) -> SequenceLogProbs:
    sums, counts = [part.sums for part in parts], [part.counts for part in parts]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return SequenceLogProbs(torch.cat(sums), torch.cat(counts), torch.cat(tokens))


def _error(ours: SequenceLogProbs, oracle: SequenceLogProbs) -> float:
    assert oracle.tokens is not None, "a policy knows its tokens"
    sizes = torch.stack([part.abs().sum() for part in oracle.tokens.split(oracle.counts.tolist())])
    error = float(((ours.sums - oracle.sums).abs() / (1 + sizes)).max())
    return error if error == error else float("inf")


def _compute_dtype(model: Any) -> torch.dtype:
    parameter = next(model.parameters())
    return compute_dtype(parameter.device, parameter.dtype)


def _cannot_share(model: Any) -> str | None:
    """Return why this model's layers cannot keep completions apart, where its config already says so."""
    backbone: Any = take_apart(model).backbone
    config = backbone.config.get_text_config()
    other = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION)
    if other:
        return f"{config.model_type} has {', '.join(other)} layers, which cannot share a prompt"
    if getattr(backbone, "_is_stateful", False):
        return f"{config.model_type} is recurrent and cannot share a prompt"
    return None
