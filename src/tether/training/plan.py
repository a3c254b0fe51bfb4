"""What a run will cost, from arithmetic: updates, tokens, peak memory, and the budget that fits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tether.config.train import TrainConfig
from tether.generation.divergence import PIECE, SHORTEST
from tether.generation.measure import SAMPLES_AT_ONCE
from tether.policies.adapters import add_lora, trainable
from tether.policies.quantisation import asked_for, quantised_weights
from tether.tokens.render import EncodedGroup
from tether.training.hardware import Memory
from tether.training.policy import base_dtype
from tether.training.prepare import updates_of
from tether.training.score import uses_bf16


def total_updates(config: TrainConfig, updates_per_epoch: int) -> int:
    """Return the number of updates: `max_steps`, else epochs (a part of an epoch is rounded up)."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * updates_per_epoch))


RETAINED = 0.4
"""What the CPU's allocator keeps, per byte that a pass holds at its peak without activation checkpointing.

Measured (LOG.md, 2026-11-22). Checkpointing frees a block's tensors early, but the hidden states it keeps
stand among the holes, so that the holes are as large as without it."""

FIRST_USE = 56 * 2**20
"""Bytes of the libraries' own pages that a CPU process touches first in a step; measured."""

HEADROOM = 0.9
"""Share of the memory at hand that the largest budget may fill."""


@dataclass(frozen=True)
class Plan:
    """The cost of a run before it starts; bytes in MiB."""

    rows: int
    updates: int
    updates_per_epoch: int
    tokens_per_epoch: int
    completion_tokens_per_epoch: int
    token_budget: int
    process_mib: float
    """The interpreter, the libraries and the prepared rows (this process, now), and what a first step loads
    of the libraries; 0 on an accelerator."""
    weights_mib: float
    gradients_mib: float
    optimizer_mib: float
    start_copy_mib: float
    activations_mib: float
    head_mib: float
    sampling_mib: float
    """Caches and distributions while samples are measured; never at once with activations and head."""
    retained_mib: float
    """What the CPU's allocator keeps beyond the tensors alive."""
    peak_mib: float
    available_mib: float
    largest_token_budget: int
    """The largest budget that an update can fill and whose peak takes at most 90 % of what is available;
    0 where none does."""


def activation_bytes_per_token(config: Any, *, checkpointing: bool, bytes_per_value: int = 4) -> float:
    """Return what one token of a micro-batch keeps for the backward pass, in bytes.

    Per block of a Llama-like model: two norms (input, normalised value), q, k, v before and after rotation,
    attention's output, and the four products of a gated MLP; with checkpointing only each block's input, plus
    one live block.
    """
    hidden = int(config.hidden_size)
    layers = int(config.num_hidden_layers)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden)
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    keys = hidden * groups // heads
    block = 8 * hidden + 2 * (hidden + 2 * keys) + 4 * inner
    kept = layers * hidden + block if checkpointing else layers * block
    return float(bytes_per_value * (kept + 2 * hidden))


def cache_bytes_per_token(config: Any, *, bytes_per_value: int = 4) -> float:
    """Return what one token of a sample keeps in the key-value cache of one model, in bytes."""
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return float(bytes_per_value * 2 * int(config.num_hidden_layers) * groups * width)


