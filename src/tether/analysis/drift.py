"""How far a policy has gone: the reward-KL law, repetition, and the rule for degenerate models. Numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tether.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FrontierLaw:
    """R(d) = d (alpha - beta_hat log d) with d = sqrt(KL): gain in score over the start model."""

    alpha: float
    beta_hat: float
    alpha_interval: tuple[float, float]
    beta_hat_interval: tuple[float, float]
    residual_sd: float
    n: int
    covariance: tuple[tuple[float, float], tuple[float, float]]
    level: float
    freedom: float
    """Degrees of freedom of the intervals."""

    def gain(self, kl: ArrayLike) -> Array:
        """Return the fitted gain at these KLs (nats)."""
        d = np.sqrt(np.asarray(kl, dtype=np.float64))
        return d * (self.alpha - self.beta_hat * np.where(d > 0, np.log(np.maximum(d, 1e-300)), 0.0))

    def gain_interval(self, kl: ArrayLike) -> tuple[Array, Array]:
        """Return the pointwise interval of the fitted gain."""
        features = _features(np.asarray(kl, dtype=np.float64))
        variance = np.einsum("ni,ij,nj->n", features, np.array(self.covariance), features)
        reach = float(stats.t.ppf(0.5 + self.level / 2, self.freedom)) * np.sqrt(variance)
        middle = features @ np.array([self.alpha, self.beta_hat])
        return middle - reach, middle + reach

    @property
    def peak_kl(self) -> float | None:
        """KL (nats) where the law is highest, exp(2 (alpha / beta_hat - 1)); None where it never turns."""
        return math.exp(2 * (self.alpha / self.beta_hat - 1)) if self.beta_hat > 0 else None


def fit_frontier(
    kl: ArrayLike,
    gain: ArrayLike,
    standard_errors: ArrayLike | None = None,
    *,
    by_prompt: ArrayLike | None = None,
    level: float = 0.95,
) -> FrontierLaw:
    """Fit the law by (weighted) least squares; it is linear in alpha and beta_hat.

    Rafailov et al. 2024 (arXiv 2406.02900, section 3), the form Gao et al. found for reinforcement learning.
    The scatter about the law knows nothing of what all cells share: gains over one start model on the same
    prompts rise and fall together. `by_prompt` adds that covariance, with Satterthwaite's degrees of freedom;
    what single answers add is then counted in both parts, so the intervals are a little wide.

    Args:
        kl: KL(policy || start) per cell, nats.
        gain: score minus the start model's.
        standard_errors: of the gains; weights 1 / se^2 where given.
        by_prompt: [cells, prompts], the gains whose means `gain` holds, the same prompts in every cell;
            without it cells are taken as independent.
        level: of the intervals (Student, n - 2 degrees of freedom where cells are independent).

    Raises:
        DataError: fewer than three cells with KL above 0, values that are not finite, cells all at one KL.

    """
    x, y = np.asarray(kl, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    se = np.ones_like(y) if standard_errors is None else np.asarray(standard_errors, dtype=np.float64)
    if (
        not bool(np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(se).all())
        or x.shape != y.shape
    ):
        raise DataError("KL, gain and standard errors must be finite and of the same number")
    kept = (x > 0) & (se > 0)
    n = int(kept.sum())
    if n < 3 or len(np.unique(x[kept])) < 3:
        raise DataError(f"{n} cells with KL above 0: at least 3 different ones are needed for the law")
    features = _features(x[kept]) / se[kept, None]
    target = y[kept] / se[kept]
    solution = np.linalg.lstsq(features, target, rcond=None)[0]
    residual = target - features @ solution
    inverse = np.linalg.inv(features.T @ features)
    scatter: Array = np.asarray(inverse * (float(residual @ residual) / (n - 2)), dtype=np.float64)
    covariance, freedom = scatter, float(n - 2)
    if by_prompt is not None:
        table = np.asarray(by_prompt, dtype=np.float64)[kept] / se[kept, None]
        covariance, freedom = _with_prompts(scatter, n, (table.T @ features) @ inverse)
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * np.sqrt(np.diag(covariance))
    alpha, beta_hat = float(solution[0]), float(solution[1])
    plain = y[kept] - _features(x[kept]) @ solution
    return FrontierLaw(
        alpha,
        beta_hat,
        (alpha - float(reach[0]), alpha + float(reach[0])),
        (beta_hat - float(reach[1]), beta_hat + float(reach[1])),
        math.sqrt(float(plain @ plain) / (n - 2)),
        n,
        (
            (float(covariance[0, 0]), float(covariance[0, 1])),
            (float(covariance[1, 0]), float(covariance[1, 1])),
        ),
        level,
        freedom,
    )


def _with_prompts(scatter: Array, n: int, solutions: Array) -> tuple[Array, float]:
    """Add to the scatter's covariance that of the solutions over prompts; `solutions` is [prompts, 2].

    The degrees of freedom are the fewer of the two coefficients'.
    """
    prompts = len(solutions)
    shared = np.cov(solutions, rowvar=False) / prompts
    squares = np.diag(scatter) ** 2 / (n - 2) + np.diag(shared) ** 2 / (prompts - 1)
    whole = scatter + shared
    sure = np.diag(whole) ** 2 / np.where(squares > 0, squares, 1.0)
    return whole, float(np.where(squares > 0, sure, n - 2).min())


def _features(kl: Array) -> Array:
    d = np.sqrt(kl)
    return np.stack([d, -d * np.log(np.maximum(d, 1e-300))], axis=-1)


def repetition(samples: Sequence[Sequence[int]], n: int = 4) -> float:
    """Return the share of n-grams that already occurred in the same sample (0 where none is long enough)."""
    total, repeated = 0, 0
    for sample in samples:
        grams = [tuple(sample[i : i + n]) for i in range(len(sample) - n + 1)]
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0


def distinct(samples: Sequence[Sequence[int]], n: int = 2) -> float:
    """Return distinct n-grams over all n-grams of all samples (distinct-n; depends on how many samples)."""
    grams = [tuple(sample[i : i + n]) for sample in samples for i in range(len(sample) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class Behaviour:
    """What a model's own samples look like; every number over the same prompts and sampling settings."""

    end_rate: float
    """Share of samples that ended by themselves."""
    entropy: float
    """Nats per token along the samples."""
    tokens: float
    """Mean length."""
    repetition: float
    """Share of repeated 4-grams (`repetition`)."""
    distinct: float
    """distinct-2 (`distinct`)."""
    large_share: float = 0.0
    """Share of tokens with |log-ratio| > 10 nats against the start model."""


