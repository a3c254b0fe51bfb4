"""AlpacaEval 2's length-controlled win rate: a three-term logistic model with its own small solver.

    P(model preferred on prompt i) = sigmoid(phi tanh(d_i / std(d)) + psi gamma_i + theta)

d_i is the baseline's length minus the model's, in characters; gamma_i the prompt's difficulty from a table
that is the same for every model. LC is the mean of sigmoid(psi gamma_i + theta): the win rate had the lengths
been equal (Dubois et al. 2024, arXiv 2404.04475). Rows of two baselines told to be verbose or concise (theta
is absent there) hold phi and psi near what length and difficulty do to one model's answers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tether.errors import DataError
from tether.judging.glmnet import fit_path_point

Array = NDArray[np.float64]

STRENGTHS: Array = np.logspace(-4, 4, 10)
"""Inverse L1 strengths tried by cross-validation: scikit-learn's ten, 1e-4 to 1e4."""
FOLDS = 5
GAMED_WEIGHT = 0.2 / 2
"""Weight of one row of a gamed baseline: AlpacaEval's 0.2, shared by its two of them."""
CLIP = 1e-15
BATCH_CELLS = 200_000
"""Rows times draws solved at once: enough to be fast, small enough for the cache."""


@dataclass(frozen=True, slots=True)
class GamedRows:
    """Rows of the gamed baselines: scaled length difference, difficulty, and share of the win in [0, 1]."""

    scaled_delta: Array
    difficulty: Array
    share: Array


@dataclass(frozen=True, slots=True)
class LengthControl:
    """A fitted model: its three weights, the strength chosen, and the LC win rate in percent."""

    phi: float
    psi: float
    theta: float
    strength: float
    lc_win_rate: float


def fit_length_control(
    delta: Array, difficulty: Array, share: Array, gamed: GamedRows | None
) -> LengthControl:
    """Fit one model's rows (in the order of prompts) and return its length-controlled win rate.

    Args:
        delta: baseline's length minus the model's, per row, characters.
        difficulty: of the row's prompt.
        share: the model's share of the win in [0, 1]; NaN rows count for lengths and for LC, not for the fit.
        gamed: rows of the gamed baselines, or None (AlpacaEval's "noreg" variant).

    Raises:
        DataError: fewer than five verdicts, or all answers differ from the baseline's by the same length.

    """
    design, targets, weights = _design(delta, difficulty, share, gamed)
    strength = _choose_strength(design, targets, weights)
    phi, psi, theta = (float(value) for value in fit_path_point(design, targets, weights, strength))
    predicted = special.expit(psi * difficulty + theta)
    return LengthControl(phi, psi, theta, strength, float(predicted.mean() * 100))


