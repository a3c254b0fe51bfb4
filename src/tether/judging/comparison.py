"""What verdicts say about models: win rates, order bias, lengths, ratings, agreement, and how surely."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tether.analysis.sequential import betting_log_capital
from tether.analysis.stats import (
    Interval,
    bootstrap_interval,
    mean_interval,
    required_size,
    resampling_weights,
)
from tether.errors import DataError
from tether.judging.own_prompts import fit_own_prompts, refit
from tether.judging.pairwise import Verdict
from tether.records.results import Record

Array = NDArray[np.float64]
Pairing = tuple[str, str]


class Estimate(Record):
    """A number with its 95 % interval over prompts."""

    value: float
    low: float | None
    high: float | None
    se: float | None


class Comparison(Record):
    """Two models on the same prompts; rates in percent, A's share of the wins."""

    a: str
    b: str
    judge: str
    win_rate: Estimate
    lc_win_rate: Estimate | None
    """Had the lengths been equal: "own-prompts", never comparable with a published LC rate."""
    lc_note: str = ""
    distinguishable: bool
    """The win rate's interval excludes 50 %."""
    order_bias: Estimate
    """Share won by the answer shown first, minus 50, in points."""
    inconsistent: float
    """Percent of pairs whose winner changes with the order."""
    mean_chars_a: float
    mean_chars_b: float
    prompts: int
    pairs: int
    """Pairs judged in both orders."""
    failed: int
    """Pairs without a verdict in at least one order: in no rate."""
    prompts_needed: int | None
    """To tell this difference from 50 % with 80 % power, were it the true one."""
    e_value: float
    """Largest e-value against equality over the verdicts in their order; 1 / e is valid at any look."""


class Rating(Record):
    """A model's Bradley-Terry strength in logits, ties counted as half a win, over all models' mean."""

    model: str
    rating: Estimate


class Agreement(Record):
    """Two judges on the same pairs of answers."""

    first: str
    second: str
    pairs: int
    same: float
    """Percent of pairs with the same winner (or both without one)."""
    alpha: float
    """Krippendorff's alpha, nominal: 1 is perfect agreement, 0 what chance gives."""


def compare_pair(verdicts: Sequence[Verdict], *, draws: int = 1000, seed: int = 0) -> Comparison:
    """Compare the two models of these verdicts, all by one judge.

    Raises:
        DataError: no verdict in both orders, or verdicts of several pairs of models or judges.

    """
    kinds = {(v.model_a, v.model_b, v.judge) for v in verdicts}
    if len(kinds) != 1:
        raise DataError(f"{len(kinds)} pairs of models and judges among the verdicts: compare one at a time")
    ((a, b, judge),) = kinds
    judged = [v for v in verdicts if v.share is not None]
    if not judged:
        raise DataError(f"{a} against {b}: no pair was judged in both orders ({len(verdicts)} failed)")
    shares = np.array([v.share for v in judged], dtype=np.float64)
    prompts = [v.id for v in judged]
    win = mean_interval(100 * shares, clusters=prompts, bounds=(0, 100), seed=seed, draws=max(draws, 1000))
    first = np.array([_first_share(v) for v in judged])
    controlled, note = _length_controlled(judged, shares, draws=draws, seed=seed)
    sd = win.se * math.sqrt(win.n) if win.n > 1 else math.nan
    return Comparison(
        a=a,
        b=b,
        judge=judge,
        win_rate=_estimate(win),
        lc_win_rate=controlled,
        lc_note=note,
        distinguishable=win.low > 50 or win.high < 50,
        order_bias=_estimate(mean_interval(100 * (first - 0.5), clusters=prompts, seed=seed)),
        inconsistent=100 * float(np.mean([v.inconsistent for v in judged])),
        mean_chars_a=float(np.mean([len(v.answer_a) for v in judged])),
        mean_chars_b=float(np.mean([len(v.answer_b) for v in judged])),
        prompts=len(set(prompts)),
        pairs=len(judged),
        failed=len(verdicts) - len(judged),
        prompts_needed=required_size(win.estimate - 50, sd),
        e_value=math.exp(min(float(betting_log_capital(_by_prompt(judged)).max()), 700.0)),
    )


