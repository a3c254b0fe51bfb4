"""Intervals for means and paired differences, and how many prompts a difference would need. Numpy, scipy.

The unit of resampling is the prompt (or the cluster the caller names): the values of one prompt for two
models stay together, which is what makes a comparison paired. Several seeds are a second, crossed level.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from tether.errors import DataError, UsageError

Array = NDArray[np.float64]

DRAWS = 2000
Z95 = 1.959963984540054
"""Standard errors from the middle of a normal 95 % interval to its ends."""
FLIPPED = 16
"""Most prompts that differ at all whose signs are all flipped for the exact test."""
CHUNK = 4_000_000
"""Most resampling weights held at once (32 MB); larger samples are drawn in pieces."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided interval and standard error, in the unit of the values.

    `n` counts what was resampled: prompts, or clusters where they were named. Bounds are NaN for n < 2.
    """

    estimate: float
    low: float
    high: float
    se: float
    n: int
    level: float = 0.95


def distinguishable(interval: Interval, null: float = 0.0) -> bool:
    """Tell whether the interval excludes `null`; an interval that could not be computed excludes nothing."""
    return interval.low > null or interval.high < null


def mean_interval(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bounds: tuple[float, float] | None = None,
    null: float | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values` with its bootstrap interval; deterministic for a seed.

    The interval is BCa (Efron 1987, JASA 82, eqs. 2.3, 4.4) at levels widened for small n (Hesterberg 2015,
    Am. Stat. 69, section 3.3), so that it covers as announced from about 20 prompts on. Where most values are
    `null`, the few others decide, and the bootstrap is too sure of them: with at most `FLIPPED` of them the
    interval keeps `null` unless the exact sign-flip test (Fisher 1935) refutes it too.

    Args:
        values: one value per prompt, or several where `clusters` says which belong together.
        clusters: what is resampled as one unit, one label per value.
        bounds: range of the values; equal values then get the exact binomial interval, never a point.
        null: the value of no difference (0 of differences, 50 % of win rates), where there is one.
        level: two-sided coverage.
        draws: bootstrap resamples.
        seed: of the resampling.

    Raises:
        DataError: no value, a value that is not finite, labels of another length.
        UsageError: level outside (0, 1).

    """
    x = _finite(values)
    _check_level(level)
    totals, sizes = _by_cluster(x, clusters)
    n, estimate = len(totals), float(totals.sum() / sizes.sum())
    if n < 2:
        return Interval(estimate, math.nan, math.nan, math.nan, n, level)
    influence = (totals - estimate * sizes) / sizes.mean()
    se = float(np.sqrt((influence**2).sum() / (n * (n - 1))))
    if np.ptp(x) == 0:
        low, high = _degenerate(estimate, n, bounds, level)
    else:
        resampled = resampled_means(totals, sizes, draws=draws, seed=seed)
        low, high = _bca(resampled, estimate, influence, level)
    if null is not None and not low <= null <= high and not _flips_refute(totals - null * sizes, level):
        low, high = min(low, null), max(high, null)
    return Interval(estimate, low, high, se, n, level)


