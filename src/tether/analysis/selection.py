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


def model_confidence_set(
    scores: ArrayLike, *, alpha: float = 0.05, draws: int = 2000, seed: int = 0
) -> ConfidenceSet:
    """Return the cells that contain the best one with probability 1 - alpha; higher scores are better.

    Hansen, Lunde and Nason 2011 (Econometrica 79), T_max rule: while the largest studentised shortfall from
    the mean of the remaining cells is improbable under equality, its cell leaves. Its distribution comes from
    one bootstrap of prompts shared by all cells (so every comparison is paired), plus, with several seeds,
    seed effects under Student multipliers with S - 1 degrees of freedom.

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
    shifts = mean_shifts(values, draws=draws, seed=seed)
    means = values.mean(axis=(1, 2))
    remaining = list(range(cells))
    p_values = np.ones(cells)
    reached = 0.0
    while len(remaining) > 1:
        p, worst = _test(values[remaining], shifts[:, :, remaining])
        reached = max(reached, p)
        p_values[remaining[worst]] = reached
        remaining.pop(worst)
    members = tuple(i for i in range(cells) if p_values[i] >= alpha)
    return ConfidenceSet(
        members,
        tuple(float(p) for p in p_values),
        tuple(float(m) for m in means),
        tuple(float(np.sqrt(_variance(values[c][None])[0])) for c in range(cells)),
        int(means.argmax()),
        alpha,
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


def mean_shifts(values: Array, *, draws: int, seed: int) -> Array:
    """Return [2, draws, cells]: centred deviations of the means from prompts, and from seeds.

    `values` is [cells, seeds, prompts]. Both levels get Student's tails (one chi-square per draw, shared by
    all cells), without which few prompts or seeds look like many.
    """
    _, seeds, prompts = values.shape
    by_prompt = values.mean(axis=1)
    weights = resampling_weights(prompts, draws=draws, seed=seed)
    from_prompts = weights @ (by_prompt - by_prompt.mean(axis=1, keepdims=True)).T
    from_prompts *= np.sqrt(prompts / (prompts - 1)) / prompts
    tails = np.random.default_rng([seed, 2]).chisquare(prompts - 1, size=(draws, 1))
    from_prompts *= np.sqrt((prompts - 1) / tails)
    if seeds == 1:
        return np.stack([from_prompts, np.zeros_like(from_prompts)])
    generator = np.random.default_rng([seed, 1])
    by_seed = values.mean(axis=2)
    multipliers = generator.standard_normal((draws, seeds))
    multipliers *= np.sqrt((seeds - 1) / generator.chisquare(seeds - 1, size=(draws, 1)))
    from_seeds = multipliers @ (by_seed - by_seed.mean(axis=1, keepdims=True)).T
    return np.stack([from_prompts, from_seeds / np.sqrt(seeds * (seeds - 1))])


def _variance(contrasts: Array) -> Array:
    """Return the variance of the mean of each [seeds, prompts] table (see `stats.two_level_interval`)."""
    from_prompts, from_seeds, rest = _parts(contrasts)
    return np.maximum(from_prompts, from_seeds + from_prompts - rest)


def _parts(tables: Array) -> tuple[Array, Array, Array]:
    _, seeds, prompts = tables.shape
    by_seed, by_prompt = tables.mean(axis=2), tables.mean(axis=1)
    from_prompts = by_prompt.var(axis=1, ddof=1) / prompts
    if seeds == 1:
        return from_prompts, np.zeros_like(from_prompts), np.zeros_like(from_prompts)
    grand = tables.mean(axis=(1, 2))
    rest = tables - by_seed[:, :, None] - by_prompt[:, None, :] + grand[:, None, None]
    squares = (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (prompts - 1) * seeds * prompts)
    return from_prompts, by_seed.var(axis=1, ddof=1) / seeds, squares


def _test(values: Array, shifts: Array) -> tuple[float, int]:
    """Return the p-value of equality of these cells and the position of the weakest."""
    contrasts = values.mean(axis=0, keepdims=True) - values
    gaps = contrasts.mean(axis=(1, 2))
    se, scaled = _noise(contrasts, shifts.mean(axis=2, keepdims=True) - shifts)
    certain = np.where(gaps > 0, np.inf, 0.0)
    observed = np.divide(gaps, se, out=certain, where=se > 0)
    weakest = int(observed.argmax())
    return float(np.mean(scaled.max(axis=1) >= observed[weakest])), weakest


def _noise(contrasts: Array, drawn: Array) -> tuple[Array, Array]:
    """Return standard errors of contrasts' means, and [draws, contrasts] deviations in these units.

    One critical value for all contrasts is deliberate: levels balanced by each contrast's own degrees of
    freedom gave 18 % false alarms with three seeds, because so few seeds do not tell which contrast has few.
    """
    from_prompts, from_seeds, rest = _parts(contrasts)
    # Both levels carry the noise of single answers; taking it out of the seeds' share counts it once.
    share = np.sqrt(
        np.clip(1 - np.divide(rest, from_seeds, out=np.ones_like(rest), where=from_seeds > 0), 0, 1)
    )
    se = np.sqrt(from_prompts + from_seeds * share**2)
    moved = drawn[0] + drawn[1] * share
    return se, np.divide(moved, se, out=np.zeros_like(moved), where=se > 0)


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
    shifts = mean_shifts(values, draws=draws, seed=seed)
    contrasts = values[a] - values[b]
    se, scaled = _noise(contrasts, shifts[:, :, a] - shifts[:, :, b])
    critical = float(np.quantile(np.abs(scaled).max(axis=1), level))
    estimates, reach = contrasts.mean(axis=(1, 2)), critical * se
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
