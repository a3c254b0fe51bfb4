"""Length control without a difficulty table: one joint model of all models at hand on their own prompts.

    P(model m preferred on prompt i) = sigmoid(theta_m + phi_m tanh(d_mi / std(d_m)) + gamma_i)

gamma_i ~ N(0, s^2) is the prompt's random effect, shared by the models; s is chosen by the Laplace
approximation of the marginal likelihood. The length-controlled rate is the mean of
sigmoid(theta_m + gamma_i). It belongs to these models and prompts: it moves when a model is added, and is
never set beside a published one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tether.errors import DataError

Array = NDArray[np.float64]

SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations of the random effect tried, in logits."""
RIDGE = 0.01
"""Pull of theta and phi to 0 (one hundredth of a verdict): a model that always wins stays finite."""


@dataclass(frozen=True)
class JointFit:
    """The joint model: [M] weights, [n] prompt effects and their spread."""

    theta: Array
    phi: Array
    gamma: Array
    spread: float

    def lc_win_rates(self, present: NDArray[np.bool_], counts: Array | None = None) -> Array:
        """Return the rate of each model in percent, over the prompts it answered (times `counts`)."""
        weights = present if counts is None else present * counts
        predicted = special.expit(self.theta[:, None] + self.gamma)
        return (weights * predicted).sum(axis=1) / weights.sum(axis=1) * 100


def fit_own_prompts(share: Array, delta: Array, *, fixed: JointFit | None = None) -> JointFit:
    """Fit M models jointly; with `fixed`, its prompt effects stay (for a model looked at apart).

    Args:
        share: [M, n], NaN where there is no verdict.
        delta: [M, n], baseline's length minus the model's, NaN where there is no answer.
        fixed: an earlier fit over the same prompts.

    Raises:
        DataError: a model without verdicts, or all of whose answers differ by the same length.

    """
    x = scaled_lengths(delta)
    if (np.isfinite(share).sum(axis=1) < 2).any():
        raise DataError("a model has fewer than two verdicts: nothing to fit")
    if fixed is not None:
        return _solve(share, x, fixed.spread, start=_start(len(share), fixed.gamma), free_prompts=False)
    if len(share) == 1:
        return _solve(share, x, 0.0)
    fits = [_solve(share, x, spread) for spread in SPREADS]
    return max(fits, key=lambda fit: _evidence(fit, share, x))


def refit(fit: JointFit, share: Array, delta: Array, counts: Array) -> JointFit:
    """Fit the same model on a bootstrap sample of prompts (`counts` [n]), spread and start from `fit`."""
    return _solve(share, scaled_lengths(delta, counts), fit.spread, start=fit, counts=counts)


