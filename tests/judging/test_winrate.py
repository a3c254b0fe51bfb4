import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from tether.judging.annotations import Annotations, read_annotations
from tether.judging.difficulty import leave_models_out, read_published
from tether.judging.own_prompts import fit_own_prompts
from tether.judging.winrate import paired_difference, paired_lc_difference, win_rates


def _population(seed: int, n: int, thetas: tuple[float, ...]) -> tuple[Annotations, np.ndarray, np.ndarray]:
    """M models on n prompts from the length model, their prompts' difficulty, and the true LC rates."""
    generator = np.random.default_rng(seed)
    gamma = generator.normal(0, 1, size=n)
    delta = generator.normal(100, 400, size=(len(thetas), n))
    scores = np.array(thetas)[:, None] - 1.0 * np.tanh(delta / 400) + gamma
    share = (generator.random(scores.shape) < special.expit(scores)).astype(float)
    grid = np.random.default_rng(0).normal(0, 1, size=200_000)
    truth = np.array([100 * special.expit(theta + grid).mean() for theta in thetas])
    names = tuple(f"m{i}" for i in range(len(thetas)))
    chars = np.full(share.shape, 500.0)
    return Annotations("simulated", names, tuple(map(str, range(n))), share, delta, chars), gamma, truth


def _coverage(studies: int, n: int, draws: int, *, table: bool) -> dict[str, float]:
    """Share of simulated studies whose 95 % intervals hold the truth, by what they are intervals of."""
    hits = dict.fromkeys(("raw", "lc", "difference", "raw difference"), 0.0)
    grid = np.random.default_rng(1).normal(100, 400, size=200_000)
    thetas = (0.4, -0.6, 0.1)
    other = np.random.default_rng(2).normal(size=200_000)
    raw = [100 * special.expit(t - np.tanh(grid / 400) + other).mean() for t in thetas]
    for study in range(studies):
        annotations, gamma, truth = _population(study, n, thetas)
        found = win_rates(annotations, difficulty=gamma if table else None, draws=draws, seed=study)
        one = found.models[1]
        assert one.win_rate_interval and one.lc_win_rate_interval
        gap = paired_lc_difference(found, "m0", "m1").interval
        plain = paired_difference(annotations, "m0", "m1", seed=study).interval
        hits["raw"] += one.win_rate_interval[0] <= raw[1] <= one.win_rate_interval[1]
        hits["lc"] += one.lc_win_rate_interval[0] <= truth[1] <= one.lc_win_rate_interval[1]
        hits["difference"] += gap[0] <= truth[0] - truth[1] <= gap[1]
        hits["raw difference"] += plain[0] <= raw[0] - raw[1] <= plain[1]
    return {name: count / studies for name, count in hits.items()}


@pytest.mark.parametrize("table", [True, False])
def test_intervals_of_rates_and_differences_cover_as_announced(table: bool) -> None:
    shares = _coverage(16, 120, 120, table=table)
    assert all(share >= 0.75 for share in shares.values()), shares  # the slow tier runs 1,000 studies


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("table", [True, False])
def test_intervals_cover_93_to_97_per_cent_over_1000_simulated_studies(table: bool) -> None:
    shares = _coverage(1000, 400, 300, table=table)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_raw_rates_are_the_mean_of_the_rows_and_missing_rows_are_counted(real_data: Path) -> None:
    annotations = read_annotations(real_data / "alpacaeval-annotations.parquet")
    found = win_rates(annotations, draws=100)
    with (real_data / "alpacaeval-published.csv").open() as stream:
        published = {row["model"]: float(row["win_rate"]) for row in csv.DictReader(stream)}
    assert len(found.models) == 28
    for entry in found.models:
        row = annotations.models.index(entry.model)
        assert entry.win_rate == pytest.approx(100 * np.nanmean(annotations.share[row]), abs=1e-8)
        assert entry.n + entry.missing == 805
        if entry.missing == 0 and entry.model in published:
            assert entry.win_rate == pytest.approx(published[entry.model], abs=1e-8)
    assert {e.model: e.missing for e in found.models if e.missing} == {
        "alpaca-7b_concise": 1,
        "gpt35_turbo_instruct": 1,
        "phi-2": 2,
        "alpaca-7b_verbose": 3,
    }
    assert {e.model for e in found.models if e.apart} == {"NullModel", "gpt4_gamed"}


