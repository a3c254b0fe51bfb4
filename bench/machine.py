"""How fast this machine multiplies matrices now: the floor is computed from it, and runs are judged by it."""

import time
from dataclasses import dataclass

import torch

from bench.floor import Shape

QUIET = 0.90
"""A run counts only while the machine gives this share of its usual rate (see `turns`)."""

_SIZE = {"cpu": 2048, "cuda": 8192}
_PROBE_SECONDS = 2.0
"""Long enough to see past the swings within a second of a shared host; a lasting slowdown still shows."""


@dataclass(frozen=True)
class Rates:
    """Matrix multiplication rates, FLOP per second."""

    square: float
    """A large square product: judges whether the machine is quiet."""
    block: float
    """The shape of a block's MLP."""
    head: float
    """The shape of the LM head."""


def rate(rows: int, inner: int, columns: int, *, device: str, bf16: bool, seconds: float = 1.5) -> float:
    """Return the rate sustained over repeated products [rows, inner] x [inner, columns], FLOP per second.

    All work over all time, not the best product: on a shared host that one is luck (at times twice the rate).
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    count, began = -1, 0.0
    while count < 1 or time.perf_counter() - began < seconds:
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        count += 1
        if count == 0:  # the first product pays for warming up
            began = time.perf_counter()
    return 2.0 * rows * inner * columns * count / (time.perf_counter() - began)


def square_rate(device: str, bf16: bool = False) -> float:
    """Return the rate of a large square product: what the machine gives now."""
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