def scaled_lengths(delta: Array, counts: Array | None = None) -> Array:
    """Return tanh(d / std(d)) per model, 0 where there is no answer."""
    present = np.isfinite(delta)
    weights = present.astype(np.float64) if counts is None else present * counts
    filled = np.where(present, delta, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    mean = (weights * filled).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((weights * (filled - mean) ** 2).sum(axis=1, keepdims=True) / np.maximum(total - 1, 1))
    if counts is None and not (spread > 0).all():
        raise DataError("every answer differs from the baseline's by the same length: nothing to control for")
    return np.where(present, np.tanh(filled / np.maximum(spread, 1e-12)), 0.0)


def _start(models: int, gamma: Array) -> JointFit:
    return JointFit(np.zeros(models), np.zeros(models), gamma, 0.0)


def _solve(
    share: Array,
    x: Array,
    spread: float,
    *,
    start: JointFit | None = None,
    counts: Array | None = None,
    free_prompts: bool = True,
) -> JointFit:
    """Minimise the penalised cross-entropy by Newton's method."""
    judged = np.isfinite(share)
    weights = judged.astype(np.float64) if counts is None else judged * counts
    copies = np.ones(share.shape[1]) if counts is None else counts
    targets = np.where(judged, share, 0.5)
    fit = start or _start(len(share), np.zeros(share.shape[1]))
    free = free_prompts and spread > 0
    precision = copies / spread**2 if free else np.zeros_like(copies)
    value = _objective(fit, targets, weights, x, precision)
    for _ in range(50):
        step = _newton_step(fit, targets, weights, x, precision, free=free)
        size, trial, after = 1.0, fit, value
        while size > 1e-6:
            trial = JointFit(
                fit.theta + size * step[0], fit.phi + size * step[1], fit.gamma + size * step[2], spread
            )
            after = _objective(trial, targets, weights, x, precision)
            if after <= value + 1e-10 * abs(value):
                break
            size /= 2
        moved = max(float(np.abs(part).max()) * size for part in step)
        fit, value = trial, after
        if moved < 1e-6:
            break
    return JointFit(fit.theta, fit.phi, fit.gamma, spread)


def _scores(fit: JointFit, x: Array) -> Array:
    return fit.theta[:, None] + fit.phi[:, None] * x + fit.gamma


def _objective(fit: JointFit, targets: Array, weights: Array, x: Array, precision: Array) -> float:
    scores = _scores(fit, x)
    loss = float((weights * (np.logaddexp(0, scores) - targets * scores)).sum())
    ridge = RIDGE / 2 * float((fit.theta**2 + fit.phi**2).sum())
    return loss + ridge + float((precision * fit.gamma**2).sum()) / 2


def _newton_step(
    fit: JointFit, targets: Array, weights: Array, x: Array, precision: Array, *, free: bool
) -> tuple[Array, Array, Array]:
    """Return the step for theta, phi and gamma; gamma is eliminated exactly, its Hessian being diagonal."""
    models = len(x)
    probability = special.expit(_scores(fit, x))
    residual, curvature = weights * (probability - targets), weights * probability * (1 - probability)
    gradient = np.concatenate([residual.sum(axis=1), (residual * x).sum(axis=1)])
    gradient += RIDGE * np.concatenate([fit.theta, fit.phi])
    middle = (curvature * x).sum(axis=1)
    hessian = np.zeros((2 * models, 2 * models))
    diagonal = np.arange(models)
    hessian[diagonal, diagonal] = curvature.sum(axis=1) + RIDGE
    hessian[diagonal + models, diagonal + models] = (curvature * x**2).sum(axis=1) + RIDGE
    hessian[diagonal, diagonal + models] = hessian[diagonal + models, diagonal] = middle
    if not free:
        step = -_solved(hessian, gradient)
        return step[:models], step[models:], np.zeros_like(fit.gamma)
    own = residual.sum(axis=0) + precision * fit.gamma
    # A prompt drawn zero times has no curvature and no gradient: it stays where it is.
    inverse = 1 / np.maximum(curvature.sum(axis=0) + precision, 1e-12)
    cross = np.concatenate([curvature, curvature * x])
    reduced = hessian - (cross * inverse) @ cross.T
    step = -_solved(reduced, gradient - cross @ (inverse * own))
    prompts = -inverse * (own + step @ cross)
    return step[:models], step[models:], prompts


def _solved(matrix: Array, vector: Array) -> Array:
    return np.linalg.solve(matrix, vector).astype(np.float64)


def _evidence(fit: JointFit, share: Array, x: Array) -> float:
    """Return the Laplace approximation of the log marginal likelihood over the prompt effects."""
    judged = np.isfinite(share)
    scores = _scores(fit, x)
    targets = np.where(judged, share, 0.5)
    fitted = -float((judged * (np.logaddexp(0, scores) - targets * scores)).sum())
    if fit.spread == 0:
        return fitted
    probability = special.expit(scores)
    curvature = (judged * probability * (1 - probability)).sum(axis=0)
    penalty = (fit.gamma / fit.spread) ** 2 + np.log1p(curvature * fit.spread**2)
    return fitted - float(penalty.sum()) / 2
