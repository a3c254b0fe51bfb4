import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.analysis.stats import (
    Interval,
    bootstrap_interval,
    distinguishable,
    mean_interval,
    paired_bootstrap,
    required_size,
    required_size_for,
    resampled_means,
    two_level_interval,
)
from tether.errors import DataError, UsageError


def _coverage(studies: int, sample, truth: float, **options) -> float:
    hits = 0
    for study in range(studies):
        interval = paired_bootstrap(sample(np.random.default_rng(study)), seed=study, **options)
        hits += interval.low <= truth <= interval.high
    return hits / studies


def _soft_differences(generator: np.random.Generator, n: int) -> np.ndarray:
    """Differences of two judges' win shares as they come: many near -1, 0 and 1, correlated by prompt."""
    shared = generator.normal(size=n)
    a, b = (1 / (1 + np.exp(-3 * (shared + generator.normal(size=n)))) for _ in range(2))
    return a - b


def test_the_interval_of_a_paired_difference_covers_as_announced() -> None:
    share = _coverage(400, lambda g: _soft_differences(g, 120), 0.0, draws=400)
    assert 0.92 <= share <= 0.98  # 95 % +- 2.8 binomial standard errors at 400 studies


def test_the_interval_of_a_skewed_mean_of_thirty_covers_as_announced() -> None:
    share = _coverage(400, lambda g: (g.random(30) < 0.2).astype(float), 0.2, draws=400)
    assert 0.91 <= share <= 0.99


@pytest.mark.slow
def test_intervals_cover_93_to_97_per_cent_over_1000_studies() -> None:
    assert 0.93 <= _coverage(1000, lambda g: _soft_differences(g, 200), 0.0, draws=1000) <= 0.97
    assert 0.93 <= _coverage(1000, lambda g: g.exponential(size=60) - 1, 0.0, draws=1000) <= 0.97
    assert 0.93 <= _coverage(1000, lambda g: (g.random(805) < 0.1) * 1.0, 0.1, draws=1000) <= 0.97


def test_clusters_are_resampled_whole() -> None:
    generator = np.random.default_rng(0)
    per_prompt = generator.normal(size=60)
    repeated = np.repeat(per_prompt, 5)
    labels = np.repeat(np.arange(60), 5)
    clustered = mean_interval(repeated, clusters=labels)
    plain = mean_interval(per_prompt)
    assert clustered.se == pytest.approx(plain.se)
    assert clustered.n == 60
    assert mean_interval(repeated).se < clustered.se / 2


def test_clusters_of_unequal_size_give_the_mean_of_all_values() -> None:
    interval = mean_interval([1.0, 1.0, 1.0, 0.0], clusters=["a", "a", "a", "b"])
    assert interval.estimate == pytest.approx(0.75)
    assert interval.n == 2


def test_the_same_seed_gives_the_same_interval_and_chunks_do_not_matter(monkeypatch) -> None:
    values = np.random.default_rng(1).normal(size=50)
    first = mean_interval(values, seed=7)
    assert first == mean_interval(values, seed=7)
    assert first != mean_interval(values, seed=8)
    monkeypatch.setattr("tether.analysis.stats.CHUNK", 50 * 17)
    assert mean_interval(values, seed=7) == first


def test_equal_values_have_no_certainty_they_did_not_earn() -> None:
    interval = mean_interval(np.ones(20), bounds=(0, 1))
    assert interval.high == 1
    assert interval.low == pytest.approx(0.025 ** (1 / 20))  # Clopper-Pearson at 20 of 20
    assert mean_interval(np.ones(20)).low == 1


def test_one_value_has_no_interval_and_distinguishes_nothing() -> None:
    interval = mean_interval([3.0])
    assert math.isnan(interval.low)
    assert not distinguishable(interval)


def test_distinguishable_means_zero_is_outside() -> None:
    assert distinguishable(Interval(1, 0.1, 2, 0.5, 10))
    assert distinguishable(Interval(-1, -2, -0.1, 0.5, 10))
    assert not distinguishable(Interval(1, -0.1, 2, 0.5, 10))


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf], [[1.0, 2.0]]])
def test_values_that_cannot_be_averaged_are_refused(values) -> None:
    with pytest.raises(DataError):
        mean_interval(values)


def test_a_level_outside_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.95 for instance"):
        mean_interval([1.0, 2.0], level=95)


