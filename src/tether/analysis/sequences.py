"""What sums of log-probs say about pairs: their ranking, and how much of it is length. Numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LengthSlope:
    """Least-squares fit of log-ratio = slope x tokens through the origin."""

    slope: float
    """Nats per token."""
    r_squared: float
    """Share of the squared log-ratio explained (about 0, not about the mean)."""
    n: int


def ranking(first: ArrayLike, second: ArrayLike, tolerance: ArrayLike = 0.0) -> Array:
    """Return 1 where first > second, 1/2 where |difference| <= tolerance, else 0."""
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return np.where(np.abs(gap) <= tolerance, 0.5, (gap > 0).astype(np.float64))


def length_slope(log_ratios: ArrayLike, tokens: ArrayLike) -> LengthSlope:
    """Fit r = slope |y| (nats per token): how far the implicit reward is explained by length alone."""
    r, y = np.asarray(log_ratios, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if r.shape != y.shape or r.size == 0:
        raise DataError(f"{r.size} log-ratios and {y.size} lengths: the same number needed, at least one")
    cross, squares, total = float(r @ y), float(y @ y), float(r @ r)
    explained = cross**2 / (squares * total) if squares > 0 and total > 0 else 0.0
    return LengthSlope(cross / squares if squares > 0 else 0.0, explained, r.size)
