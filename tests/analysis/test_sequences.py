import numpy as np
import pytest

from tether.analysis.sequences import length_slope, ranking


def test_a_difference_within_rounding_is_a_tie() -> None:
    np.testing.assert_array_equal(ranking([1.0, 1.0], [1.0 + 1e-7, 2.0], 1e-6), [0.5, 0.0])


def test_a_reward_that_is_length_is_found_and_one_that_is_not_is_not() -> None:
    tokens = np.arange(1, 50)
    pure = length_slope(-0.3 * tokens, tokens)
    assert pure.slope == pytest.approx(-0.3)
    assert pure.r_squared == pytest.approx(1)
    noise = length_slope(np.random.default_rng(0).normal(size=49), tokens)
    assert noise.r_squared < 0.1
