"""The next token from its distribution: temperature, filters, and noise that belongs to the sequence.

A sequence's noise is a Philox stream keyed by its seed: its n-th number serves its n-th token, whatever else
is in the batch, on whatever device. The token is found by inverting the cumulative distribution in whole
numbers (probabilities in units of 2^-53), so the order of summation cannot move a boundary.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

UNITS = 2**53
"""Whole numbers a float64 holds exactly: the resolution of a probability when a token is drawn."""


def sample_seeds(seed: int, keys: Sequence[str], samples: int = 1, *, who: str = "") -> list[int]:
    """Return one 128-bit seed per (prompt, sample), prompts in order, the samples of a prompt together.

    It depends on the run's seed, the prompt's text key, which of its samples it is, and how often the same
    prompt came before: never on the other prompts. A repeated prompt gets fresh samples.

    Models that share noise give answers that depend on each other: differences of their scores become
    precise, but how often one is better than the other is then no longer the win rate. `who` names the model
    where its answers may be judged beside another's, and gives it noise of its own.
    """
    seen: dict[str, int] = {}
    seeds: list[int] = []
    for key in keys:
        first = seen.get(key, 0)
        seen[key] = first + samples
        seeds += [_seed(seed, key, first + sample, who) for sample in range(samples)]
    return seeds


def _seed(seed: int, key: str, sample: int, who: str) -> int:
    # The name first and hashed, so that no name can pass for a seed.
    own = hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest() + "|" if who else ""
    digest = hashlib.sha256(f"{own}{seed}|{sample}|{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16], "little")


def noise(seeds: Sequence[int], steps: int) -> Float64[Tensor, "B steps"]:
    """Return uniforms in [0, 1): row i is the beginning of stream `seeds[i]`, the same for any `steps`."""
    rows = [np.random.Philox(key=seed % 2**128).random_raw(steps) >> np.uint64(11) for seed in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float64) / UNITS)


def warpers(temperature: float, top_k: int, top_p: float, min_p: float) -> LogitsProcessorList:
    """Return the filters asked for, transformers' own, in its order: temperature, top-k, top-p, min-p."""
    chain = LogitsProcessorList()
    if temperature != 1:
        chain.append(TemperatureLogitsWarper(temperature))
    if top_k > 0:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        chain.append(MinPLogitsWarper(min_p))
    return chain


def draw(scores: Float[Tensor, "B V"], uniforms: Float64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Return the first token whose cumulative probability exceeds its uniform.

    A token of probability 0 is never drawn; one below 2^-54 counts as 0.
    """
    weights = (scores.softmax(-1, dtype=torch.float64) * UNITS).round().to(torch.int64)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    target = (uniforms.to(scores.device).unsqueeze(-1) * total).floor().to(torch.int64)
    target = torch.minimum(target, total - 1)
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)