def test_the_required_size_gives_the_power_it_promises() -> None:
    n = required_size(0.2, 1.0)
    assert n == 197  # (1.959964 + 0.841621)^2 / 0.04 = 196.2
    generator = np.random.default_rng(0)
    means = generator.normal(0.2, 1.0, size=(4000, n)).mean(axis=1)
    assert np.mean(means > 1.96 / math.sqrt(n)) == pytest.approx(0.8, abs=0.025)
    assert required_size(0.0, 1.0) is None
    interval = Interval(0.2, 0.0, 0.4, 1 / math.sqrt(50), 50)
    assert required_size_for(interval) == 197


def test_two_levels_cover_whichever_of_them_varies() -> None:
    for sd_seed, sd_prompt, sd_rest in ((1.0, 0.1, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0), (0.3, 1.0, 1.0)):
        hits = 0
        for study in range(300):
            generator = np.random.default_rng(study)
            table = (
                sd_seed * generator.normal(size=(5, 1))
                + sd_prompt * generator.normal(size=(1, 60))
                + sd_rest * generator.normal(size=(5, 60))
            )
            interval = two_level_interval(table)
            hits += interval.low <= 0 <= interval.high
        assert hits / 300 >= 0.92, (sd_seed, sd_prompt, sd_rest)


def test_two_levels_with_one_seed_are_the_interval_over_prompts() -> None:
    values = np.random.default_rng(0).normal(size=(1, 40))
    assert two_level_interval(values) == mean_interval(values[0])


def test_any_statistic_gets_the_interval_of_its_draws() -> None:
    values = np.random.default_rng(0).exponential(size=80)
    draws = resampled_means(values, np.ones(80), draws=2000, seed=0)
    influence = values - values.mean()
    direct = mean_interval(values)
    general = bootstrap_interval(draws, float(values.mean()), 80, influence=influence)
    assert (general.low, general.high) == pytest.approx((direct.low, direct.high))
    assert general.se == pytest.approx(direct.se, rel=0.06)  # Monte Carlo error of a standard deviation


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_an_interval_of_shares_stays_inside_what_was_seen(values: list[float]) -> None:
    interval = mean_interval(values, bounds=(0, 1), draws=100)
    slack = 1e-12
    assert 0 <= interval.low <= interval.estimate + slack
    assert interval.estimate - slack <= interval.high <= 1 or np.ptp(values) < 1e-9


def test_a_handful_of_prompts_that_differ_tells_nothing_apart() -> None:
    """Three of three is one pattern of signs in four (both sides), six of six one in 32."""
    for few in (1, 2, 3, 4, 5):
        interval = paired_bootstrap([1.0] * few + [0.0] * 60)
        assert interval.low <= 0 and not distinguishable(interval)
        assert not distinguishable(paired_bootstrap([-1.0] * few + [0.0] * 60))
    assert distinguishable(paired_bootstrap([1.0] * 6 + [0.0] * 60))
    assert not distinguishable(paired_bootstrap([1.0] * 3))
    assert not distinguishable(mean_interval([1.0] * 3 + [0.5] * 60, bounds=(0, 1), null=0.5), 0.5)
    assert distinguishable(mean_interval([1.0] * 8 + [0.5] * 60, bounds=(0, 1), null=0.5), 0.5)


def test_samples_of_one_prompt_are_flipped_together() -> None:
    """Twelve differences of three prompts are three signs."""
    labels = np.repeat(np.arange(3), 4)
    assert not distinguishable(paired_bootstrap(np.ones(12), clusters=labels))
    assert distinguishable(paired_bootstrap(np.ones(12)))


@pytest.mark.parametrize(("prompts", "share"), [(40, 0.1), (200, 0.02), (200, 0.05)])
def test_models_that_differ_on_few_prompts_raise_no_more_alarms_than_announced(
    prompts: int, share: float
) -> None:
    alarms = 0
    for study in range(300):
        generator = np.random.default_rng(study)
        signs = np.where(generator.random(prompts) < 0.5, 1.0, -1.0)
        values = (generator.random(prompts) < share) * signs
        alarms += distinguishable(paired_bootstrap(values, draws=300, seed=study))
    assert alarms <= 0.05 * 300 + 2.8 * math.sqrt(300 * 0.05 * 0.95)
