"""Log-ratios token by token: per vocabulary type, by position, and their tails. Numpy on saved numbers.

RefDPO (arXiv 2407.13709) figures 1 and 2: the mean over its occurrences of log policy - log reference, per
vocabulary type, and the types that fell most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import DataError
from tether.records.results import LARGE

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

MIN_COUNT = 100


@dataclass(frozen=True)
class TypeRatios:
    """Vocabulary types that occur: id, occurrences, mean and standard error of the log-ratio (nats)."""

    ids: Ids
    counts: Ids
    means: Array
    standard_errors: Array
    """Of the mean over occurrences; NaN for a single one."""

    def largest_falls(self, number: int = 10, min_count: int = MIN_COUNT) -> list[tuple[int, int, float]]:
        """Return (id, count, mean) of the types that fell most, of those seen `min_count` times or more."""
        kept = np.flatnonzero((self.counts >= min_count) & (self.means < 0))
        order = kept[np.lexsort((self.ids[kept], self.means[kept]))][:number]
        return [(int(self.ids[i]), int(self.counts[i]), float(self.means[i])) for i in order]

    def of(self, token_id: int) -> tuple[int, float]:
        """Return (count, mean) of one type, the end token for instance; (0, NaN) where it never occurs."""
        place = int(np.searchsorted(self.ids, token_id))
        if place == len(self.ids) or self.ids[place] != token_id:
            return 0, float("nan")
        return int(self.counts[place]), float(self.means[place])


@dataclass(frozen=True)
class Histogram:
    """Counts between `edges` [bins + 1]; what lies beyond the ends is counted in `below` and `above`."""

    edges: Array
    counts: Ids
    below: int
    above: int

    @property
    def shares(self) -> Array:
        """Share of all values per bin."""
        total = int(self.counts.sum()) + self.below + self.above
        return self.counts / max(total, 1)


def by_type(token_ids: ArrayLike, log_ratios: ArrayLike) -> TypeRatios:
    """Return the mean log-ratio of every vocabulary type that occurs.

    Args:
        token_ids: [T].
        log_ratios: [T], log policy - log reference, nats.

    Raises:
        DataError: lengths differ, no token, a value that is not finite.

    """
    ids, ratios = _checked(token_ids, log_ratios)
    types, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=ratios) / counts
    squares = np.bincount(place, weights=(ratios - means[place]) ** 2)
    errors = np.full(len(types), np.nan)
    many = counts > 1
    errors[many] = np.sqrt(squares[many] / (counts[many] - 1) / counts[many])
    return TypeRatios(types, counts.astype(np.int64), means, errors)


def large_share(log_ratios: ArrayLike, limit: float = LARGE) -> float:
    """Return the share of tokens with |log-ratio| > limit (nats)."""
    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.size == 0:
        raise DataError("no token: a share of nothing is not a number")
    return float(np.mean(np.abs(ratios) > limit))


def histogram(values: ArrayLike, *, low: float = -100.0, high: float = 20.0, width: float = 2.0) -> Histogram:
    """Count values in bins of `width` nats from `low` to `high`; nothing beyond them is left out."""
    x = np.asarray(values, dtype=np.float64)
    if not bool(np.isfinite(x).all()):
        raise DataError("log-ratios hold NaN or infinite values")
    edges = np.linspace(low, high, round((high - low) / width) + 1)
    counts, _ = np.histogram(x, edges)
    return Histogram(edges, counts.astype(np.int64), int((x < low).sum()), int((x > high).sum()))


def by_position(
    positions: ArrayLike, log_ratios: ArrayLike, edges: ArrayLike
) -> list[tuple[int, int, float]]:
    """Return (first position, tokens, mean log-ratio) for the bins between `edges`; the last bin is open."""
    starts = np.asarray(edges, dtype=np.int64)
    place, ratios = _checked(positions, log_ratios)
    which = np.searchsorted(starts, place, side="right") - 1
    return [
        (int(start), int((which == i).sum()), float(ratios[which == i].mean()))
        for i, start in enumerate(starts)
        if bool((which == i).any())
    ]


def _checked(ids: ArrayLike, log_ratios: ArrayLike) -> tuple[Ids, Array]:
    whole, ratios = np.asarray(ids, dtype=np.int64), np.asarray(log_ratios, dtype=np.float64)
    if whole.shape != ratios.shape or whole.ndim != 1 or whole.size == 0:
        raise DataError(
            f"{whole.size} tokens and {ratios.size} log-ratios: the same number needed, at least one"
        )
    if not bool(np.isfinite(ratios).all()):
        raise DataError("log-ratios hold NaN or infinite values")
    return whole, ratios
