"""Tests that may be looked at after every vote: e-values and confidence sequences. Numpy, scipy.

An e-value is the capital of a bettor who started with 1 and cannot expect to gain while the null hypothesis
holds; by Ville's inequality it ever reaches 1 / alpha with probability at most alpha, whenever one looks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from tether.errors import DataError, UsageError

Array = NDArray[np.float64]

PRIOR = 20.0
"""Beta(20, 20): bets on win rates between about 0.35 and 0.65, where people's verdicts on siblings lie."""


def vote_log_e_value(wins: ArrayLike, votes: ArrayLike, prior: float = PRIOR) -> Array:
    """Return log e-values against a win rate of 1/2 after `votes` 0/1 votes, ties left out.

    e = Beta(a + k, a + n - k) / Beta(a, a) * 2^n.
    """
    k, n = np.asarray(wins, dtype=np.float64), np.asarray(votes, dtype=np.float64)
    if bool(np.any(k < 0)) or bool(np.any(k > n)):
        raise DataError("wins must lie between 0 and votes")
    return special.betaln(prior + k, prior + n - k) - special.betaln(prior, prior) + n * math.log(2)


def vote_confidence_sequence(
    wins: int, votes: int, *, alpha: float = 0.05, prior: float = PRIOR
) -> tuple[float, float]:
    """Return the win rates not yet refuted: holds the true one at every look with probability 1 - alpha.

    Inverts the same mixture over p: betaln(a + k, a + n - k) - betaln(a, a) - k log p - (n - k) log(1 - p)
    below log(1 / alpha).
    """
    if not 0 <= wins <= votes:
        raise DataError(f"{wins} wins of {votes} votes: between 0 and votes needed")
    if votes == 0:
        return 0.0, 1.0
    mixture = float(special.betaln(prior + wins, prior + votes - wins) - special.betaln(prior, prior))
    limit = mixture + math.log(alpha)

    def surplus(p: float) -> float:
        return limit - float(special.xlogy(wins, p) + special.xlog1py(votes - wins, -p))

    rate, edge = wins / votes, 1e-12
    low = _root(surplus, edge, rate) if wins > 0 else 0.0
    high = _root(surplus, rate, 1 - edge) if wins < votes else 1.0
    return low, high


def _root(function: Callable[[float], float], left: float, right: float) -> float:
    """Return where a function with one change of sign in [left, right] is 0, or the end nearest to that."""
    if function(left) * function(right) > 0:
        return left if abs(function(left)) < abs(function(right)) else right
    return float(optimize.root_scalar(function, bracket=(left, right), method="brentq", xtol=1e-12).root)


def betting_log_capital(values: ArrayLike, mean: ArrayLike = 0.5, *, alpha: float = 0.05) -> Array:
    """Return the running log capital against "the mean is `mean`" for values in [0, 1], any distribution.

    Two bettors, one on a higher and one on a lower mean, share the stake (hedged capital of Waudby-Smith and
    Ramdas 2024, JRSS-B 86, eq. 26, predictable plug-in bets of eq. 24, truncated at half of what the range
    allows). Bets use only what came before, so soft and two-order verdicts need no model.

    Args:
        values: [..., T], in the order seen.
        mean: hypothesised mean, broadcast against [...].
        alpha: error rate the bets are sized for; validity does not depend on it.

    Raises:
        DataError: a value outside [0, 1] or not finite.
        UsageError: a mean outside (0, 1).

    """
    x = np.asarray(values, dtype=np.float64)
    if not bool(np.all((x >= 0) & (x <= 1))):
        raise DataError("verdicts must be finite and in [0, 1]")
    m = np.asarray(mean, dtype=np.float64)[..., None]
    if not bool(np.all((m > 0) & (m < 1))):
        raise UsageError("the hypothesised mean must be inside (0, 1)")
    bets = _bets(x, alpha)
    up = np.cumsum(np.log1p(np.minimum(bets, 0.5 / m) * (x - m)), axis=-1)
    down = np.cumsum(np.log1p(-np.minimum(bets, 0.5 / (1 - m)) * (x - m)), axis=-1)
    return np.logaddexp(up, down) - math.log(2)


def betting_confidence_sequence(
    values: ArrayLike, *, alpha: float = 0.05, grid: int = 1000
) -> tuple[float, float]:
    """Return the means that no look so far has refuted, on a grid of (0, 1) and one step wider on each side.

    Raises:
        DataError: no value, or one outside [0, 1].

    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise DataError(f"values of shape {x.shape}: one dimension with at least one value needed")
    means = (np.arange(grid) + 0.5) / grid
    alive = np.ones(grid, dtype=np.bool_)
    for start in range(0, grid, 100):
        capital = betting_log_capital(x, means[start : start + 100], alpha=alpha)
        alive[start : start + 100] = capital.max(axis=-1) < -math.log(alpha)
    kept = means[alive]
    if kept.size == 0:
        return math.nan, math.nan
    return max(0.0, float(kept.min()) - 1 / grid), min(1.0, float(kept.max()) + 1 / grid)


def _bets(x: Array, alpha: float) -> Array:
    """Bets of eq. 24: sqrt(2 log(2 / alpha) / (variance so far * t log(t + 1))), from the past only."""
    t = np.arange(1, x.shape[-1] + 1)
    means = (0.5 + np.cumsum(x, axis=-1)) / (t + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2, axis=-1)) / (t + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    return np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t)))


@dataclass
class SequentialComparison:
    """Verdicts on A against B one at a time: when the answer is known, asking can stop.

    A verdict is A's share of the win in [0, 1] (1/2 for no preference). Every look counts: at most `alpha`
    of comparisons between equals are ever decided.
    """

    alpha: float = 0.05
    values: list[float] = field(default_factory=list[float])
    _highest: float = 0.0

    def add(self, verdict: float) -> bool:
        """Take one verdict; return whether the comparison is decided."""
        self.values.append(verdict)
        self._highest = max(self._highest, float(betting_log_capital(self.values, alpha=self.alpha)[-1]))
        return self.decided

    @property
    def decided(self) -> bool:
        """Whether equality was refuted at any look so far."""
        return self._highest >= -math.log(self.alpha)

    @property
    def e_value(self) -> float:
        """Largest capital reached so far; 1 / e is an always-valid p-value."""
        return math.exp(min(self._highest, 700.0))

    @property
    def win_rate(self) -> float:
        """A's mean verdict so far."""
        return float(np.mean(self.values)) if self.values else math.nan
