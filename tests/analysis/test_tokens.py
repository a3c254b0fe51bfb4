import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.analysis.tokens import by_position, by_type, histogram, large_share
from tether.errors import DataError


def test_the_mean_per_type_is_over_its_occurrences() -> None:
    found = by_type([5, 2, 5, 9], [1.0, -2.0, 3.0, 0.0])
    np.testing.assert_array_equal(found.ids, [2, 5, 9])
    np.testing.assert_array_equal(found.counts, [1, 2, 1])
    np.testing.assert_array_equal(found.means, [-2, 2, 0])
    assert found.standard_errors[1] == pytest.approx(1.0)  # sd sqrt(2) over sqrt(2)
    assert np.isnan(found.standard_errors[0])
    assert found.of(5) == (2, 2.0)
    assert found.of(3)[0] == 0


def test_the_largest_falls_need_a_hundred_occurrences() -> None:
    ids = [1] * 100 + [2] * 99 + [3] * 150 + [4] * 200
    ratios = [-1.0] * 100 + [-50.0] * 99 + [-3.0] * 150 + [2.0] * 200
    found = by_type(ids, ratios)
    assert [fall[0] for fall in found.largest_falls()] == [3, 1]
    assert found.largest_falls(number=1) == [(3, 150, -3.0)]
    assert found.largest_falls(min_count=1)[0][0] == 2


def test_large_means_more_than_ten_nats_either_way() -> None:
    assert large_share([-10.0, -10.5, 11.0, 0.0]) == 0.5
    with pytest.raises(DataError):
        large_share([])


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=60))
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    found = histogram(values)
    assert int(found.counts.sum()) + found.below + found.above == len(values)
    assert found.shares.sum() <= 1 + 1e-12


def test_positions_fall_into_their_bins_and_the_last_is_open() -> None:
    found = by_position([0, 1, 5, 500], [1.0, 3.0, -1.0, -7.0], [0, 2, 10])
    assert found == [(0, 2, 2.0), (2, 1, -1.0), (10, 1, -7.0)]


def test_unusable_ratios_are_refused() -> None:
    with pytest.raises(DataError):
        by_type([1, 2], [0.0])
    with pytest.raises(DataError):
        by_type([1], [np.nan])