@dataclass(frozen=True)
class Reason:
    """A rule that raised the flag: its name, the value, the limit, and the start model's value."""

    rule: str
    value: float
    limit: float
    start: float

    def __str__(self) -> str:
        return f"{self.rule} {self.value:.3g} beyond {self.limit:.3g} (start model {self.start:.3g})"


def degeneration(now: Behaviour, start: Behaviour) -> tuple[Reason, ...]:
    """Return every rule by which a model is degenerate beside the model it started from; empty where none.

    Each rule compares with the start model, so that a base model that never stops does not condemn its
    policy: the end rate fell below half the start's; a tenth more of all 4-grams repeat within a sample than
    at the start, and twice as many; distinct-2 fell below half; entropy fell below a tenth; 5 % of tokens
    moved by more than 10 nats.
    """
    rules = (
        Reason("end rate", now.end_rate, start.end_rate / 2, start.end_rate),
        Reason("distinct-2", now.distinct, start.distinct / 2, start.distinct),
        Reason("entropy", now.entropy, start.entropy / 10, start.entropy),
        Reason(
            "repeated 4-grams",
            now.repetition,
            max(2 * start.repetition, start.repetition + 0.1),
            start.repetition,
        ),
        Reason("tokens moved by more than 10 nats", now.large_share, 0.05, start.large_share),
    )
    falling = {"end rate", "distinct-2", "entropy"}
    return tuple(r for r in rules if (r.value < r.limit if r.rule in falling else r.value > r.limit))
