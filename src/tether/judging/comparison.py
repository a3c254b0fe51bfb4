"""What verdicts say about models: win rates, order bias, lengths, ratings, agreement, and how surely."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tether.analysis.sequential import (
    betting_confidence_sequence,
    betting_log_capital,
    vote_confidence_sequence,
    vote_log_e_value,
)
from tether.analysis.stats import (
    Interval,
    bootstrap_interval,
    mean_interval,
    required_size,
    resampling_weights,
)
from tether.errors import DataError
from tether.judging.own_prompts import fit_own_prompts, refit, scaled_lengths
from tether.records.comparison import Agreement, Comparison, Estimate, Rate, Rating, Verdict

Array = NDArray[np.float64]
Pairing = tuple[str, str]

LENGTH_PAIRS = 20
"""Fewest pairs whose length term is fitted."""


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
    win = mean_interval(
        100 * shares, clusters=prompts, bounds=(0, 100), null=50, seed=seed, draws=max(draws, 1000)
    )
    first = np.array([_first_share(v) for v in judged])
    controlled, note = _length_controlled(judged, shares, draws=draws, seed=seed)
    sd = win.se * math.sqrt(win.n) if win.n > 1 else math.nan
    return Comparison(
        a=a,
        b=b,
        judge=judge,
        win_rate=estimate(win),
        lc_win_rate=controlled,
        lc_note=note,
        distinguishable=win.low > 50 or win.high < 50,
        order_bias=estimate(mean_interval(100 * (first - 0.5), clusters=prompts, seed=seed)),
        inconsistent=100 * float(np.mean([v.inconsistent for v in judged])),
        mean_chars_a=float(np.mean([len(v.answer_a) for v in judged])),
        mean_chars_b=float(np.mean([len(v.answer_b) for v in judged])),
        prompts=len(set(prompts)),
        pairs=len(judged),
        failed=len(verdicts) - len(judged),
        prompts_needed=required_size(win.estimate - 50, sd),
        ties=int((shares == 0.5).sum()),
        **_at_any_look(judged),
    )


def group(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, str], list[Verdict]]:
    """Return the verdicts by (model A, model B, judge); a pair judged as (B, A) is turned round."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        key = (verdict.model_a, verdict.model_b, verdict.judge)
        turned = (verdict.model_b, verdict.model_a, verdict.judge)
        if turned in groups:
            groups[turned].append(verdict.turned())
        else:
            groups.setdefault(key, []).append(verdict)
    return groups


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
            rating=estimate(bootstrap_interval(drawn[:, i], float(strengths[i]), len(prompts))),
        )
        for i, model in enumerate(models)
    ]
    return tuple(sorted(rows, key=lambda r: -r.rating.value))


def bradley_terry(wins: Array, prior: float = 0.5, start: Array | None = None) -> Array:
    """Return strengths in logits (mean 0) for a table of wins [M, M], row over column.

    The maximum of sum_ij wins_ij log sigmoid(s_i - s_j), concave in s, by Newton's method with halved steps;
    `prior` adds that many wins to every cell off the diagonal.
    """
    table = wins + prior * (1 - np.eye(len(wins)))
    games = table + table.T
    strength = np.zeros(len(wins)) if start is None else start
    value = _likelihood(table, strength)
    for _ in range(100):
        expected = special.expit(strength[:, None] - strength[None, :])
        gradient = (table - games * expected).sum(axis=1)
        weights = games * expected * (1 - expected)
        # The ones fix the mean, which the likelihood leaves open.
        laplacian = np.diag(weights.sum(axis=1)) - weights + np.ones_like(weights)
        step = np.linalg.solve(laplacian, gradient)
        size, after = 1.0, _likelihood(table, strength + step)
        while after < value - 1e-12 * abs(value) and size > 1e-9:
            size /= 2
            after = _likelihood(table, strength + size * step)
        strength, value = strength + size * step, after
        if float(np.abs(size * step).max()) < 1e-10:
            break
    return strength - strength.mean()


def _likelihood(table: Array, strength: Array) -> float:
    return float((table * special.log_expit(strength[:, None] - strength[None, :])).sum())


def agreements(verdicts: Sequence[Verdict]) -> tuple[Agreement, ...]:
    """Return how far every two judges (people count as judges) agree on the pairs that both decided."""
    by_judge: dict[str, dict[tuple[str, ...], int]] = {}
    for verdict in verdicts:
        if verdict.share is None:
            continue
        turned = verdict.turned() if verdict.model_a > verdict.model_b else verdict
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


