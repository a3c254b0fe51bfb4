"""How fast this machine multiplies matrices now: the floor is computed from it, and runs are judged by it."""

import time
from dataclasses import dataclass

import torch

from bench.floor import Shape

QUIET = 0.90
"""A run counts only while the machine gives this share of the rate it gave at the start."""

_SIZE = {"cpu": 2048, "cuda": 8192}
_PROBE_SECONDS = 3.0
"""Long enough to see past the swings within seconds of a shared host; a lasting slowdown still shows."""


@dataclass(frozen=True)
class Rates:
    """Matrix multiplication rates, FLOP per second."""

    square: float
    """A large square product: judges whether the machine is quiet."""
    block: float
    """The shape of a block's MLP."""
    head: float
    """The shape of the LM head."""


def rate(rows: int, inner: int, columns: int, *, device: str, bf16: bool, seconds: float = 0.4) -> float:
    """Return the best rate over repeated products [rows, inner] x [inner, columns], FLOP per second."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    best, began = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2.0 * rows * inner * columns / (time.perf_counter() - start))
    return best


def square_rate(device: str, bf16: bool = False) -> float:
    """Return the rate of a large square product: what the machine gives when it is let."""
    size = _SIZE["cpu" if device == "cpu" else "cuda"]
    return rate(size, size, size, device=device, bf16=bf16, seconds=_PROBE_SECONDS)


def rates(shape: Shape, *, device: str, bf16: bool, tokens: int = 2048) -> Rates:
    """Return the rates of the products a model of this shape is made of, at `tokens` rows."""
    kind = {"device": device, "bf16": bf16}
    return Rates(
        square=square_rate(device, bf16),
        block=rate(tokens, shape.hidden, shape.inner, **kind),
        head=rate(tokens // 2, shape.hidden, shape.vocabulary, **kind),
    )
