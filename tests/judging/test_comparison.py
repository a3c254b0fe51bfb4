import numpy as np
import pytest
from scipy import special

from tether.errors import DataError
from tether.judging.comparison import (
    agreements,
    bradley_terry,
    compare_pair,
    group,
    krippendorff,
    parse_requirement,
    ratings,
    shown_better,
)
from tether.judging.pairwise import Verdict


def _verdict(i: int, a_first: float | None, b_first: float | None, **changes) -> Verdict:
    base = {
        "id": f"p{i}", "prompt": "q", "model_a": "x", "model_b": "y", "answer_a": "a" * (10 + i % 7),
        "answer_b": "b" * (12 + i % 5), "judge": "j", "a_first": a_first, "b_first": b_first,
    }  # fmt: skip
    return Verdict(**{**base, **changes})


def _study(seed: int, n: int, rate: float, **changes) -> list[Verdict]:
    wins = np.random.default_rng(seed).random(n) < rate
    return [_verdict(i, float(w), float(w), **changes) for i, w in enumerate(wins)]


def test_rates_bias_and_inconsistency_are_what_a_hand_computes() -> None:
    found = compare_pair([_verdict(0, 1, 1), _verdict(1, 1, 0), _verdict(2, 0, 0), _verdict(3, None, 1)])
    assert found.win_rate.value == pytest.approx(50)
    assert found.order_bias.value == pytest.approx(100 * (1 / 2 + 1 + 1 / 2) / 3 - 50)
    assert found.inconsistent == pytest.approx(100 / 3)
    assert (found.pairs, found.failed) == (3, 1)
    assert not found.distinguishable


def test_a_real_difference_is_told_apart_and_its_size_in_prompts_is_given() -> None:
    found = compare_pair(_study(0, 400, 0.65))
    assert found.distinguishable and found.e_value > 20
    weak = compare_pair(_study(1, 60, 0.55))
    assert not weak.distinguishable
    assert weak.prompts_needed is not None and weak.prompts_needed > 60


def test_samples_of_one_prompt_are_one_draw() -> None:
    verdicts = [_verdict(i, w.a_first, w.b_first) for i, w in enumerate(_study(0, 40, 0.6))]
    repeated = [v for v in verdicts for _ in range(5)]
    assert compare_pair(repeated).win_rate.se == pytest.approx(compare_pair(verdicts).win_rate.se)
    assert compare_pair(repeated).e_value == pytest.approx(compare_pair(verdicts).e_value)


def test_length_control_takes_out_what_length_wins() -> None:
    generator = np.random.default_rng(0)
    verdicts = []
    for i in range(400):
        a, b = generator.integers(20, 220), generator.integers(10, 150)
        share = 1 / (1 + np.exp(-(a - b) / 40))
        verdicts.append(_verdict(i, share, share, answer_a="a" * int(a), answer_b="b" * int(b)))
    found = compare_pair(verdicts, draws=200)
    assert found.win_rate.value > 60
    assert found.lc_win_rate is not None
    assert abs(found.lc_win_rate.value - 50) < 6
    few = compare_pair(verdicts[:5])
    assert few.lc_win_rate is None and "5 pairs" in few.lc_note


def test_turned_verdicts_are_grouped_with_the_others() -> None:
    verdicts = [_verdict(0, 0.9, 0.6), _verdict(1, 0.9, 0.6).turned()]
    ((key, found),) = group(verdicts).items()
    assert key == ("x", "y", "j")
    assert [v.a_first for v in found] == pytest.approx([0.9, 0.9])
    assert [v.share for v in found] == pytest.approx([0.75, 0.75])


def test_ratings_are_the_maximum_likelihood_that_evalica_finds() -> None:
    evalica = pytest.importorskip("evalica")
    generator = np.random.default_rng(0)
    strengths = [1.0, 0.3, -0.4, -0.9]
    xs, ys, winners = [], [], []
    table = np.zeros((4, 4))
    for _ in range(3000):
        i, j = generator.choice(4, size=2, replace=False)
        won = generator.random() < 1 / (1 + np.exp(strengths[j] - strengths[i]))
        tie = generator.random() < 0.2
        xs.append(str(i))
        ys.append(str(j))
        winners.append(evalica.Winner.Draw if tie else evalica.Winner.X if won else evalica.Winner.Y)
        table[i, j] += 0.5 if tie else float(won)
        table[j, i] += 0.5 if tie else float(not won)
    theirs = evalica.bradley_terry(xs, ys, winners, tolerance=1e-12, limit=10_000, solver="naive").scores
    logs = np.log(theirs.loc[["0", "1", "2", "3"]].to_numpy())
    np.testing.assert_allclose(bradley_terry(table, prior=0.0), logs - logs.mean(), atol=1e-5)


