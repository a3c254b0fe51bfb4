"""Rebuilding AlpacaEval's difficulty table from annotations of models whose term weights were published.

Per prompt i, gamma_i is what makes the verdicts on the known models likely under

    P(model m preferred on i) = sigmoid(phi_m tanh(d_mi / std(d_m)) + psi_m gamma_i + theta_m)

with the published phi, psi, theta: penalised maximum likelihood, gamma ~ N(mu, s^2) with mu free, tied to
the published rates by mean_i sigmoid(psi_m gamma_i + theta_m) = LC_m. The rows of the benchmark's two gamed
baselines are not public here either: two made-up ones, verbose and concise, stand in for them, with
verdicts that make the published weights stationary on average (`fit_gamed`).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from tether.errors import DataError
from tether.judging.annotations import Annotations
from tether.judging.length_control import GAMED_WEIGHT, GamedRows, fit_length_control
from tether.judging.winrate import GAMING
from tether.records.results import Record

Array = NDArray[np.float64]

PRIOR_SD = 1.0
TIE = 0.1
"""Standard error allowed between a published LC rate and what the table gives it, in points."""
STRENGTH = 2.78
"""Inverse L1 strength cross-validation usually chooses; the published weights do not say theirs."""
VERBOSE, CONCISE = -0.5, 1.3
"""Mean scaled length difference of the two stand-ins (baseline minus model, in its standard deviations)."""

INNER_FOLDS = 5
COLUMNS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")


@dataclass(frozen=True, slots=True)
class Published:
    """A model's published term weights and rates (percent)."""

    phi: float
    psi: float
    theta: float
    lc_win_rate: float
    win_rate: float


class LeftOut(Record):
    """One model predicted by a table that never saw it; rates in percent."""

    model: str
    predicted: float
    predicted_by_position: float
    """Difficulties joined by row position, as for the published number: differs where rows are missing."""
    published: float
    apart: bool
    missing: int


class DifficultyReport(Record):
    """How well tables built without a model predict its published LC rate, in points.

    Errors compare like with like: files with missing rows are joined by position, as for publication.
    `identity_*` are the errors of the rates joined as they should be.
    """

    models: int
    mean_absolute_error: float
    largest_error: float
    bias: float
    spearman: float
    identity_mean_absolute_error: float
    identity_spearman: float
    left_out: tuple[LeftOut, ...]
    learning_curve: tuple[tuple[int, float], ...] = ()
    """(models the table was built from, mean absolute error on the others)."""


