import numpy as np
import pytest

from tether.analysis.sequences import length_slope, pair_sums, ranking, summarise_pairs
from tether.errors import DataError


def test_accuracies_and_ratios_are_what_a_hand_computes() -> None:
    pairs = pair_sums([-10, -8, -6], [-9, -8, -9], [5, 4, 3], [3, 4, 9], [-12, -8, -5], [-10, -8, -9])
    found = summarise_pairs(pairs)
    assert found.policy_accuracy.estimate == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.implicit_accuracy.estimate == pytest.approx((1 + 0.5 + 0) / 3)  # ratios 2>1, 0=0, -1<0
    assert found.policy_accuracy_per_token.estimate == pytest.approx((1 + 0.5 + 0) / 3)  # -2>-3, =, -2<-1
    assert found.reference_accuracy is not None
    assert found.reference_accuracy.estimate == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.chosen_log_ratio.estimate == pytest.approx((2 + 0 - 1) / 3)
    assert found.margin.estimate == pytest.approx((1 + 0 - 1) / 3)
    assert found.chosen_log_ratio_per_token.estimate == pytest.approx((2 / 5 + 0 - 1 / 3) / 3)


def test_without_a_reference_the_ratio_is_the_log_prob() -> None:
    pairs = pair_sums([-1.0, -2.0], [-2.0, -3.0], [1, 1], [1, 1])
    np.testing.assert_array_equal(pairs.chosen_ratio, [-1, -2])
    assert summarise_pairs(pairs).reference_accuracy is None


def test_a_difference_within_rounding_is_a_tie() -> None:
    np.testing.assert_array_equal(ranking([1.0, 1.0], [1.0 + 1e-7, 2.0], 1e-6), [0.5, 0.0])


def test_a_reward_that_is_length_is_found_and_one_that_is_not_is_not() -> None:
    tokens = np.arange(1, 50)
    pure = length_slope(-0.3 * tokens, tokens)
    assert pure.slope == pytest.approx(-0.3)
    assert pure.r_squared == pytest.approx(1)
    noise = length_slope(np.random.default_rng(0).normal(size=49), tokens)
    assert noise.r_squared < 0.1


@pytest.mark.parametrize(
    "columns",
    [
        ([1.0], [1.0, 2.0], [1], [1]),
        ([], [], [], []),
        ([np.nan], [1.0], [1], [1]),
        ([1.0], [1.0], [0], [1]),
        ([1.0], [1.0], [1], [1], [1.0]),
    ],
)
def test_unusable_columns_are_refused(columns) -> None:
    with pytest.raises(DataError):
        pair_sums(*columns)