def group(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, str], list[Verdict]]:
    """Return the verdicts by (model A, model B, judge); a pair judged as (B, A) is turned round."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        key = (verdict.model_a, verdict.model_b, verdict.judge)
        turned = (verdict.model_b, verdict.model_a, verdict.judge)
        if turned in groups:
            groups[turned].append(turn(verdict))
        else:
            groups.setdefault(key, []).append(verdict)
    return groups


def turn(verdict: Verdict) -> Verdict:
    """Return the same verdict with A and B exchanged."""
    return Verdict(
        id=verdict.id,
        prompt=verdict.prompt,
        model_a=verdict.model_b,
        model_b=verdict.model_a,
        answer_a=verdict.answer_b,
        answer_b=verdict.answer_a,
        judge=verdict.judge,
        a_first=None if verdict.b_first is None else 1 - verdict.b_first,
        b_first=None if verdict.a_first is None else 1 - verdict.a_first,
        errors=verdict.errors,
    )


def ratings(verdicts: Sequence[Verdict], *, draws: int = 200, seed: int = 0) -> tuple[Rating, ...]:
    """Return Bradley-Terry ratings of all models, best first, with intervals over prompts.

    Soft verdicts count as shares of a win. A virtual tie between every two models (one half-win each) keeps
    a model that always wins at a finite rating; it is the same for all.
    """
    judged = [v for v in verdicts if v.share is not None]
    models = sorted({name for v in judged for name in (v.model_a, v.model_b)})
    prompts = sorted({v.id for v in judged})
    if len(models) < 2:
        raise DataError("ratings need verdicts on at least two models")
    place, row = {m: i for i, m in enumerate(models)}, {p: i for i, p in enumerate(prompts)}
    wins = np.zeros((len(prompts), len(models), len(models)))
    for verdict in judged:
        share = verdict.share or 0.0
        i, j, k = place[verdict.model_a], place[verdict.model_b], row[verdict.id]
        wins[k, i, j] += share
        wins[k, j, i] += 1 - share
    counts = resampling_weights(len(prompts), draws=draws, seed=seed)
    strengths = bradley_terry(wins.sum(axis=0))
    drawn = np.stack([bradley_terry(np.einsum("p,pij->ij", c, wins), start=strengths) for c in counts])
    rows = [
        Rating(
            model=model,
            rating=_estimate(bootstrap_interval(drawn[:, i], float(strengths[i]), len(prompts))),
        )
        for i, model in enumerate(models)
    ]
    return tuple(sorted(rows, key=lambda r: -r.rating.value))


def bradley_terry(wins: Array, prior: float = 0.5, start: Array | None = None) -> Array:
    """Return strengths in logits (mean 0) for a table of wins [M, M], row over column.

    Newman's iteration (2023, JMLR 24, eq. 13), which converges to the same maximum likelihood as Zermelo's.
    """
    table = wins + prior * (1 - np.eye(len(wins)))
    strength = np.ones(len(wins)) if start is None else np.exp(start)
    for _ in range(10_000):
        total = strength[:, None] + strength[None, :]
        updated = (table * strength[None, :] / total).sum(axis=1) / (table.T / total).sum(axis=1)
        updated /= np.exp(np.log(updated).mean())
        moved = float(np.abs(np.log(updated / strength)).max())
        strength = updated
        if moved < 1e-8:
            break
    return np.log(strength)


def agreements(verdicts: Sequence[Verdict]) -> tuple[Agreement, ...]:
    """Return how far every two judges (people count as judges) agree on the pairs that both decided."""
    by_judge: dict[str, dict[tuple[str, ...], int]] = {}
    for verdict in verdicts:
        if verdict.share is None:
            continue
        turned = turn(verdict) if verdict.model_a > verdict.model_b else verdict
        share = turned.share or 0.0
        key = (turned.id, turned.model_a, turned.model_b, turned.answer_a, turned.answer_b)
        by_judge.setdefault(turned.judge, {})[key] = (share > 0.5) - (share < 0.5)
    found: list[Agreement] = []
    for one, two in combinations(sorted(by_judge), 2):
        both = sorted(by_judge[one].keys() & by_judge[two].keys())
        if len(both) < 2:
            continue
        first = np.array([by_judge[one][key] for key in both])
        second = np.array([by_judge[two][key] for key in both])
        found.append(
            Agreement(
                first=one,
                second=two,
                pairs=len(both),
                same=100 * float(np.mean(first == second)),
                alpha=krippendorff(first, second),
            )
        )
    return tuple(found)


def krippendorff(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return Krippendorff's alpha (nominal) of two raters with no value missing; 1 where all is one."""
    n = 2 * len(first)
    observed = float(np.mean(first != second))
    _, counts = np.unique(np.concatenate([first, second]), return_counts=True)
    expected = 1 - float((counts * (counts - 1)).sum()) / (n * (n - 1))
    return 1.0 if expected == 0 else 1 - observed / expected


