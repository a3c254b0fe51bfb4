import numpy as np
import pytest

from tether.analysis.selection import model_confidence_set, tightest_within_one_se
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