def test_ratings_rank_models_and_stay_finite_where_one_always_wins() -> None:
    verdicts = _study(0, 50, 0.7) + _study(1, 50, 1.1, model_a="x", model_b="z")
    found = ratings(verdicts, draws=100)
    assert [r.model for r in found] == ["x", "y", "z"]
    assert all(np.isfinite([r.rating.value, r.rating.low, r.rating.high]).all() for r in found)
    assert sum(r.rating.value for r in found) == pytest.approx(0, abs=1e-9)


def test_agreement_is_krippendorffs_alpha() -> None:
    evalica = pytest.importorskip("evalica")
    pandas = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    first = generator.integers(-1, 2, size=60)
    second = np.where(generator.random(60) < 0.7, first, generator.integers(-1, 2, size=60))
    theirs = evalica.alpha(pandas.DataFrame([first, second]), solver="naive").alpha
    assert krippendorff(first, second) == pytest.approx(theirs)
    assert krippendorff(first, first) == 1
    verdicts = [_verdict(i, (s + 1) / 2, (s + 1) / 2) for i, s in enumerate(first)]
    verdicts += [_verdict(i, (s + 1) / 2, (s + 1) / 2, judge="k").turned() for i, s in enumerate(second)]
    (found,) = agreements(verdicts)
    assert found.alpha == pytest.approx(theirs)
    assert found.pairs == 60


def test_a_gate_passes_only_what_is_shown_either_way_round() -> None:
    models = ["x", "y"]
    assert parse_requirement("x > y", models) == ("x", "y")
    for bad in ("x < y", "x > y > x", "x > z", "> y"):
        with pytest.raises(DataError, match="--require"):
            parse_requirement(bad, models)
    compared = {("x", "y"): compare_pair(_study(0, 300, 0.65))}
    assert shown_better(compared, "x", "y")[0]
    shown, why = shown_better(compared, "y", "x")
    assert not shown and "not shown" in why


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(DataError, match="no pair was judged"):
        compare_pair([_verdict(0, None, 1.0)])
    with pytest.raises(DataError, match="2 pairs of models"):
        compare_pair([_verdict(0, 1, 1), _verdict(0, 1, 1, judge="k")])


def test_verdicts_that_are_all_the_same_have_no_length_control_and_no_point_for_an_interval() -> None:
    for share in (0.5, 1.0):
        found = compare_pair([_verdict(i, share, share) for i in range(60)], draws=100)
        assert found.lc_win_rate is None and "every verdict is the same" in found.lc_note
        assert found.win_rate.low < found.win_rate.high


def _judged_pair(seed: int, n: int, spread: float) -> list[Verdict]:
    """Verdicts in two orders by a judge who likes the first place and length; prompts differ by `spread`."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(50, 650, size=(n, 2))
    scores = 0.4 + 0.8 * np.tanh((lengths[:, 0] - lengths[:, 1]) / 250) + spread * generator.normal(size=n)
    orders = [generator.random(n) < special.expit(scores + place) for place in (0.5, -0.5)]
    return [
        _verdict(i, float(first), float(second), answer_a="a" * int(a), answer_b="b" * int(b))
        for i, (first, second, (a, b)) in enumerate(zip(*orders, lengths, strict=True))
    ]


def _true_rates(spread: float) -> tuple[float, float]:
    """A's rate as judged, and had the lengths been equal, in percent."""
    generator = np.random.default_rng(99)
    a, b = generator.integers(50, 650, size=(2, 400_000))
    own = 0.4 + spread * generator.normal(size=400_000)
    rates = [
        100 * np.mean([special.expit(scores + place) for place in (0.5, -0.5)])
        for scores in (own + 0.8 * np.tanh((a - b) / 250), own)
    ]
    return float(rates[0]), float(rates[1])


def _pair_coverage(studies: int, n: int, draws: int, spread: float) -> tuple[float, float]:
    win, equal = _true_rates(spread)
    held = np.zeros(2)
    for study in range(studies):
        found = compare_pair(_judged_pair(study, n, spread), draws=draws, seed=study)
        assert found.lc_win_rate is not None
        for place, (rate, truth) in enumerate(((found.win_rate, win), (found.lc_win_rate, equal))):
            held[place] += rate.low <= truth <= rate.high
    return float(held[0] / studies), float(held[1] / studies)


def test_a_pairs_intervals_hold_the_truth_about_as_often_as_announced() -> None:
    assert min(_pair_coverage(12, 100, 100, 1.0)) >= 0.75  # the slow tier runs 1,000 studies


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_pairs_intervals_cover_93_to_97_per_cent_over_1000_studies(spread: float) -> None:
    shares = _pair_coverage(1000, 200, 200, spread)
    assert all(0.93 <= share <= 0.97 for share in shares), shares