def parse_requirement(text: str, models: Sequence[str]) -> Pairing:
    """Return (better, worse) of a gate such as "A > B".

    Raises:
        DataError: not of that form, or a name that is not among the models.

    """
    parts = [part.strip() for part in text.split(">")]
    if len(parts) != 2 or not all(parts):
        raise DataError(f'--require {text!r}: write "A > B" with two names of {", ".join(models)}')
    for name in parts:
        if name not in models:
            raise DataError(f"--require {text!r}: no model {name!r} here; there are {', '.join(models)}")
    return parts[0], parts[1]


def shown_better(comparisons: Mapping[Pairing, Comparison], better: str, worse: str) -> tuple[bool, str]:
    """Return whether the better model was shown to win, and the sentence that says so."""
    if (better, worse) in comparisons:
        found, rate = comparisons[(better, worse)], comparisons[(better, worse)].win_rate
        low, high, value = rate.low, rate.high, rate.value
    else:
        found = comparisons[(worse, better)]
        rate = found.win_rate
        value = 100 - rate.value
        low = None if rate.high is None else 100 - rate.high
        high = None if rate.low is None else 100 - rate.low
    shown = low is not None and low > 50
    reach = "no interval" if low is None or high is None else f"95 % {low:.1f} to {high:.1f}"
    more = f"; about {found.prompts_needed} prompts would be needed" if found.prompts_needed else ""
    verdict = "shown" if shown else "not shown"
    return shown, f"{better} > {worse} {verdict}: wins {value:.1f} % ({reach}, {found.prompts} prompts){more}"


def _first_share(verdict: Verdict) -> float:
    assert verdict.a_first is not None and verdict.b_first is not None
    return (verdict.a_first + 1 - verdict.b_first) / 2


def _by_prompt(verdicts: Sequence[Verdict]) -> list[float]:
    """Return one verdict per prompt, in the order first seen: samples of a prompt are no separate bets."""
    groups: dict[str, list[float]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.id, []).append(verdict.share or 0.0)
    return [float(np.mean(group)) for group in groups.values()]


def _length_controlled(
    verdicts: Sequence[Verdict], shares: Array, *, draws: int, seed: int
) -> tuple[Estimate | None, str]:
    """Fit the length model of this pair alone; clusters of one prompt are drawn together."""
    delta = np.array([float(len(v.answer_b) - len(v.answer_a)) for v in verdicts])
    if len(verdicts) < 20:
        return None, f"{len(verdicts)} pairs: at least 20 are needed for length control"
    if not float(delta.std()) > 0:
        return None, "all answers differ by the same length: nothing to control for"
    fit = fit_own_prompts(shares[None], delta[None])
    present = np.ones((1, len(delta)), dtype=np.bool_)
    _, index = np.unique([v.id for v in verdicts], return_inverse=True)
    prompts = int(index.max()) + 1
    counts = resampling_weights(prompts, draws=draws, seed=seed)[:, index]
    drawn = [refit(fit, shares[None], delta[None], c).lc_win_rates(present, c)[0] for c in counts]
    interval = bootstrap_interval(drawn, float(fit.lc_win_rates(present)[0]), prompts)
    return _estimate(interval), ""


def _estimate(interval: Interval) -> Estimate:
    known = interval.n > 1
    return Estimate(
        value=interval.estimate,
        low=interval.low if known else None,
        high=interval.high if known else None,
        se=interval.se if known else None,
    )