def read_published(path: Path) -> dict[str, Published]:
    """Read term weights as AlpacaEval's repository has them, with `length_controlled_winrate` beside them.

    Raises:
        DataError: unreadable, or a column is missing.

    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{path}: not readable: {error}") from error
    known: dict[str, Published] = {}
    for line, row in enumerate(rows, start=2):
        try:
            phi, psi, theta = (float(row[name]) for name in COLUMNS)
            known[row["model"]] = Published(
                phi, psi, theta, float(row["length_controlled_winrate"]), float(row["win_rate"])
            )
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}:{line}: {error} (model, win_rate, LC and weights needed)") from error
    return known


def fit_difficulty(annotations: Annotations, known: dict[str, Published], models: Sequence[str]) -> Array:
    """Return one difficulty per prompt from these models, all of which have published weights.

    Models with missing rows are left out: their published weights were fitted with shifted difficulties.

    Raises:
        DataError: no model with published weights and every row.

    """
    used = _complete(annotations, models)
    if not used:
        raise DataError(f"{annotations.source}: no model with published weights and every row")
    part = annotations.select(used)
    weights = np.array([(known[m].phi, known[m].psi, known[m].theta) for m in used])
    rates = np.array([known[m].lc_win_rate for m in used]) / 100
    judged = np.isfinite(part.share)
    targets = np.where(judged, part.share, 0.5)
    offset = weights[:, :1] * np.tanh(part.delta / part.delta.std(axis=1, ddof=1, keepdims=True))
    psi, theta = weights[:, 1:2], weights[:, 2:3]
    n = len(part.prompts)

    def objective(point: Array) -> tuple[float, Array]:
        gamma, mean = point[:n], point[n]
        scores = offset + psi * gamma + theta
        residual = judged * (special.expit(scores) - targets)
        off = gamma - mean
        equal = special.expit(psi * gamma + theta)
        gap = (equal.mean(axis=1) - rates) / (TIE / 100)
        value = float((judged * (np.logaddexp(0, scores) - targets * scores)).sum())
        value += float((off**2).sum()) / (2 * PRIOR_SD**2) + float((gap**2).sum()) / 2
        slope = (residual * psi).sum(axis=0) + off / PRIOR_SD**2
        slope += (gap[:, None] * equal * (1 - equal) * psi).sum(axis=0) / (n * TIE / 100)
        return value, np.append(slope, -float(off.sum()) / PRIOR_SD**2)

    result = optimize.minimize(
        objective, np.zeros(n + 1), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 6000}
    )
    return np.asarray(result.x[:n], dtype=np.float64)


def fit_gamed(
    annotations: Annotations, known: dict[str, Published], models: Sequence[str], difficulty: Array
) -> GamedRows:
    """Return rows that stand in for the gamed baselines, so that published weights are where fits end.

    The gradient of a published fit is zero: that of the model's own rows (known) plus that of the gamed rows
    plus the L1 term. Averaged over models this gives the two sums of verdict x feature the gamed rows must
    have; verdicts sigmoid(phi x + psi gamma) with exactly those sums are used.
    """
    n = len(difficulty)
    quantiles = np.asarray(stats.norm.ppf((np.arange(n) + 0.5) / n), dtype=np.float64)
    generator = np.random.default_rng(0)
    scaled = np.concatenate(
        [VERBOSE + generator.permutation(quantiles), CONCISE + generator.permutation(quantiles)]
    )
    used = _complete(annotations, models)
    sums: list[Array] = []
    for fold in range(min(INNER_FOLDS, len(used))):
        out = used[fold :: min(INNER_FOLDS, len(used))]
        # A table that saw a model's verdicts would hide how little it knows of the next model's.
        blind = difficulty if len(used) == 1 else fit_difficulty(annotations, known, _without(used, out))
        features = np.stack([np.tanh(scaled), np.tile(blind, 2)], axis=1)
        for m in out:
            held = features.T @ special.expit(features @ np.array([known[m].phi, known[m].psi]))
            sums.append(_own_gradient(annotations, known[m], m, blind) / GAMED_WEIGHT + held)
    target = np.mean(sums, axis=0)
    features = np.stack([np.tanh(scaled), np.tile(difficulty, 2)], axis=1)

    def objective(point: Array) -> float:
        return float(np.logaddexp(0, features @ point).sum() - target @ point)

    point = np.asarray(optimize.minimize(objective, np.zeros(2)).x)
    return GamedRows(scaled, features[:, 1], special.expit(features @ point))


def leave_models_out(
    annotations: Annotations,
    known: dict[str, Published],
    *,
    folds: int | None = None,
    sizes: Sequence[int] = (),
    repeats: int = 5,
    seed: int = 0,
) -> DifficultyReport:
    """Predict every published LC rate by tables that never saw the model (`folds` None: one model at a time).

    `sizes` adds a learning curve: tables from that many models, `repeats` times, each predicting all others.
    """
    names = [m for m in annotations.models if m in known]
    honest = [m for m in names if m not in GAMING]
    generator = np.random.default_rng(seed)
    order = [honest[i] for i in generator.permutation(len(honest))]
    groups = [order[i :: folds or len(order)] for i in range(folds or len(order))]
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        found |= _predict(annotations, known, _without(honest, group), group)
    found |= _predict(annotations, known, honest, [m for m in names if m in GAMING])
    curve: list[tuple[int, float]] = []
    for size in sizes:
        errors: list[float] = []
        for _ in range(repeats):
            chosen = [honest[i] for i in generator.permutation(len(honest))[:size]]
            rest = _without(honest, chosen)
            predicted = _predict(annotations, known, chosen, rest)
            errors += [abs(predicted[m][1] - known[m].lc_win_rate) for m in rest]
        curve.append((size, float(np.mean(errors))))
    return _report(annotations, known, names, found, tuple(curve))


def write_tables(
    annotations: Annotations, difficulty: Array, gamed: GamedRows, table: Path, gamed_table: Path | None
) -> None:
    """Write `index, instruction_difficulty`, and the gamed rows in AlpacaEval's columns."""
    key = "instruction" if annotations.by_text else "index"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([key, "instruction_difficulty"])
        writer.writerows(zip(annotations.prompts, map(repr, difficulty.tolist()), strict=True))
    if gamed_table is None:
        return
    n = len(annotations.prompts)
    with gamed_table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["model", key, "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"]
        )
        for row in range(2 * n):
            name = "stand-in-verbose" if row < n else "stand-in-concise"
            values = (gamed.share[row], gamed.scaled_delta[row], gamed.difficulty[row])
            writer.writerow([name, annotations.prompts[row % n], *(repr(float(v)) for v in values), False])


