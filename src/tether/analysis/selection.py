"""Which cells (settings, models) can be told from the best one, and by how much groups of cells differ.

Numpy on saved scores. Everything here comes from one resampling of prompts shared by all cells, so every
comparison is paired, and, with several seeds, from seed effects as a second level.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.analysis.stats import resampling_weights
from tether.errors import DataError, UsageError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
ROUNDING = 1e-13
"""Standard errors of differences, in units of the largest score, that rounding alone can make."""


@dataclass(frozen=True, slots=True)
class ConfidenceSet:
    """Cells not distinguishable from the best, with the p-value at which each would leave the set."""

    members: tuple[int, ...]
    """Indices of the cells in the set, in the order given."""
    p_values: tuple[float, ...]
    """One per cell: the set at level 1 - alpha is {p >= alpha}; the best-looking cell has 1."""
    means: tuple[float, ...]
    standard_errors: tuple[float, ...]
    """Of each cell's own mean, over prompts and (where there are several) seeds."""
    best: int
    """Index of the highest mean."""
    alpha: float
    critical: float
    """Standard errors of their difference by which two cells part while all remain."""


def model_confidence_set(
    scores: ArrayLike, *, alpha: float = 0.05, draws: int = 2000, seed: int = 0
) -> ConfidenceSet:
    """Return the cells that contain the best one with probability 1 - alpha; higher scores are better.

    Hansen, Lunde and Nason 2011 (Econometrica 79), T_R rule: while the largest studentised difference of two
    cells is improbable under equality of all that remain, the cell that falls shortest leaves. Its
    distribution comes from one bootstrap of prompts shared by all cells (so every comparison is paired),
    plus, with several seeds, seed effects (`seed_variances`).

    Args:
        scores: [cells, prompts], or [cells, seeds, prompts] with the same seeds and prompts in every cell.
        alpha: error rate of the whole procedure.
        draws: bootstrap resamples.
        seed: of the resampling.

    Raises:
        DataError: wrong shape, fewer than two prompts, a value that is not finite.
        UsageError: alpha outside (0, 1).

    """
    values = _checked(scores, alpha)
    cells = len(values)
    first, second = np.triu_indices(cells, 1)
    se, scaled = _noise(values, first, second, draws, seed)
    means = values.mean(axis=(1, 2))
    gaps = means[first] - means[second]
    observed = np.divide(np.abs(gaps), se, out=np.where(gaps != 0, np.inf, 0.0), where=se > 0)
    remaining = np.ones(cells, dtype=bool)
    p_values = np.ones(cells)
    reached = 0.0
    for _ in range(cells - 1):
        pairs = np.flatnonzero(remaining[first] & remaining[second])
        widest = int(pairs[observed[pairs].argmax()])
        worst = second[widest] if gaps[widest] > 0 else first[widest]
        chance = np.abs(scaled[:, pairs]).max(axis=1)
        reached = max(reached, float(np.mean(chance >= observed[widest])))
        p_values[worst] = reached
        remaining[worst] = False
    members = tuple(i for i in range(cells) if p_values[i] >= alpha)
    return ConfidenceSet(
        members,
        tuple(float(p) for p in p_values),
        tuple(float(m) for m in means),
        tuple(float(np.sqrt(_variance(values[c][None])[0])) for c in range(cells)),
        int(means.argmax()),
        alpha,
        float(np.quantile(np.abs(scaled).max(axis=1), 1 - alpha)) if cells > 1 else 0.0,
    )


def tightest_within_one_se(
    result: ConfidenceSet, tightness: ArrayLike, allowed: Collection[int] | None = None
) -> int:
    """Return the tightest cell whose mean is within one standard error of the best (one-standard-error rule).

    `tightness` holds one number per cell, larger is tighter (beta). The standard error is the best cell's.
    `allowed` names the cells that may be chosen, and may be best; all where it is not given.
    """
    order = np.asarray(tightness, dtype=np.float64)
    cells = list(range(len(result.means))) if allowed is None else sorted(allowed)
    best = max(cells, key=lambda c: result.means[c])
    limit = result.means[best] - result.standard_errors[best]
    good = [c for c in cells if result.means[c] >= limit]
    return max(good, key=lambda c: (order[c], result.means[c]))


def _checked(scores: ArrayLike, alpha: float) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 2:
        values = values[:, None, :]
    if values.ndim != 3 or values.shape[2] < 2 or values.shape[0] < 1:
        raise DataError(f"scores of shape {values.shape}: [cells, (seeds,) prompts >= 2] needed")
    if not np.isfinite(values).all():
        raise DataError("scores hold NaN or infinite values: keep the prompts that every cell answered")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha {alpha}: between 0 and 1 needed, 0.05 for instance")
    return values


def prompt_shifts(values: Array, *, draws: int, seed: int) -> Array:
    """Return [draws, cells]: deviations of the means of [cells, seeds, prompts] from resampling prompts.

    With Student's tails (one chi-square per draw, shared by all cells), without which few prompts look like
    many.
    """
    prompts = values.shape[2]
    by_prompt = values.mean(axis=1)
    weights = resampling_weights(prompts, draws=draws, seed=seed)
    shifts = weights @ (by_prompt - by_prompt.mean(axis=1, keepdims=True)).T
    tails = np.random.default_rng([seed, 2]).chisquare(prompts - 1, size=(draws, 1))
    return shifts * np.sqrt(prompts / (prompts - 1)) / prompts * np.sqrt((prompts - 1) / tails)