def plan_run(
    config: TrainConfig, model: Any, groups: Sequence[EncodedGroup], *, budget: int, memory: Memory
) -> Plan:
    """Plan a run over the rows of an epoch, for a model (with its adapter) that may be on the meta device.

    A micro-batch holds as many tokens as the budget, the largest update of the first epoch (a micro-batch is
    cut from one update), or the longest group where that is longer than the budget.
    """
    mib = 2**20
    updates = updates_of(config, groups)
    per_epoch = updates.updates_per_epoch
    fullest = max((sum(g.tokens for g in updates.update(0, i)) for i in range(per_epoch)), default=0)
    parameters = list(model.parameters())
    learning = sum(p.numel() for p in trainable(model).values())
    weights = 4 * learning + _frozen_bytes(config, model, sum(p.numel() for p in parameters) - learning)
    prompt = sum(len(g.prompt_ids) for g in groups)
    completion = sum(len(c.ids) for g in groups for c in g.completions)
    longest = max((g.tokens for g in groups), default=0)
    kept, whole = (
        activation_bytes_per_token(
            model.config, checkpointing=checkpointing, bytes_per_value=2 if uses_bf16(config) else 4
        )
        for checkpointing in (config.gradient_checkpointing, False)
    )
    # Logits, their log-softmax and the gradient of one chunk, fp32.
    head = 3 * 4 * min(config.head_chunk, completion) * int(model.config.vocab_size)
    copied = (learning if config.adapter_arithmetic else 0) if config.use_peft else weights / 4
    copy = 4 * copied if config.measure_prompts else 0
    sampling = _sampling(config, model.config, groups) if config.measure_prompts else 0.0
    on_cpu = memory.process > 0
    process = memory.process + (FIRST_USE if on_cpu else 0)
    fixed = process + weights + 12 * learning + copy

    def live(tokens: int) -> int:
        return max(min(tokens, fullest), longest)

    def retained(tokens: int) -> float:
        return RETAINED * max(live(tokens) * whole + head, sampling) if on_cpu else 0.0

    def peak(tokens: int) -> float:
        return fixed + max(live(tokens) * kept + head, sampling) + retained(tokens)

    return Plan(
        rows=len(groups),
        updates=total_updates(config, per_epoch),
        updates_per_epoch=per_epoch,
        tokens_per_epoch=prompt + completion,
        completion_tokens_per_epoch=completion,
        token_budget=budget,
        process_mib=process / mib,
        weights_mib=weights / mib,
        gradients_mib=4 * learning / mib,
        optimizer_mib=8 * learning / mib,
        start_copy_mib=copy / mib,
        activations_mib=live(budget) * kept / mib,
        head_mib=head / mib,
        sampling_mib=sampling / mib,
        retained_mib=retained(budget) / mib,
        peak_mib=peak(budget) / mib,
        available_mib=memory.available / mib,
        largest_token_budget=_largest(peak, HEADROOM * memory.available, fullest),
    )


def _frozen_bytes(config: TrainConfig, model: Any, count: int) -> float:
    """Bytes of the weights that do not learn; of a quantised base also the largest one put back for use."""
    each, stored = base_dtype(config).itemsize, asked_for(config)
    if stored is None:
        return each * count
    small = list(quantised_weights(model))
    return each * (count - sum(small) + max(small, default=0)) + stored.bytes_per_weight * sum(small)


def _sampling(config: TrainConfig, model_config: Any, groups: Sequence[EncodedGroup]) -> float:
    """Bytes while a batch of samples is read: two models' caches, six tables of scores of one piece."""
    rows = min(SAMPLES_AT_ONCE, config.measure_prompts)
    length = max((len(g.prompt_ids) for g in groups), default=0) + config.kl_max_new_tokens
    piece = max(PIECE, SHORTEST * rows * int(model_config.vocab_size))
    scores = min(piece, rows * config.kl_max_new_tokens * int(model_config.vocab_size))
    return 2 * rows * length * cache_bytes_per_token(model_config) + 6 * 4 * scores


def _largest(peak: Callable[[int], float], limit: float, most: int) -> int:
    """Return the largest budget, in steps of 256 tokens, whose peak stays under the limit."""
    if peak(256) > limit:
        return 0
    low, high = 1, max(math.ceil(most / 256), 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if peak(256 * middle) <= limit else (low, middle - 1)
    return 256 * low


def model_on_meta(model_config: Any, config: TrainConfig) -> Any:
    """Build a model without memory, with the adapter the run would train, to count its parameters."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
        return add_lora(model, config, seed=0) if config.use_peft else model
