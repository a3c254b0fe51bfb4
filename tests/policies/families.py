"""The model families every layout is held to, and how far two layouts may differ."""

from typing import Any

import torch

from tests.tiny import tiny_batch
from tether.records.tensors import GroupBatch, SequenceLogProbs

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 6}),
    "gemma": ("gemma", {}),
    "gemma2": (
        "gemma2",
        {"sliding_window": 6, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0},
    ),
    "gemma3": ("gemma3_text", {"sliding_window": 6}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
}

SHAPES = [(9, [5, 12]), (30, [1, 4, 7]), (3, [8]), (14, [20, 2, 1, 6]), (11, [1, 1])]
"""One to four completions, uneven lengths, one-token completions, prompts shorter and longer than them."""


def uneven_batch() -> GroupBatch:
    """Return groups of one to four completions; windows of 6 bite in every one."""
    return tiny_batch(SHAPES)


def same_sums(ours: SequenceLogProbs, oracle: SequenceLogProbs) -> None:
    """Sums agree to 1e-6 relative, where a token near probability one counts as one nat."""
    scale = oracle.sums.abs() + oracle.counts
    assert torch.equal(ours.counts, oracle.counts)
    assert ((ours.sums - oracle.sums).abs() <= 1e-6 * scale).all(), (ours.sums - oracle.sums).abs() / scale


def gradients(model: Any) -> torch.Tensor:
    """Return all gradients as one vector and clear them."""
    vector = torch.cat(
        [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()]
    )
    model.zero_grad(set_to_none=True)
    return vector


def apart(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    """Return the relative distance of two gradient vectors."""
    return float((ours - oracle).norm() / oracle.norm())
