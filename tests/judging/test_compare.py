import numpy as np
import pytest

from tether.analysis.sequential import vote_confidence_sequence, vote_log_e_value
from tether.analysis.stats import mean_interval
from tether.errors import DataError
from tether.judging.compare import compare_verdicts
from tether.judging.comparison import compare_pair, surprises
from tether.judging.options import Deciding
from tether.records.comparison import Verdict

DECIDING = Deciding(draws=200)


def _verdict(i: int, a: str, b: str, share: float | None, **changes) -> Verdict:
    base = {
        "id": f"p{i}", "prompt": "q", "model_a": a, "model_b": b, "answer_a": "a" * (10 + i % 7),
        "answer_b": "b" * (12 + i % 5), "judge": "j", "a_first": share, "b_first": share,
    }  # fmt: skip
    return Verdict(**{**base, **changes})


def _wins(seed: int, n: int, rate: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < rate).astype(float)


def test_models_that_met_one_opponent_are_compared_in_pairs_over_its_prompts() -> None:
    first, second = _wins(0, 80, 0.7), _wins(1, 80, 0.4)
    second[:40] = first[:40]  # siblings of one sweep agree on many prompts
    verdicts = [_verdict(i, "x", "base", share) for i, share in enumerate(first)]
    verdicts += [_verdict(i, "y", "base", share).turned() for i, share in enumerate(second)]
    found = compare_verdicts(verdicts, DECIDING)
    gap = next(gap for gap in found.differences if gap.kind == "win_rate")
    assert (gap.a, gap.b, gap.against, gap.judge, gap.n) == ("x", "y", "base", "j", 80)
    assert gap.difference == pytest.approx(100 * (first - second).mean())
    own = mean_interval(100 * (first - second))
    assert gap.interval == pytest.approx((own.low, own.high))
    assert gap.correlation == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert {gap.kind for gap in found.differences} == {"win_rate", "lc_win_rate"}
    alone = [mean_interval(100 * shares).se for shares in (first, second)]
    assert gap.se < np.hypot(*alone)


def test_models_that_met_each_other_need_no_opponent() -> None:
    verdicts = [
        _verdict(i, a, b, 1.0 if i % 3 else 0.0)
        for i in range(30)
        for a, b in (("x", "y"), ("x", "z"), ("y", "z"))
    ]
    assert compare_verdicts(verdicts, DECIDING).differences == ()


def test_a_gate_uses_the_common_opponent_where_the_two_never_met() -> None:
    verdicts = [_verdict(i, "x", "base", s) for i, s in enumerate(_wins(0, 200, 0.8))]
    verdicts += [_verdict(i, "y", "base", s) for i, s in enumerate(_wins(1, 200, 0.4))]
    met = compare_verdicts(verdicts, Deciding(draws=200, require="x > y")).requirement
    assert met is not None and met.shown and "against base" in met.why
    turned = compare_verdicts(verdicts, Deciding(draws=200, require="y > x")).requirement
    assert turned is not None and not turned.shown
    alone = [v for v in verdicts if v.model_a == "x"] + [_verdict(0, "u", "v", 1.0)]
    with pytest.raises(DataError, match="common opponent"):
        compare_verdicts(alone, Deciding(draws=200, require="x > u"))


def test_peoples_votes_have_one_order_and_their_own_test() -> None:
    shares = [1.0] * 30 + [0.0] * 12 + [0.5] * 8
    votes = [
        _verdict(i, "x", "y", None, orders=1, judge="people", **({"a_first": s} if i % 2 else {"b_first": s}))
        for i, s in enumerate(shares)
    ]
    found = compare_pair(votes, draws=200)
    assert (found.test, found.ties, found.pairs, found.failed) == ("votes", 8, 50, 0)
    assert found.win_rate.value == pytest.approx(100 * 34 / 50)
    low, high = vote_confidence_sequence(30, 42)
    assert found.sequence == pytest.approx((100 * low, 100 * high))
    wins = np.cumsum([1.0] * 30 + [0.0] * 12)
    assert found.e_value == pytest.approx(np.exp(vote_log_e_value(wins, np.arange(1, 43)).max()))
    assert found.inconsistent == 0
    first = [s if i % 2 else 1 - s for i, s in enumerate(shares)]
    assert found.order_bias.value == pytest.approx(100 * np.mean(first) - 50)
    both = compare_verdicts([*votes, *(_verdict(i, "x", "y", s) for i, s in enumerate(shares))], DECIDING)
    (agreement,) = both.agreement
    assert agreement.alpha == 1 and agreement.pairs == 50


def test_a_soft_or_two_order_verdict_is_tested_by_betting() -> None:
    found = compare_pair([_verdict(i, "x", "y", 0.9) for i in range(40)], draws=200)
    assert found.test == "betting"
    assert found.sequence[0] > 50 and found.e_value > 20
    assert compare_pair([_verdict(i, "x", "y", 0.5) for i in range(40)], draws=200).e_value == 1


def test_surprise_is_the_divergence_from_what_strength_and_length_expect() -> None:
    verdicts = [_verdict(i, "x", "y", 1.0, answer_a="a", answer_b="b") for i in range(9)]
    verdicts += [_verdict(9, "x", "y", 0.0, answer_a="a", answer_b="b"), _verdict(10, "x", "y", None)]
    found = surprises(verdicts)
    expected = 9.5 / 11  # too few and too equal for a length term: the share of wins, half a win added
    assert found[0] == pytest.approx(-np.log2(expected))
    assert found[9] == pytest.approx(-np.log2(1 - expected))
    assert found[10] is None


def test_a_short_answer_that_wins_surprises_where_length_usually_does() -> None:
    generator = np.random.default_rng(0)
    verdicts = []
    for i in range(200):
        a, b = generator.integers(20, 220, size=2)
        verdicts.append(_verdict(i, "x", "y", float(a > b), answer_a="a" * int(a), answer_b="b" * int(b)))
    odd = _verdict(200, "x", "y", 1.0, answer_a="a" * 20, answer_b="b" * 220)
    found = surprises([*verdicts, odd])
    assert max(range(201), key=lambda i: found[i]) == 200