def shown_better(
    comparisons: Mapping[Pairing, Comparison], better: str, worse: str, by: Rate = "win_rate"
) -> tuple[bool, str]:
    """Return whether the better model was shown to win, and the sentence that says so."""
    straight = (better, worse) in comparisons
    found = comparisons[(better, worse) if straight else (worse, better)]
    rate = found.win_rate if by == "win_rate" else found.lc_win_rate
    if rate is None:
        return False, f"{better} > {worse} not shown: no length-controlled rate, {found.lc_note}"
    value, low, high = (rate.value, rate.low, rate.high) if straight else _turned(rate)
    shown = low is not None and low > 50
    reach = "no interval" if low is None or high is None else f"95 % {low:.1f} to {high:.1f}"
    more = f"; about {found.prompts_needed} prompts would be needed" if found.prompts_needed else ""
    what = "wins" if by == "win_rate" else "at equal length wins"
    text = f"{better} > {worse} {'shown' if shown else 'not shown'}: {what} {value:.1f} % ({reach}, "
    return shown, f"{text}{found.prompts} prompts){'' if shown else more}"


def _turned(rate: Estimate) -> tuple[float, float | None, float | None]:
    low = None if rate.high is None else 100 - rate.high
    return 100 - rate.value, low, None if rate.low is None else 100 - rate.low


def surprises(verdicts: Sequence[Verdict]) -> list[float | None]:
    """Return how far each verdict is from what the pair's model of the verdicts expects, in bits.

    The divergence of the verdict from the probability that the two models' strength and the difference in
    length give A: -log2 of that probability for a sure win of A. None without a verdict.
    """
    found: list[float | None] = [None] * len(verdicts)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, verdict in enumerate(verdicts):
        if verdict.share is not None:
            groups.setdefault((verdict.model_a, verdict.model_b, verdict.judge), []).append(place)
    for places in groups.values():
        judged = [verdicts[place] for place in places]
        shares = np.array([verdict.share for verdict in judged], dtype=np.float64)
        expected = _expected(judged, shares)
        bits = special.rel_entr(shares, expected) + special.rel_entr(1 - shares, 1 - expected)
        for place, value in zip(places, bits / math.log(2), strict=True):
            found[place] = float(value)
    return found


def _expected(verdicts: Sequence[Verdict], shares: Array) -> Array:
    delta = _length_differences(verdicts)
    if len(verdicts) < LENGTH_PAIRS or not float(delta.std()) > 0:
        return np.full(len(shares), (shares.sum() + 0.5) / (len(shares) + 1))
    fit = fit_own_prompts(shares[None], delta[None])
    return special.expit(fit.theta[0] + fit.phi[0] * scaled_lengths(delta[None])[0])


def _first_share(verdict: Verdict) -> float:
    """Return what the answer shown first won, over the orders shown."""
    shown = [] if verdict.a_first is None else [verdict.a_first]
    shown += [] if verdict.b_first is None else [1 - verdict.b_first]
    return sum(shown) / len(shown)


def _at_any_look(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the test that holds at every look: for votes their own, else the betting test by prompt."""
    if all(verdict.is_vote for verdict in verdicts):
        votes = [verdict.share for verdict in verdicts if verdict.share != 0.5]
        wins = np.cumsum(np.array(votes, dtype=np.float64))
        log_e = vote_log_e_value(wins, np.arange(1, len(votes) + 1)) if votes else np.zeros(1)
        low, high = vote_confidence_sequence(int(wins[-1]) if votes else 0, len(votes))
        test = "votes"
    else:
        values = _by_prompt(verdicts)
        log_e = betting_log_capital(values)
        low, high = betting_confidence_sequence(values)
        test = "betting"
    e_value = math.exp(min(max(float(log_e.max()), 0.0), 700.0))
    return {"test": test, "e_value": e_value, "sequence": (100 * low, 100 * high)}


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
    delta = _length_differences(verdicts)
    if len(verdicts) < LENGTH_PAIRS:
        return None, f"{len(verdicts)} pairs: at least {LENGTH_PAIRS} are needed for length control"
    if not float(delta.std()) > 0:
        return None, "all answers differ by the same length: nothing to control for"
    if not float(np.ptp(shares)) > 0:
        return None, "every verdict is the same: no length term can be fitted"
    fit = fit_own_prompts(shares[None], delta[None])
    present = np.ones((1, len(delta)), dtype=np.bool_)
    _, index = np.unique([v.id for v in verdicts], return_inverse=True)
    prompts = int(index.max()) + 1
    counts = resampling_weights(prompts, draws=draws, seed=seed)[:, index]
    drawn = [refit(fit, shares[None], delta[None], c).lc_win_rates(present, c)[0] for c in counts]
    interval = bootstrap_interval(drawn, float(fit.lc_win_rates(present)[0]), prompts)
    return estimate(interval), ""


def _length_differences(verdicts: Sequence[Verdict]) -> Array:
    return np.array([float(len(v.answer_b) - len(v.answer_a)) for v in verdicts])


def estimate(interval: Interval) -> Estimate:
    """Return an interval as it is written; one prompt gives no bounds."""
    known = interval.n > 1
    return Estimate(
        value=interval.estimate,
        low=interval.low if known else None,
        high=interval.high if known else None,
        se=interval.se if known else None,
    )