def paired_bootstrap(
    differences: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean paired difference (A - B on the same prompt) with its interval; see `mean_interval`."""
    return mean_interval(differences, clusters=clusters, null=0.0, level=level, draws=draws, seed=seed)


def bootstrap_interval(
    resampled: ArrayLike, estimate: float, n: int, *, influence: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Return the interval of any statistic from its bootstrap draws, and its influence values where known.

    BCa with acceleration from `influence`, else bias-corrected only; levels widened for n as `mean_interval`.
    """
    draws = _finite(resampled)
    _check_level(level)
    values = np.asarray([0.0] * n if influence is None else influence, dtype=np.float64)
    se = float(draws.std(ddof=1)) * math.sqrt(n / max(n - 1, 1))
    if np.ptp(draws) == 0:
        return Interval(estimate, estimate, estimate, se, n, level)
    low, high = _bca(draws, estimate, values, level)
    return Interval(estimate, low, high, se, n, level)


def resampled_means(totals: Array, sizes: Array, *, draws: int, seed: int) -> Array:
    """Return `draws` bootstrap means of clusters with these totals and sizes."""
    n = len(totals)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, CHUNK // n)
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        index = generator.integers(0, n, size=(stop - start, n))
        means[start:stop] = totals[index].sum(axis=1) / sizes[index].sum(axis=1)
    return means


def resampling_weights(n: int, *, draws: int, seed: int) -> Array:
    """Return a [draws, n] table: how often each of n prompts is in each bootstrap sample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def two_level_interval(table: ArrayLike, *, level: float = 0.95) -> Interval:
    """Return the mean of a [seeds, prompts] table with an interval for new seeds and new prompts.

    Crossed random effects: Var = (MS_seed + MS_prompt - MS_rest) / (S P), never below what either level
    alone says, with Satterthwaite's degrees of freedom. One seed gives the interval over prompts only.

    Raises:
        DataError: not a table, a value that is not finite, fewer than two prompts.

    """
    values = _finite(table, dimensions=2)
    _check_level(level)
    seeds, prompts = values.shape
    if prompts < 2:
        raise DataError(f"{prompts} prompt: at least 2 are needed for an interval")
    estimate = float(values.mean())
    if seeds == 1:
        return mean_interval(values[0], level=level)
    seed_part, prompt_part, rest = crossed_variances(values)
    variance = max(seed_part + prompt_part - rest, seed_part, prompt_part)
    if variance == 0:
        return Interval(estimate, estimate, estimate, 0.0, prompts, level)
    pieces = seed_part**2 / (seeds - 1) + prompt_part**2 / (prompts - 1)
    freedom = variance**2 / pieces
    margin = float(stats.t.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance)
    return Interval(estimate, estimate - margin, estimate + margin, math.sqrt(variance), prompts, level)


def crossed_variances(values: Array) -> tuple[float, float, float]:
    """Return MS_seed, MS_prompt and MS_rest of a [seeds, prompts] table, each divided by S P."""
    seeds, prompts = values.shape
    by_seed, by_prompt, grand = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - by_seed[:, None] - by_prompt[None, :] + grand
    return (
        float(by_seed.var(ddof=1) / seeds),
        float(by_prompt.var(ddof=1) / prompts),
        float((rest**2).sum() / ((seeds - 1) * (prompts - 1)) / (seeds * prompts)),
    )


def required_size(difference: float, sd: float, *, level: float = 0.95, power: float = 0.8) -> int | None:
    """Return how many paired prompts tell `difference` from 0 with this power; None where it is 0 or unknown.

    n = ((z_level + z_power) sd / difference)^2, sd being that of the paired differences.
    """
    _check_level(level)
    _check_level(power)
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(sd):
        return None
    quantile = float(stats.norm.ppf(0.5 + level / 2) + stats.norm.ppf(power))
    return max(2, math.ceil((quantile * sd / difference) ** 2))


def required_size_for(interval: Interval, *, power: float = 0.8) -> int | None:
    """Return how many prompts would tell this paired difference from 0, were it the true one."""
    return required_size(
        interval.estimate, interval.se * math.sqrt(interval.n), level=interval.level, power=power
    )


def _finite(values: ArrayLike, dimensions: int = 1) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != dimensions or x.size == 0:
        raise DataError(
            f"values of shape {x.shape}: {dimensions} dimension(s) with at least one value needed"
        )
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise DataError(f"{bad} of {x.size} values are NaN or infinite: leave them out and count them first")
    return x


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level {level}: between 0 and 1 needed, 0.95 for instance")


def _by_cluster(x: Array, clusters: ArrayLike | None) -> tuple[Array, Array]:
    if clusters is None:
        return x, np.ones_like(x)
    labels = np.asarray(clusters)
    if labels.shape != x.shape:
        raise DataError(f"{labels.size} cluster labels for {x.size} values: one per value needed")
    _, index = np.unique(labels, return_inverse=True)
    return np.bincount(index, weights=x).astype(np.float64), np.bincount(index).astype(np.float64)


def _degenerate(
    value: float, n: int, bounds: tuple[float, float] | None, level: float
) -> tuple[float, float]:
    """Give n equal values the reach of n equal coin flips (Clopper-Pearson), as far as `bounds` allow."""
    if bounds is None:
        return value, value
    reach = (1 - ((1 - level) / 2) ** (1 / n)) * (bounds[1] - bounds[0])
    return max(bounds[0], value - reach), min(bounds[1], value + reach)


def _flips_refute(deviations: Array, level: float) -> bool:
    """Tell whether at most 1 - level of all sign patterns give a sum as far from 0; true beyond `FLIPPED`."""
    sizes = np.abs(deviations[deviations != 0])
    if len(sizes) > FLIPPED:
        return True
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    observed = abs(float(deviations.sum())) * (1 - 1e-12)
    return float(np.mean(np.abs(sums) >= observed)) <= 1 - level


def _bca(resampled: Array, estimate: float, influence: Array, level: float) -> tuple[float, float]:
    n = len(influence)
    share = float(np.mean(resampled < estimate) + np.mean(resampled == estimate) / 2)
    share = min(max(share, 0.5 / len(resampled)), 1 - 0.5 / len(resampled))
    bias = float(special.ndtri(share))
    scaled = influence / max(float(np.abs(influence).max()), np.finfo(np.float64).tiny)
    squares = float((scaled**2).sum())
    acceleration = float((scaled**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    reach = float(stats.t.ppf(0.5 + level / 2, n - 1)) * math.sqrt(n / (n - 1))
    quantiles: list[float] = []
    for z in (-reach, reach):
        shifted = bias + z
        corrected = bias + shifted / max(1 - acceleration * shifted, 0.1)
        quantiles.append(float(special.ndtr(corrected)))
    low, high = np.quantile(resampled, quantiles)
    return float(low), float(high)