def resample_length_control(
    fit: LengthControl, delta: Array, difficulty: Array, share: Array, gamed: GamedRows | None, counts: Array
) -> Array:
    """Return the LC win rates (percent) of resampled prompts: lengths rescaled, weights refitted.

    `counts` [draws, rows] says how often each row is in each draw. The strength and the gamed rows stay.
    """
    lc = np.empty(len(counts))
    start = np.array([[fit.phi, fit.psi, fit.theta]])
    held = 0 if gamed is None else len(gamed.share)
    step = max(1, BATCH_CELLS // (len(delta) + held))
    for first in range(0, len(counts), step):
        drawn = counts[first : first + step]
        solution = _refit(fit, delta, difficulty, share, gamed, drawn, np.repeat(start, len(drawn), axis=0))
        predicted = special.expit(solution[:, 1:2] * difficulty + solution[:, 2:3])
        lc[first : first + step] = (drawn * predicted).sum(axis=1) / drawn.sum(axis=1) * 100
    return lc


def solve_l1(design: Array, targets: Array, weights: Array, strengths: Array, start: Array) -> Array:
    """Minimise ||w||_1 + C sum_i v_i CE(y_i, sigmoid(x_i w)) for B problems at once; liblinear's objective.

    Proximal Newton: each step minimises the quadratic model plus the L1 term by coordinate descent and is
    halved until the objective falls. A soft label is one row of cross-entropy, as two weighted copies are.

    Args:
        design: [B or 1, n, d].
        targets: [n] or [B, n], in [0, 1].
        weights: [B, n], non-negative.
        strengths: [B], C.
        start: [B, d].

    """
    solution = start.copy()
    penalty = 1 / strengths
    value = _objective(design, targets, weights, penalty, solution)
    for _ in range(100):
        probability = special.expit(_scores(design, solution))
        gradient = _project(design, weights * (probability - targets))
        scaled = design * (weights * probability * (1 - probability))[..., None]
        hessian = np.swapaxes(scaled, 1, 2) @ design
        step = _prox(gradient, hessian, penalty, solution)
        moved, value = _halve(design, targets, weights, penalty, solution, step, value)
        solution = solution + moved
        if float(np.abs(moved).max()) < 1e-9:
            break
    return solution


def _halve(
    design: Array,
    targets: Array,
    weights: Array,
    penalty: Array,
    solution: Array,
    step: Array,
    value: Array,
) -> tuple[Array, Array]:
    """Return the longest halving of each step that does not raise its objective, and the objective there."""
    limit = value + 1e-12 * np.abs(value)
    moved = step.copy()
    after = _objective(design, targets, weights, penalty, solution + moved)
    for _ in range(30):
        worse = after > limit
        if not worse.any():
            break
        moved[worse] /= 2
        after = _objective(design, targets, weights, penalty, solution + moved)
    moved[after > limit] = 0
    return moved, np.where(after > limit, value, after)


def _scores(design: Array, solution: Array) -> Array:
    if len(design) == 1:
        return solution @ design[0].T
    return (design @ solution[..., None])[..., 0]


def _project(design: Array, residual: Array) -> Array:
    if len(design) == 1:
        return residual @ design[0]
    return (residual[:, None, :] @ design)[:, 0, :]


def _objective(design: Array, targets: Array, weights: Array, penalty: Array, solution: Array) -> Array:
    scores = _scores(design, solution)
    loss = (weights * (np.logaddexp(0, scores) - targets * scores)).sum(axis=1)
    return loss + penalty * np.abs(solution).sum(axis=1)


def _prox(gradient: Array, hessian: Array, penalty: Array, solution: Array) -> Array:
    """Return the step to the minimum of the quadratic model plus the L1 term, by coordinate descent."""
    target = solution.copy()
    slope = gradient.copy()
    width = solution.shape[1]
    curvature = np.maximum(np.einsum("bdd->bd", hessian), 1e-12)
    for _ in range(200):
        largest = 0.0
        for j in range(width):
            centre = target[:, j] - slope[:, j] / curvature[:, j]
            new = np.sign(centre) * np.maximum(np.abs(centre) - penalty / curvature[:, j], 0)
            change = new - target[:, j]
            slope += hessian[:, :, j] * change[:, None]
            target[:, j] = new
            largest = max(largest, float(np.abs(change).max()))
        if largest < 1e-10:
            break
    return target - solution


def _design(
    delta: Array, difficulty: Array, share: Array, gamed: GamedRows | None
) -> tuple[Array, Array, Array]:
    """Return design [n, 3], targets [n] and weights [n]: gamed rows first, as AlpacaEval stacks them."""
    judged = np.isfinite(share)
    if int(judged.sum()) < FOLDS:
        raise DataError(f"{int(judged.sum())} verdicts: at least {FOLDS} are needed for length control")
    spread = float(delta.std(ddof=1))
    if not spread > 0:
        raise DataError("every answer differs from the baseline's by the same length: nothing to control for")
    own = np.stack([np.tanh(delta / spread), difficulty, np.ones_like(delta)], axis=1)[judged]
    if gamed is None:
        return own, share[judged], np.ones(len(own))
    held, targets, weights = _held(gamed)
    return (
        np.concatenate([held, own]),
        np.concatenate([targets, share[judged]]),
        np.concatenate([weights, np.ones(len(own))]),
    )


def _choose_strength(design: Array, targets: Array, weights: Array) -> float:
    """Return the strength with the best held-out log-loss, folds as scikit-learn 1.9's GroupKFold makes them.

    Groups of equal size are dealt from the last to the first: row g goes to fold (n - 1 - g) mod 5.
    """
    n = len(targets)
    fold = (n - 1 - np.arange(n)) % FOLDS
    held_out = np.repeat(np.arange(FOLDS), len(STRENGTHS))[:, None] == fold
    training = np.where(held_out, 0.0, weights)
    place = np.tile(np.arange(len(STRENGTHS)), FOLDS)
    solutions = np.stack(
        [
            fit_path_point(design, targets, kept, float(STRENGTHS[k]), int(k))
            for kept, k in zip(training, place, strict=True)
        ]
    )
    probability = np.clip(special.expit(solutions @ design.T), CLIP, 1 - CLIP)
    loss = -(targets * np.log(probability) + (1 - targets) * np.log1p(-probability)) * weights
    score = -(loss * held_out).sum(axis=1) / held_out.sum(axis=1)
    return float(STRENGTHS[int(score.reshape(FOLDS, -1).sum(axis=0).argmax())])


def _refit(
    fit: LengthControl,
    delta: Array,
    difficulty: Array,
    share: Array,
    gamed: GamedRows | None,
    counts: Array,
    start: Array,
) -> Array:
    total = counts.sum(axis=1, keepdims=True)
    mean = (counts @ delta)[:, None] / total
    spread = np.sqrt((counts * (delta - mean) ** 2).sum(axis=1, keepdims=True) / (total - 1))
    shape = counts.shape
    columns = [np.tanh(delta / np.maximum(spread, 1e-12)), np.broadcast_to(difficulty, shape), np.ones(shape)]
    design, weights = np.stack(columns, axis=2), counts * np.isfinite(share)
    targets = np.nan_to_num(share)
    if gamed is not None:
        held, own_targets, held_weights = _held(gamed)
        design = np.concatenate([np.broadcast_to(held, (len(counts), *held.shape)), design], axis=1)
        weights = np.concatenate([np.broadcast_to(held_weights, (len(counts), len(held))), weights], axis=1)
        targets = np.concatenate([own_targets, targets])
    return solve_l1(design, targets, weights, np.full(len(counts), fit.strength), start)


def _held(gamed: GamedRows) -> tuple[Array, Array, Array]:
    columns = [np.tanh(gamed.scaled_delta), gamed.difficulty, np.zeros_like(gamed.share)]
    return np.stack(columns, axis=1), gamed.share, np.full(len(gamed.share), GAMED_WEIGHT)
