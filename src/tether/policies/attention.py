"""How the shared, packed and varlen layouts reach a stock model: three attentions under names of our own.

transformers looks attention up by name twice, once for the function and once for its mask; both are
registered, because a name known to the first alone drops the mask silently. A mask is built from the model's
own rule (causal, sliding, chunked) applied to positions, so layers of several types need no special case. The
result travels to each layer as its `attention_mask` argument, which activation checkpointing keeps.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from tether.errors import ModelError
from tether.policies.layouts import PADDING, PROMPT, LayoutInputs
from tether.policies.packed import PackedPlan, Rule, Segments

SHARED, PACKED, VARLEN = "tether_shared", "tether_packed", "tether_varlen"
_NAMES = {"shared": SHARED, "packed": PACKED, "varlen": VARLEN}

_ACTIVE: ContextVar[LayoutInputs | None] = ContextVar("tether_layout", default=None)

_REFUSED = ("s_aux", "position_bias", "attn_bias", "alibi")
"""Arguments by which a model changes the scores in a way these functions do not compute."""


@dataclass(frozen=True)
class PackedMask:
    """The plan of a packed row and, for each of its calls, an additive mask or None (the causal flag)."""

    plan: PackedPlan
    masks: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Reach:
    """The rows of a varlen layout and how many keys back a query of this layer sees, itself included."""

    segments: Segments
    window: int | None
    """None: everything before it."""


@contextmanager
def layout_attention(backbone: nn.Module, inputs: LayoutInputs) -> Generator[None]:
    """Let `backbone` attend as this layout does, also in a backward pass run inside; restore it after."""
    if inputs.layout == "padded":
        yield
        return
    name = _NAMES[inputs.layout]
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in backbone.modules()
        if isinstance(module, PreTrainedModel)
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _ACTIVE.set(inputs)
    try:
        for config in configs.values():
            # The property of this name would also change parts of the model that are not run here.
            config._attn_implementation_internal = name
        yield
    finally:
        _ACTIVE.reset(token)
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


def shared_mask(inputs: LayoutInputs, rule: Rule) -> Bool[Tensor, "G 1 L L"]:
    """Return who sees whom in rows of one group: the prompt and the own completion, as the rule allows."""
    segments, positions = inputs.segments, inputs.position_ids
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = (key == PROMPT) | (key == query)
    allowed = allowed & rule(positions[:, :, None], positions[:, None, :])
    # A padding position sees itself: a softmax over nothing would be NaN.
    itself = torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)
    return torch.where(query == PADDING, itself, allowed)[:, None]


def _rule(mask_function: Callable[..., Tensor], *, custom: bool, device: torch.device) -> Rule:
    if custom:
        raise ModelError("the model adds a mask rule of its own; use the padded layout")
    zero = torch.zeros((), dtype=torch.int64, device=device)

    def rule(query: Tensor, key: Tensor) -> Tensor:
        return mask_function(zero, zero, query, key)

    if bool(rule(zero, zero + 1)):
        raise ModelError("the model is not causal; use the padded layout")
    return rule


def _active(layout: str) -> LayoutInputs:
    inputs = _ACTIVE.get()
    if inputs is None or inputs.layout != layout:
        raise ModelError(f"the {layout} attention was used outside policies.logprobs")
    return inputs


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return what is computed in where tensors of `dtype` meet autocast, if it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask as numbers to add, once for all layers; the kernels would convert it in each."""
    dtype = compute_dtype(mask.device, dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def _shared_mask_of(
    *, mask_function: Callable[..., Tensor], dtype: torch.dtype, use_vmap: bool = False, **_: Any
) -> Tensor:
    inputs = _active("shared")
    rule = _rule(mask_function, custom=use_vmap, device=inputs.segments.device)
    return _additive(shared_mask(inputs, rule), dtype)


def _packed_mask_of(
    *, mask_function: Callable[..., Tensor], dtype: torch.dtype, use_vmap: bool = False, **_: Any
) -> PackedMask:
    inputs = _active("packed")
    plan = inputs.plan
    assert isinstance(plan, PackedPlan), "a packed layout has a plan"
    device = inputs.segments.device
    rule = _rule(mask_function, custom=use_vmap, device=device)
    last = torch.tensor(plan.longest - 1, device=device)
    # The last position sees everything before it exactly when no window or chunk bites.
    plain = bool(rule(last, torch.arange(plan.longest, device=device)).all())
    return PackedMask(
        plan,
        tuple(
            None if plain and bucket.causal else _additive(bucket.mask(rule), dtype)
            for bucket in plan.buckets
        ),
    )


WINDOW_PROBES = 64


def _varlen_mask_of(*, mask_function: Callable[..., Tensor], use_vmap: bool = False, **_: Any) -> Reach:
    """Read a layer's rule as a number the kernel understands; one that is no window is refused."""
    inputs = _active("varlen")
    segments = inputs.plan
    assert isinstance(segments, Segments), "a varlen layout has its rows"
    device = inputs.segments.device
    rule = _rule(mask_function, custom=use_vmap, device=device)
    keys = torch.arange(segments.longest, device=device)
    window = int(rule(keys[-1:], keys).sum())
    # From the end, so that the last position, which sees most, is always among them.
    queries = keys.flip(0)[:: max(1, len(keys) // WINDOW_PROBES), None]
    wanted = (keys <= queries) & (keys > queries - window)
    if not torch.equal(rule(queries, keys).expand_as(wanted), wanted):
        raise ModelError("a layer's mask is neither causal nor a sliding window; use the packed layout")
    return Reach(segments, None if window == len(keys) else window)


def _refuse(arguments: dict[str, Any]) -> None:
    for name in _REFUSED:
        if arguments.get(name) is not None:
            raise ModelError(f"the model's attention uses {name!r}, which only the padded layout computes")


def _attend(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B KV K D"],
    value: Float[Tensor, "B KV K E"],
    mask: Tensor | None,
    *,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Float[Tensor, "B H Q E"]:
    """Attention over one rectangular batch; without a mask it is causal."""
    repeats = query.shape[1] // key.shape[1]
    # On CUDA a mask with grouped heads falls back to the slow kernel; on the CPU the kernel takes both.
    grouped = repeats > 1 and softcap is None and (mask is None or not query.is_cuda)
    if repeats > 1 and not grouped:
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    if softcap is not None:
        return _capped(query, key, value, mask, dropout=dropout, scaling=scaling, softcap=softcap)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=grouped,
    )


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2), in the order of the model's own eager form."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / softcap) * softcap
    if mask is None:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~ones.tril(), float("-inf"))
    else:
        scores = scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return F.dropout(weights, p=dropout) @ value


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention over rows of one group each under a dense [G, 1, L, L] mask."""
    _refuse(arguments)
    if not isinstance(attention_mask, Tensor):
        raise ModelError(f"{type(module).__name__} was given no mask for the shared layout")
    answer = _attend(query, key, value, attention_mask, dropout=dropout, scaling=scaling, softcap=softcap)
    return answer.transpose(1, 2).contiguous(), None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PackedMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row [1, H, T, D], call by call."""
    _refuse(arguments)
    if not isinstance(attention_mask, PackedMask):
        raise ModelError(f"{type(module).__name__} was given no plan for the packed layout")
    plan = attention_mask.plan
    queries, keys, values = (
        tensor.squeeze(0).transpose(0, 1).index_select(0, index)
        for tensor, index in ((query, plan.query_index), (key, plan.key_index), (value, plan.key_index))
    )
    asked = [bucket.rows * bucket.queries for bucket in plan.buckets]
    given = [bucket.rows * bucket.keys for bucket in plan.buckets]
    answers: list[Tensor] = []
    for bucket, mask, *parts in zip(
        plan.buckets,
        attention_mask.masks,
        queries.split(asked),
        keys.split(given),
        values.split(given),
        strict=True,
    ):
        rows = [part.unflatten(0, (bucket.rows, -1)).transpose(1, 2) for part in parts]
        answer = _attend(rows[0], rows[1], rows[2], mask, dropout=dropout, scaling=scaling, softcap=softcap)
        answers.append(answer.transpose(1, 2).flatten(0, 1))
    return torch.cat(answers).index_select(0, plan.output_index).unsqueeze(0), None


@cache
def _groups_heads(kernel: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(kernel).parameters


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Reach | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row [1, H, T, D] in one call of torch's variable-length kernel."""
    _refuse(arguments)
    if not isinstance(attention_mask, Reach):
        raise ModelError(f"{type(module).__name__} was given no rows for the varlen layout")
    if dropout or softcap is not None:
        what = "dropout on" if dropout else "a soft cap on"
        raise ModelError(f"the model has {what} its attention, which the variable-length kernel has not")
    segments, window = attention_mask.segments, attention_mask.window
    # Rotations in fp32 leave queries and keys wider than values under autocast; the kernel is half precision.
    dtype = compute_dtype(value.device, value.dtype)
    queries, keys, values = (tensor.squeeze(0).transpose(0, 1).to(dtype) for tensor in (query, key, value))
    keys, values = (tensor.index_select(0, segments.key_index) for tensor in (keys, values))
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if queries.shape[1] != keys.shape[1]:
        if _groups_heads(varlen_attn):
            options["enable_gqa"] = True
        else:  # torch 2.11
            repeats = queries.shape[1] // keys.shape[1]
            keys, values = (tensor.repeat_interleave(repeats, dim=1) for tensor in (keys, values))
    answer = varlen_attn(
        queries,
        keys,
        values,
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest,
        **options,
    )
    assert isinstance(answer, Tensor)
    return answer.unsqueeze(0), None


AttentionInterface.register(SHARED, shared_attention)
AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(SHARED, _shared_mask_of)
AttentionMaskInterface.register(PACKED, _packed_mask_of)  # pyright: ignore[reportArgumentType]  carried, not read, by the model
AttentionMaskInterface.register(VARLEN, _varlen_mask_of)  # pyright: ignore[reportArgumentType]
