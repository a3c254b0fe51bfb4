"""What a run will cost, from arithmetic: updates, tokens, peak memory, and the budget that fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tether.config.train import TrainConfig
from tether.policies.adapters import trainable
from tether.tokens.render import EncodedGroup


def total_updates(config: TrainConfig, updates_per_epoch: int) -> int:
    """Return the number of updates: `max_steps`, else epochs (a part of an epoch is rounded up)."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, math.ceil(config.num_train_epochs * updates_per_epoch))


@dataclass(frozen=True)
class Plan:
    """The cost of a run before it starts; bytes in MiB."""

    rows: int
    updates: int
    updates_per_epoch: int
    tokens_per_epoch: int
    completion_tokens_per_epoch: int
    token_budget: int
    weights_mib: float
    gradients_mib: float
    optimizer_mib: float
    start_copy_mib: float
    activations_mib: float
    head_mib: float
    peak_mib: float


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


def plan_run(config: TrainConfig, model: Any, groups: Sequence[EncodedGroup], *, budget: int) -> Plan:
    """Plan a run over encoded rows, for a model that may be on the meta device."""
    mib = 2**20
    per_epoch = math.ceil(len(groups) / config.pairs_per_update)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    learning = sum(p.numel() for p in trainable(model).values())
    prompt = sum(len(g.prompt_ids) for g in groups)
    completion = sum(len(c.ids) for g in groups for c in g.completions)
    width = 2 if config.bf16 else 4
    longest = max((len(g.prompt_ids) + sum(len(c.ids) for c in g.completions) for g in groups), default=0)
    live = max(min(budget, prompt + completion), longest)
    activations = live * activation_bytes_per_token(
        model.config, checkpointing=config.gradient_checkpointing, bytes_per_value=width
    )
    # Logits, their log-softmax and the gradient of one chunk, fp32.
    head = 3 * 4 * min(config.head_chunk, completion) * int(model.config.vocab_size)
    copy = weights if config.measure_prompts and not config.use_peft else 0
    parts = [weights, 4 * learning, 8 * learning, copy, activations, head]
    return Plan(
        rows=len(groups),
        updates=total_updates(config, per_epoch),
        updates_per_epoch=per_epoch,
        tokens_per_epoch=prompt + completion,
        completion_tokens_per_epoch=completion,
        token_budget=budget,
        weights_mib=weights / mib,
        gradients_mib=4 * learning / mib,
        optimizer_mib=8 * learning / mib,
        start_copy_mib=copy / mib,
        activations_mib=activations / mib,
        head_mib=head / mib,
        peak_mib=sum(parts) / mib,
    )


def model_on_meta(model_config: Any) -> Any:
    """Build a model without memory, to count its parameters."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config)
