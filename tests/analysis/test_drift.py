import math
from dataclasses import replace

import numpy as np
import pytest

from tether.analysis.drift import Behaviour, degeneration, distinct, fit_frontier, repetition
from tether.errors import DataError

START = Behaviour(end_rate=0.9, entropy=1.2, tokens=40, repetition=0.05, distinct=0.6)


def test_the_law_is_recovered_without_noise() -> None:
    kl = np.array([0.1, 0.5, 2.0, 5.0, 12.0])
    d = np.sqrt(kl)
    law = fit_frontier(kl, d * (1.5 - 0.6 * np.log(d)))
    assert law.alpha == pytest.approx(1.5)
    assert law.beta_hat == pytest.approx(0.6)
    assert law.peak_kl == pytest.approx(math.exp(2 * (1.5 / 0.6 - 1)))
    peak = law.peak_kl
    assert law.gain(peak) > max(law.gain(peak * 0.9), law.gain(peak * 1.1))


def test_its_interval_covers_the_truth_as_announced() -> None:
    kl = np.array([0.05, 0.2, 0.7, 2.0, 4.0, 7.0, 12.0])
    d = np.sqrt(kl)
    hits, inside = 0, 0
    for study in range(400):
        noise = np.random.default_rng(study).normal(0, 0.1, size=7)
        law = fit_frontier(kl, d * (1.0 - 0.4 * np.log(d)) + noise)
        hits += law.beta_hat_interval[0] <= 0.4 <= law.beta_hat_interval[1]
        low, high = law.gain_interval([3.0])
        inside += low[0] <= math.sqrt(3) * (1 - 0.4 * math.log(math.sqrt(3))) <= high[0]
    assert 0.92 <= hits / 400 <= 0.98
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.0), (3, 0.2)])
def test_its_interval_covers_the_truth_where_cells_share_their_prompts_and_start(
    seeds: int, luck: float
) -> None:
    kl = np.repeat([0.2, 0.6, 1.5, 4.0], seeds)
    d, hits, studies = np.sqrt(kl), np.zeros(2), 300
    for study in range(studies):
        rng = np.random.default_rng(study)
        start, cells = rng.normal(size=64), rng.normal(size=(len(kl), 64))
        table = (d * (1.5 - 0.6 * np.log(d)))[:, None] + cells - start + luck * rng.normal(size=(len(kl), 1))
        errors = table.std(axis=1, ddof=1) / 8
        law = fit_frontier(kl, table.mean(axis=1), errors, by_prompt=table)
        hits[0] += law.alpha_interval[0] <= 1.5 <= law.alpha_interval[1]
        hits[1] += law.beta_hat_interval[0] <= 0.6 <= law.beta_hat_interval[1]
    # 95 % less three binomial standard errors of 300; taken as independent, cells cover 0.51 to 0.85.
    assert (hits / studies >= 0.912).all()


def test_cells_known_better_count_more() -> None:
    kl = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    d = np.sqrt(kl)
    gain = d * (1.0 - 0.3 * np.log(d))
    gain[2] += 5
    law = fit_frontier(kl, gain, [0.01, 0.01, 100.0, 0.01, 0.01])
    assert law.beta_hat == pytest.approx(0.3, abs=1e-3)


def test_a_law_without_a_turn_has_no_peak() -> None:
    kl = np.array([0.5, 1.0, 2.0, 4.0])
    assert fit_frontier(kl, np.sqrt(kl) * (1 + 0.1 * np.log(np.sqrt(kl)))).peak_kl is None


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(DataError, match="2 cells"):
        fit_frontier([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
    with pytest.raises(DataError, match="finite"):
        fit_frontier([1.0, 2.0, np.nan], [0.0, 1.0, 1.0])


def test_repetition_and_distinct_are_what_a_hand_computes() -> None:
    assert repetition([[1, 2, 1, 2, 1, 2]], n=2) == pytest.approx(3 / 5)  # 12 21 12 21 12: two distinct
    assert repetition([[1, 2, 3], [1, 2, 3]], n=2) == 0  # across samples is not repetition
    assert distinct([[1, 2, 3], [1, 2, 3]], n=2) == pytest.approx(0.5)
    assert repetition([[1]], n=4) == 0
    assert distinct([], n=2) == 0


def test_a_healthy_model_raises_no_rule_and_the_start_model_never_does() -> None:
    assert degeneration(START, START) == ()
    assert degeneration(replace(START, end_rate=0.8, entropy=0.9, repetition=0.09, tokens=80), START) == ()
    endless = replace(START, end_rate=0.0, repetition=0.6)
    assert degeneration(endless, endless) == ()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"end_rate": 0.3}, "end rate"),
        ({"repetition": 0.4}, "repeated 4-grams"),
        ({"distinct": 0.1}, "distinct-2"),
        ({"entropy": 0.05}, "entropy"),
        ({"large_share": 0.2}, "tokens moved by more than 10 nats"),
    ],
)
def test_each_collapse_is_named_by_its_rule(change: dict[str, float], rule: str) -> None:
    (reason,) = degeneration(replace(START, **change), START)
    assert reason.rule == rule
    assert rule in str(reason) and "start model" in str(reason)