@pytest.mark.slow
def test_a_rebuilt_table_predicts_models_it_never_saw(real_data: Path) -> None:
    annotations = read_annotations(real_data / "alpacaeval-annotations.parquet")
    known = read_published(real_data / "alpacaeval-published.csv")
    report = leave_models_out(annotations, known)
    assert report.mean_absolute_error <= 1.0
    assert report.spearman >= 0.99
    assert report.identity_mean_absolute_error <= 1.0
    whole = [row for row in report.left_out if not row.apart and row.missing == 0]
    predicted, published = (
        np.argsort(np.argsort(v)) for v in zip(*((r.predicted, r.published) for r in whole), strict=True)
    )
    assert np.corrcoef(predicted, published)[0, 1] >= 0.99  # where both joins are one


def test_models_made_to_game_the_judge_do_not_move_the_others() -> None:
    annotations, _, _ = _population(0, 150, (0.3, -0.4, 2.5))
    gaming = Annotations(**{**vars(annotations), "models": ("m0", "m1", "NullModel")})
    with_it, without = win_rates(gaming, draws=100), win_rates(gaming.select(["m0", "m1"]), draws=100)
    assert with_it.models[0] == without.models[0]
    assert with_it.models[2].apart and with_it.models[2].lc_win_rate is not None


def test_own_prompts_is_named_and_moves_with_the_models_at_hand() -> None:
    annotations, gamma, _ = _population(0, 150, (0.3, -0.4, 0.0))
    assert win_rates(annotations, draws=100).kind == "own-prompts"
    table = win_rates(annotations, difficulty=gamma, draws=100)
    assert table.kind == "alpacaeval-2"
    assert all("noreg" in entry.lc_note for entry in table.models)


def test_the_joint_fit_finds_the_spread_of_the_prompts() -> None:
    annotations, gamma, truth = _population(0, 2000, (0.4, -0.6, 0.1, -1.0, 0.8))
    fit = fit_own_prompts(annotations.share, annotations.delta)
    assert fit.spread in (0.75, 1.0)
    assert np.corrcoef(fit.gamma, gamma)[0, 1] > 0.6
    rates = fit.lc_win_rates(np.isfinite(annotations.delta))
    np.testing.assert_allclose(rates, truth, atol=3)


def test_pairing_is_measured_and_narrows_the_interval() -> None:
    annotations, _, _ = _population(0, 500, (0.5, 0.3))
    gap = paired_difference(annotations, "m0", "m1")
    alone = win_rates(annotations, draws=100).models
    assert gap.correlation > 0.05
    independent = np.hypot(alone[0].win_rate_se, alone[1].win_rate_se)
    assert gap.se == pytest.approx(independent * np.sqrt(1 - gap.correlation), rel=0.02)


def test_a_model_that_cannot_be_controlled_says_why_and_keeps_its_raw_rate() -> None:
    annotations, gamma, _ = _population(0, 30, (0.5, 0.3))
    annotations.delta[1] = 5.0
    annotations.share[0, 3:] = np.nan
    for table in (None, gamma):
        found = win_rates(annotations, difficulty=table, draws=100).models
        assert found[1].lc_win_rate is None and "same length" in found[1].lc_note
        assert found[0].lc_win_rate is None and "3 verdicts" in found[0].lc_note
        assert found[0].win_rate is not None and found[0].missing == 27
    annotations.share[0] = np.nan
    assert win_rates(annotations, draws=100).models[0].win_rate is None


def test_a_model_that_always_loses_has_no_length_term_to_fit() -> None:
    annotations, _, _ = _population(0, 30, (0.5, 0.3))
    annotations.share[1] = 0.0
    one, lost = win_rates(annotations, draws=100).models
    assert lost.lc_win_rate is None and "every verdict is the same" in lost.lc_note
    assert one.lc_win_rate is not None and lost.win_rate == 0.0
