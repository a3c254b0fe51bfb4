import numpy as np
import pytest

from tether.analysis.selection import (
    best_of_groups,
    model_confidence_set,
    simultaneous_differences,
    tightest_within_one_se,
)
from tether.errors import DataError, UsageError


def _false_alarms(studies: int, seeds: int, sd_seed: float, draws: int) -> float:
    """Share of studies of identical cells in which any cell leaves the set."""
    alarms = 0
    for study in range(studies):
        generator = np.random.default_rng(study)
        shape = (6, seeds, 80)
        scores = (
            generator.normal(size=(1, 1, 80))
            + generator.normal(size=shape)
            + sd_seed * generator.normal(size=(6, seeds, 1))
        )
        result = model_confidence_set(scores, draws=draws, seed=study)
        alarms += len(result.members) < 6
    return alarms / studies


@pytest.mark.parametrize(("seeds", "sd_seed"), [(1, 0.0), (5, 0.0), (5, 0.5)])
def test_identical_cells_stay_together(seeds: int, sd_seed: float) -> None:
    assert _false_alarms(200, seeds, sd_seed, 300) <= 0.095  # 5 % + 3 binomial standard errors


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "sd_seed"), [(1, 0.0), (3, 0.3), (5, 0.0), (5, 0.5)])
def test_identical_cells_part_in_at_most_6_5_per_cent_of_1000_studies(seeds: int, sd_seed: float) -> None:
    assert _false_alarms(1000, seeds, sd_seed, 1000) <= 0.065


def test_a_real_difference_is_found_and_the_best_cell_always_stays() -> None:
    means = np.array([0.0, 0.6, 0.55, -0.5])
    found = 0
    for study in range(100):
        generator = np.random.default_rng(study)
        scores = (
            means[:, None, None] + generator.normal(size=(1, 1, 100)) + generator.normal(size=(4, 5, 100))
        )
        result = model_confidence_set(scores, draws=300, seed=study)
        assert result.best in result.members
        assert result.p_values[result.best] == 1
        found += 0 not in result.members and 3 not in result.members
    assert found >= 95


def test_pairing_over_prompts_is_what_finds_small_differences() -> None:
    generator = np.random.default_rng(0)
    prompts = 3 * generator.normal(size=(1, 200))
    scores = prompts + np.array([[0.0], [0.3]]) + 0.3 * generator.normal(size=(2, 200))
    assert model_confidence_set(scores).members == (1,)
    unpaired = scores.copy()
    unpaired[1] = generator.permutation(unpaired[1])
    assert model_confidence_set(unpaired).members == (0, 1)


def test_cells_with_the_same_numbers_are_never_parted() -> None:
    row = np.random.default_rng(0).normal(size=50)
    assert model_confidence_set([row, row, row]).members == (0, 1, 2)


def test_a_constant_shortfall_is_certain() -> None:
    row = np.random.default_rng(0).normal(size=50)
    assert model_confidence_set([row, row - 1]).members == (0,)


def test_a_constant_shortfall_does_not_widen_the_other_intervals() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 100)) + 0.3
    with_constant = np.concatenate([scores, scores[2:] - 0.1])  # rounding leaves a standard error of 1e-17
    found = simultaneous_differences(with_constant, [0, 2], [1, 3])
    assert found.critical < 2.3 and found.standard_errors[1] == 0.0


def test_the_one_standard_error_rule_takes_the_tightest_good_cell() -> None:
    generator = np.random.default_rng(0)
    scores = np.array([[0.0], [0.95], [1.0], [0.2]]) + generator.normal(size=(1, 100))
    result = model_confidence_set(scores)
    assert result.best == 2
    assert tightest_within_one_se(result, [1.0, 0.3, 0.1, 0.03]) == 1


def test_the_set_is_the_same_for_the_same_seed() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3, 40))
    assert model_confidence_set(scores, seed=3) == model_confidence_set(scores, seed=3)


def test_unusable_scores_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        model_confidence_set([[1.0, np.nan], [1.0, 2.0]])
    with pytest.raises(DataError, match="prompts >= 2"):
        model_confidence_set([[1.0], [2.0]])
    with pytest.raises(UsageError):
        model_confidence_set([[1.0, 2.0], [2.0, 3.0]], alpha=5)


def test_simultaneous_intervals_all_hold_at_once_as_often_as_announced() -> None:
    truth = np.array([0.0, 0.3, 0.6, 0.1])
    first, second = [1, 2, 3, 2], [0, 0, 0, 1]
    wanted = truth[first] - truth[second]
    held = 0
    for study in range(200):
        generator = np.random.default_rng(study)
        scores = truth[:, None] + generator.normal(size=(1, 60)) + generator.normal(size=(4, 60))
        found = simultaneous_differences(scores, first, second, draws=400, seed=study)
        held += bool(np.all((found.low <= wanted) & (wanted <= found.high)))
    assert 0.904 <= held / 200 <= 0.996  # 95 % and three binomial standard errors


def test_the_interval_of_the_best_of_two_groups_by_hand() -> None:
    generator = np.random.default_rng(1)
    scores = np.array([[0.5], [0.9], [0.2], [0.4], [0.1]]) + generator.normal(size=(5, 80))
    one, other = (0, 1), (2, 3, 4)
    pairs = [(a, b) for a in one for b in other]
    each = simultaneous_differences(scores, [a for a, _ in pairs], [b for _, b in pairs])
    low = {pair: float(value) for pair, value in zip(pairs, each.low, strict=True)}
    high = {pair: float(value) for pair, value in zip(pairs, each.high, strict=True)}
    found = best_of_groups(scores, [(one, other)])[0]
    assert found.low == max(min(low[a, b] for b in other) for a in one)
    assert found.high == min(max(high[a, b] for a in one) for b in other)
    means = scores.mean(axis=1)
    assert found.estimate == pytest.approx(means[list(one)].max() - means[list(other)].max())
    assert found.low <= found.estimate <= found.high


def test_the_best_of_many_alike_is_not_better_than_one_of_them() -> None:
    alarms = 0
    for study in range(100):
        generator = np.random.default_rng(study)
        scores = generator.normal(size=(1, 60)) + generator.normal(size=(9, 60))
        found = best_of_groups(scores, [(tuple(range(8)), (8,))], draws=300, seed=study)[0]
        alarms += found.low > 0 or found.high < 0
    assert alarms <= 11  # 5 % and three binomial standard errors; the naive interval: about half


def test_three_seeds_that_scatter_do_not_part_identical_cells() -> None:
    assert _false_alarms(150, 3, 1.0, 300) <= 0.104
