import math

import numpy as np
import pytest
from scipy import special

from tether.analysis.sequential import (
    SequentialComparison,
    betting_confidence_sequence,
    betting_log_capital,
    vote_confidence_sequence,
    vote_log_e_value,
)
from tether.errors import DataError, UsageError

ALPHA = 0.05
LOOKS = 2000


def _ever(log_e: np.ndarray) -> float:
    """Share of studies in which the test raised an alarm at any look."""
    return float(np.mean(log_e.max(axis=-1) >= math.log(1 / ALPHA)))


def test_the_vote_e_value_is_the_published_formula() -> None:
    direct = special.beta(20 + 7, 20 + 3) / special.beta(20, 20) * 2**10
    assert math.exp(vote_log_e_value(7, 10)) == pytest.approx(direct)
    assert vote_log_e_value(0, 0) == pytest.approx(0)


def test_votes_on_equals_raise_a_false_alarm_in_at_most_5_per_cent_over_all_looks() -> None:
    votes = np.random.default_rng(0).random((4000, LOOKS)) < 0.5
    alarms = _ever(vote_log_e_value(np.cumsum(votes, axis=1), np.arange(1, LOOKS + 1)))
    assert 0.01 < alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000) - 0.005
    naive = np.abs(np.cumsum(votes, axis=1) - np.arange(1, LOOKS + 1) / 2) / np.sqrt(
        np.arange(1, LOOKS + 1) / 4
    )
    assert np.mean(naive[:, 49:].max(axis=1) > 1.96) > 0.3  # the control: looking with a z-test


def test_a_vote_e_value_is_a_martingale() -> None:
    for wins, votes in ((0, 0), (3, 10), (40, 60)):
        now = math.exp(vote_log_e_value(wins, votes))
        later = (
            math.exp(vote_log_e_value(wins, votes + 1)) + math.exp(vote_log_e_value(wins + 1, votes + 1))
        ) / 2
        assert later == pytest.approx(now)


@pytest.mark.parametrize("rate", [0.5, 0.6, 0.9])
def test_the_confidence_sequence_holds_the_true_rate_at_every_look(rate: float) -> None:
    votes = np.random.default_rng(1).random((2000, LOOKS)) < rate
    wins, n = np.cumsum(votes, axis=1), np.arange(1, LOOKS + 1)
    mixture = special.betaln(20 + wins, 20 + n - wins) - special.betaln(20, 20)
    refuted = mixture - wins * math.log(rate) - (n - wins) * math.log(1 - rate) >= math.log(1 / ALPHA)
    assert np.mean(refuted.any(axis=1)) <= 0.05
    for study in range(5):  # the function inverts exactly this test
        for look in (10, 100, 1999):
            low, high = vote_confidence_sequence(int(wins[study, look]), look + 1)
            assert refuted[study, look] == (not low <= rate <= high)


def test_the_confidence_sequence_is_whole_before_any_vote_and_one_sided_at_the_ends() -> None:
    assert vote_confidence_sequence(0, 0) == (0.0, 1.0)
    low, high = vote_confidence_sequence(50, 50)
    assert high == 1.0
    assert 0.5 < low < 1
    with pytest.raises(DataError):
        vote_confidence_sequence(3, 2)


def _soft(generator: np.random.Generator, shape: tuple[int, int], mean: float) -> np.ndarray:
    return generator.beta(0.4 * mean, 0.4 * (1 - mean), size=shape)


@pytest.mark.parametrize("kind", ["soft", "two orders", "votes"])
def test_betting_on_equals_raises_a_false_alarm_in_at_most_5_per_cent_over_all_looks(kind: str) -> None:
    generator = np.random.default_rng(2)
    values = {
        "soft": lambda: _soft(generator, (3000, LOOKS // 2), 0.5),
        "two orders": lambda: generator.choice([0, 0.5, 1], p=[0.3, 0.4, 0.3], size=(3000, LOOKS // 2)),
        "votes": lambda: generator.integers(0, 2, size=(3000, LOOKS // 2)).astype(float),
    }[kind]()
    assert _ever(betting_log_capital(values)) <= 0.05


def test_betting_finds_a_real_difference() -> None:
    values = _soft(np.random.default_rng(3), (500, 1000), 0.6)
    assert _ever(betting_log_capital(values)) >= 0.95


def test_a_bet_never_sees_the_verdict_it_is_placed_on() -> None:
    values = np.random.default_rng(0).random(50)
    changed = values.copy()
    changed[30:] = 1 - changed[30:]
    before, after = betting_log_capital(values), betting_log_capital(changed)
    np.testing.assert_array_equal(before[:30], after[:30])
    # Expected capital under the null, verdict by verdict: the mean over {0, 1} is what it was.
    ends = [np.exp(betting_log_capital(np.append(values, end))[-1]) for end in (0.0, 1.0)]
    assert np.mean(ends) == pytest.approx(np.exp(before[-1]))


def test_the_betting_confidence_sequence_holds_the_mean_and_narrows() -> None:
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(60):
        low, high = betting_confidence_sequence(_soft(generator, (1, 400), 0.7)[0], grid=200)
        held += low <= 0.7 <= high
    assert held >= 55
    values = _soft(generator, (1, 4000), 0.7)[0]
    early, late = betting_confidence_sequence(values[:200]), betting_confidence_sequence(values)
    assert late[1] - late[0] < (early[1] - early[0]) / 2


def test_a_comparison_stops_when_the_answer_is_known_and_not_before() -> None:
    comparison = SequentialComparison()
    for _ in range(200):
        if comparison.add(1.0):
            break
    assert 5 <= len(comparison.values) <= 20
    assert comparison.e_value >= 20
    assert comparison.win_rate == 1
    undecided = SequentialComparison()
    for value in [0.0, 1.0] * 100:
        assert not undecided.add(value)
    capital = betting_log_capital(comparison.values)
    assert comparison.e_value == pytest.approx(math.exp(capital.max()))


def test_verdicts_outside_their_range_are_refused() -> None:
    with pytest.raises(DataError):
        betting_log_capital([0.5, 1.2])
    with pytest.raises(DataError):
        betting_log_capital([0.5, math.nan])
    with pytest.raises(UsageError):
        betting_log_capital([0.5], mean=1.0)
    with pytest.raises(DataError):
        vote_log_e_value(5, 3)