def seed_variances(values: Array) -> tuple[Array, int]:
    """Return the variance that seeds give each cell's mean, and the degrees of freedom it is known to.

    What single answers add by chance is taken out. A cell never gets less than the mean over all cells: with
    few seeds its own estimate is often far too small, and many comparisons find the smallest. Cells with one
    value for all seeds (the start model) have none.
    """
    cells, seeds, _ = values.shape
    trained = np.flatnonzero(np.ptp(values, axis=1).max(axis=1) > 0)
    found = np.zeros(cells)
    if seeds == 1 or len(trained) == 0:
        return found, 1
    _, by_seed, rest = _parts(values[trained])
    own = by_seed - rest
    found[trained] = np.maximum(own, max(float(own.mean()), 0.0))
    return found, len(trained) * (seeds - 1)


def _noise(values: Array, first: Index, second: Index, draws: int, seed: int) -> tuple[Array, Array]:
    """Return standard errors of differences of pairs, and their [draws, pairs] deviations in these units."""
    shifts = prompt_shifts(values, draws=draws, seed=seed)
    lasting, freedom = seed_variances(values)
    if lasting.any():
        generator = np.random.default_rng([seed, 1])
        tails = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
        shifts = shifts + generator.standard_normal(shifts.shape) * np.sqrt(lasting) * tails
    from_prompts, _, _ = _parts(values[first] - values[second])
    se = np.sqrt(from_prompts + lasting[first] + lasting[second])
    se[se <= ROUNDING * np.abs(values).max()] = 0.0  # a constant difference, to rounding
    moved = shifts[:, first] - shifts[:, second]
    return se, np.divide(moved, se, out=np.zeros_like(moved), where=se > 0)


def _variance(contrasts: Array) -> Array:
    """Return the variance of the mean of each [seeds, prompts] table (see `stats.two_level_interval`)."""
    from_prompts, from_seeds, rest = _parts(contrasts)
    return np.maximum(from_prompts, from_seeds + from_prompts - rest)


def _parts(tables: Array) -> tuple[Array, Array, Array]:
    """Return the variances of the mean of [.., seeds, prompts] by prompts, by seeds, and what both share."""
    _, seeds, prompts = tables.shape
    by_seed, by_prompt = tables.mean(axis=2), tables.mean(axis=1)
    from_prompts = by_prompt.var(axis=1, ddof=1) / prompts
    if seeds == 1:
        return from_prompts, np.zeros_like(from_prompts), np.zeros_like(from_prompts)
    grand = tables.mean(axis=(1, 2))
    rest = tables - by_seed[:, :, None] - by_prompt[:, None, :] + grand[:, None, None]
    squares = (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (prompts - 1) * seeds * prompts)
    return from_prompts, by_seed.var(axis=1, ddof=1) / seeds, squares


@dataclass(frozen=True, slots=True)
class Differences:
    """Mean differences `first - second` of pairs of cells with intervals that all hold at once."""

    estimates: Array
    low: Array
    high: Array
    standard_errors: Array
    critical: float
    """Standard errors an interval reaches to each side."""
    level: float


def simultaneous_differences(
    scores: ArrayLike,
    first: Sequence[int],
    second: Sequence[int],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Differences:
    """Return differences of pairs of cells; all intervals hold together with probability `level` (max-t).

    Args:
        scores: [cells, prompts] or [cells, seeds, prompts], as `model_confidence_set`.
        first: index of each pair's first cell.
        second: index of its second cell.
        level: of all intervals together.
        draws: bootstrap resamples.
        seed: of the resampling.

    """
    values = _checked(scores, 1 - level)
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    se, scaled = _noise(values, a, b, draws, seed)
    critical = float(np.quantile(np.abs(scaled).max(axis=1), level))
    estimates, reach = (values[a] - values[b]).mean(axis=(1, 2)), critical * se
    return Differences(estimates, estimates - reach, estimates + reach, se, critical, level)


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """Best cell of one group less the best cell of another, with an interval that allows for both choices."""

    first: int
    """Index of the best-looking cell of the first group; `second` likewise."""
    second: int
    estimate: float
    low: float
    high: float


def best_of_groups(
    scores: ArrayLike,
    groups: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> list[GroupDifference]:
    """Compare groups of cells at their own best; the intervals of all comparisons hold together.

    Choosing the best of several by the same scores flatters the larger group. From simultaneous intervals
    [L_ab, U_ab] of all pairs, max_a theta_a - max_b theta_b lies in [max_a min_b L_ab, min_b max_a U_ab]
    whichever cells are best (Hsu 1984, Ann. Stat. 12, for one group).
    """
    pairs = [(a, b) for one, other in groups for a in one for b in other]
    found = simultaneous_differences(
        scores, [a for a, _ in pairs], [b for _, b in pairs], level=level, draws=draws, seed=seed
    )
    means = _checked(scores, 1 - level).mean(axis=(1, 2))
    results: list[GroupDifference] = []
    start = 0
    for one, other in groups:
        shape, stop = (len(one), len(other)), start + len(one) * len(other)
        low, high = found.low[start:stop].reshape(shape), found.high[start:stop].reshape(shape)
        start = stop
        a, b = max(one, key=lambda c: means[c]), max(other, key=lambda c: means[c])
        results.append(
            GroupDifference(
                a,
                b,
                float(means[a] - means[b]),
                float(low.min(axis=1).max()),
                float(high.max(axis=0).min()),
            )
        )
    return results
