"""Win rates and length-controlled win rates of annotated models, each with an interval over prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tether.analysis.stats import (
    Interval,
    bootstrap_interval,
    mean_interval,
    paired_bootstrap,
    required_size_for,
    resampling_weights,
)
from tether.judging.annotations import Annotations
from tether.judging.length_control import (
    GamedRows,
    LengthControl,
    fit_length_control,
    resample_length_control,
)
from tether.judging.own_prompts import JointFit, fit_own_prompts, refit
from tether.records.comparison import Kind, ModelWinRate, PairedDifference

Array = NDArray[np.float64]

GAMING = ("NullModel", "gpt4_gamed")
"""Entries made to game the judge: reported apart, and kept out of every fit that other models share."""
DRAWS = 1000


@dataclass(frozen=True)
class WinRates:
    """All models of a file, and their resampled LC rates (percent, [M, draws]) for paired differences."""

    models: tuple[ModelWinRate, ...]
    resampled: Array
    kind: Kind


def win_rates(
    annotations: Annotations,
    *,
    difficulty: Array | None = None,
    gamed: GamedRows | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> WinRates:
    """Return every model's rates; prompts are resampled together for all models.

    With `difficulty` the model is AlpacaEval 2's, fitted per model; without, all models are fitted jointly
    ("own-prompts"). A model whose lengths cannot be controlled for has a note instead of an LC rate.
    """
    counts = resampling_weights(len(annotations.prompts), draws=draws, seed=seed)
    kind: Kind = "own-prompts" if difficulty is None else "alpacaeval-2"
    if difficulty is None:
        fitted = _own_prompts(annotations, counts)
    else:
        fitted = [
            _alpacaeval(annotations, row, difficulty, gamed, counts) for row in range(len(annotations.models))
        ]
    note = ""
    if difficulty is not None and gamed is None:
        note = "no gamed baselines' rows: AlpacaEval's length_controlled_noreg, not what it publishes"
    entries = [_entry(annotations, row, kind, lc, note, seed, draws) for row, lc in enumerate(fitted)]
    return WinRates(tuple(entries), np.stack([lc.resampled for lc in fitted]), kind)


@dataclass(frozen=True)
class _Controlled:
    rate: float
    resampled: Array
    weights: dict[str, float]
    note: str = ""


def _alpacaeval(
    annotations: Annotations, row: int, difficulty: Array, gamed: GamedRows | None, counts: Array
) -> _Controlled:
    here = np.isfinite(annotations.delta[row])
    delta, share, own = annotations.delta[row][here], annotations.share[row][here], difficulty[here]
    try:
        fit: LengthControl = fit_length_control(delta, own, share, gamed)
    except ValueError as error:
        return _Controlled(math.nan, np.full(len(counts), math.nan), {}, str(error))
    resampled = resample_length_control(fit, delta, own, share, gamed, counts[:, here])
    return _Controlled(
        fit.lc_win_rate, resampled, {"length": fit.phi, "difficulty": fit.psi, "model": fit.theta}
    )


def _own_prompts(annotations: Annotations, counts: Array) -> list[_Controlled]:
    failed = {row: note for row in range(len(annotations.models)) if (note := _unusable(annotations, row))}
    usable = [row for row in range(len(annotations.models)) if row not in failed]
    shared = [row for row in usable if annotations.models[row] not in GAMING] or usable
    done: dict[int, _Controlled] = {
        row: _Controlled(math.nan, np.full(len(counts), math.nan), {}, note) for row, note in failed.items()
    }
    if shared:
        share, delta = annotations.share[shared], annotations.delta[shared]
        joint = fit_own_prompts(share, delta)
        drawn = [refit(joint, share, delta, weights) for weights in counts]
        present = np.isfinite(delta)
        resampled = np.stack([fit.lc_win_rates(present, c) for fit, c in zip(drawn, counts, strict=True)])
        rates = joint.lc_win_rates(present)
        for place, row in enumerate(shared):
            done[row] = _joint_entry(joint, place, float(rates[place]), resampled[:, place])
        for row in sorted(set(usable) - set(shared)):
            done[row] = _apart(annotations, row, joint, drawn, counts)
    return [done[row] for row in range(len(annotations.models))]


def _joint_entry(fit: JointFit, place: int, rate: float, resampled: Array) -> _Controlled:
    weights = {"length": float(fit.phi[place]), "model": float(fit.theta[place]), "prompt_spread": fit.spread}
    return _Controlled(rate, resampled, weights)


def _apart(
    annotations: Annotations, row: int, joint: JointFit, drawn: Sequence[JointFit], counts: Array
) -> _Controlled:
    """Fit one model on the prompt effects the others gave."""
    share, delta = annotations.share[[row]], annotations.delta[[row]]
    fit = fit_own_prompts(share, delta, fixed=joint)
    present = np.isfinite(delta)
    resampled = [
        float(_refit_apart(fit, other, share, delta, weights).lc_win_rates(present, weights)[0])
        for other, weights in zip(drawn, counts, strict=True)
    ]
    return _joint_entry(fit, 0, float(fit.lc_win_rates(present)[0]), np.array(resampled))


def _refit_apart(fit: JointFit, other: JointFit, share: Array, delta: Array, counts: Array) -> JointFit:
    return refit(JointFit(fit.theta, fit.phi, other.gamma, 0.0), share, delta, counts)


def _unusable(annotations: Annotations, row: int) -> str:
    judged = int(np.isfinite(annotations.share[row]).sum())
    if judged < 5:
        return f"{judged} verdicts: at least 5 are needed for length control"
    if not float(np.nanstd(annotations.delta[row])) > 0:
        return "every answer differs from the baseline's by the same length: nothing to control for"
    if not float(np.nanmax(annotations.share[row]) - np.nanmin(annotations.share[row])) > 0:
        return "every verdict is the same: no length term can be fitted"
    return ""


def _entry(
    annotations: Annotations,
    row: int,
    kind: Kind,
    lc: _Controlled,
    note: str,
    seed: int,
    draws: int,
) -> ModelWinRate:
    judged = np.isfinite(annotations.share[row])
    shares = 100 * annotations.share[row][judged]
    raw = (
        mean_interval(shares, bounds=(0, 100), seed=seed, draws=max(draws, 1000))
        if shares.size
        else Interval(math.nan, math.nan, math.nan, math.nan, 0)
    )
    controlled = None
    if math.isfinite(lc.rate) and np.isfinite(lc.resampled).all():
        controlled = bootstrap_interval(lc.resampled, lc.rate, int(judged.sum()))
    return ModelWinRate(
        model=annotations.models[row],
        win_rate=raw.estimate if raw.n else None,
        win_rate_interval=(raw.low, raw.high) if raw.n > 1 else None,
        win_rate_se=raw.se if raw.n > 1 else None,
        lc_win_rate=lc.rate if controlled else None,
        lc_win_rate_interval=(controlled.low, controlled.high) if controlled else None,
        lc_win_rate_se=controlled.se if controlled else None,
        lc_kind=kind,
        lc_note=lc.note or note,
        n=raw.n,
        missing=len(annotations.prompts) - raw.n,
        mean_chars=float(np.nanmean(annotations.chars[row])),
        apart=annotations.models[row] in GAMING,
        weights=lc.weights,
    )


def paired_difference(annotations: Annotations, a: str, b: str, *, seed: int = 0) -> PairedDifference:
    """Return the difference in raw win rate on the prompts both have, with its paired interval."""
    first, second = (annotations.share[annotations.models.index(model)] * 100 for model in (a, b))
    both = np.isfinite(first) & np.isfinite(second)
    interval = paired_bootstrap(first[both] - second[both], seed=seed)
    return _difference(a, b, "win_rate", interval, first[both], second[both])


def paired_lc_difference(rates: WinRates, a: str, b: str) -> PairedDifference:
    """Return the difference in length-controlled win rate over the same resampled prompts.

    Raises:
        ValueError: a model has no length-controlled rate.

    """
    names = [entry.model for entry in rates.models]
    one, two = rates.models[names.index(a)], rates.models[names.index(b)]
    if one.lc_win_rate is None or two.lc_win_rate is None:
        raise ValueError(f"{a} or {b} has no length-controlled win rate: {one.lc_note or two.lc_note}")
    first, second = rates.resampled[names.index(a)], rates.resampled[names.index(b)]
    interval = bootstrap_interval(first - second, one.lc_win_rate - two.lc_win_rate, min(one.n, two.n))
    return _difference(a, b, "lc_win_rate", interval, first, second)


def _difference(
    a: str, b: str, kind: Literal["win_rate", "lc_win_rate"], interval: Interval, first: Array, second: Array
) -> PairedDifference:
    varied = first.size > 1 and np.ptp(first) > 0 and np.ptp(second) > 0
    return PairedDifference(
        a=a,
        b=b,
        kind=kind,
        difference=interval.estimate,
        interval=(interval.low, interval.high),
        se=interval.se,
        correlation=float(np.corrcoef(first, second)[0, 1]) if varied else 0.0,
        distinguishable=interval.low > 0 or interval.high < 0,
        n=interval.n,
        prompts_needed=required_size_for(interval),
    )