def _without(models: Sequence[str], out: Sequence[str]) -> list[str]:
    return [m for m in models if m not in out]


def _complete(annotations: Annotations, models: Sequence[str]) -> list[str]:
    rows = {m: annotations.delta[annotations.models.index(m)] for m in models}
    return [m for m in models if bool(np.isfinite(rows[m]).all())]


def _own_gradient(annotations: Annotations, weights: Published, model: str, difficulty: Array) -> Array:
    """Gradient of the published fit's own rows and L1 term in phi and psi, at the published weights."""
    row = annotations.models.index(model)
    delta, share = annotations.delta[row], annotations.share[row]
    judged = np.isfinite(share)
    x = np.tanh(delta / delta.std(ddof=1))
    residual = special.expit(weights.phi * x + weights.psi * difficulty + weights.theta) - share
    own = np.stack([residual * x, residual * difficulty], axis=1)[judged].sum(axis=0)
    return own + np.sign([weights.phi, weights.psi]) / STRENGTH


def _predict(
    annotations: Annotations, known: dict[str, Published], training: list[str], held_out: list[str]
) -> dict[str, tuple[float, float]]:
    """Return each held-out model's LC rate, joined by identity and joined by position."""
    difficulty = fit_difficulty(annotations, known, training)
    gamed = fit_gamed(annotations, known, training, difficulty)
    found: dict[str, tuple[float, float]] = {}
    for model in held_out:
        row = annotations.models.index(model)
        here = np.isfinite(annotations.delta[row])
        delta, share = annotations.delta[row][here], annotations.share[row][here]
        rates = [
            fit_length_control(delta, joined, share, gamed).lc_win_rate
            for joined in ((difficulty[here], difficulty[: here.sum()]) if not here.all() else (difficulty,))
        ]
        found[model] = rates[0], rates[-1]
    return found


def _report(
    annotations: Annotations,
    known: dict[str, Published],
    names: list[str],
    found: dict[str, tuple[float, float]],
    curve: tuple[tuple[int, float], ...],
) -> DifficultyReport:
    missing = [int(count) for count in np.isnan(annotations.delta).sum(axis=1).tolist()]
    rows = tuple(
        LeftOut(
            model=m,
            predicted=found[m][0],
            predicted_by_position=found[m][1],
            published=known[m].lc_win_rate,
            apart=m in GAMING,
            missing=missing[annotations.models.index(m)],
        )
        for m in names
    )
    honest = [row for row in rows if not row.apart]
    errors = np.array([row.predicted_by_position - row.published for row in honest])
    joined = np.array([row.predicted - row.published for row in honest])
    return DifficultyReport(
        models=len(honest),
        mean_absolute_error=float(np.abs(errors).mean()),
        largest_error=float(np.abs(errors).max()),
        bias=float(errors.mean()),
        spearman=_spearman([row.predicted_by_position for row in honest], honest),
        identity_mean_absolute_error=float(np.abs(joined).mean()),
        identity_spearman=_spearman([row.predicted for row in honest], honest),
        left_out=rows,
        learning_curve=curve,
    )


def _spearman(predicted: list[float], rows: list[LeftOut]) -> float:
    ours, theirs = np.argsort(np.argsort(predicted)), np.argsort(np.argsort([row.published for row in rows]))
    return float(np.corrcoef(ours, theirs)[0, 1])
