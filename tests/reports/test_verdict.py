"""A verdict is no stronger than its numbers."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.reports.folders import make_run, measurements, samples
from tether.analysis.stats import paired_bootstrap
from tether.records.results import Measurement, Sample
from tether.reports.contents import RunContents, read_contents
from tether.reports.verdict import as_document, share_interval, verdict_of


def contents(tmp_path: Path, rows: list[Sample], **changes: object) -> RunContents:
    return read_contents(make_run(tmp_path / "run", rows=rows, **changes))


def test_the_gain_is_the_paired_bootstrap_over_prompts(tmp_path: Path) -> None:
    rows = samples(np.random.default_rng(1))
    gain = verdict_of(contents(tmp_path, rows)).gain
    assert gain is not None and gain.paired
    differences = [(row.score_after or 0) - (row.score_before or 0) for row in rows]
    expected = paired_bootstrap(differences)
    assert gain.interval.estimate == pytest.approx(expected.estimate, abs=1e-12)
    assert (gain.interval.n, gain.interval.se) == (64, pytest.approx(expected.se, rel=1e-12))
    # the same prompts resampled in another order: 2,000 draws put a quantile within 0.06 standard errors
    assert gain.interval.low == pytest.approx(expected.low, abs=0.2 * expected.se)


def test_several_answers_to_one_prompt_count_as_one_prompt(tmp_path: Path) -> None:
    rows = samples(np.random.default_rng(1))
    gain = verdict_of(contents(tmp_path, rows * 4)).gain
    assert gain is not None and gain.interval.n == 64


def test_a_loss_is_worse(tmp_path: Path) -> None:
    verdict = verdict_of(contents(tmp_path, samples(np.random.default_rng(2), gain=-0.6)))
    assert verdict.word == "worse" and " fell from " in verdict.sentences[0]


def test_zero_in_the_interval_gives_no_direction_and_says_how_many_prompts_it_would_take(
    tmp_path: Path,
) -> None:
    verdict = verdict_of(contents(tmp_path, samples(np.random.default_rng(3), gain=0.01)))
    assert verdict.word == "not distinguishable"
    assert " rose " not in verdict.sentences[0] and " fell " not in verdict.sentences[0]
    assert "prompts would be needed" in verdict.detail


def test_equal_answers_are_not_distinguishable(tmp_path: Path) -> None:
    rows = [
        row.model_copy(update={"score_after": row.score_before}) for row in samples(np.random.default_rng(0))
    ]
    assert verdict_of(contents(tmp_path, rows)).word == "not distinguishable"


def test_one_prompt_decides_nothing(tmp_path: Path) -> None:
    verdict = verdict_of(contents(tmp_path, samples(np.random.default_rng(0))[:1]))
    assert verdict.word == "not measured" and "too few prompts" in verdict.sentences[0]


def test_without_scored_samples_two_measurements_give_an_unpaired_interval(tmp_path: Path) -> None:
    rows = samples(np.random.default_rng(0))
    bare = [Sample(prompt=row.prompt, before=row.before, after=row.after) for row in rows]
    gain = verdict_of(contents(tmp_path, bare, measurements=measurements(rows))).gain
    assert gain is not None and not gain.paired
    assert gain.interval.se == pytest.approx(0.065 * 2**0.5, rel=1e-12)
    assert gain.interval.high - gain.interval.low == pytest.approx(2 * 1.959964 * gain.interval.se, rel=1e-6)


def test_kl_without_a_standard_error_is_shown_without_one(tmp_path: Path) -> None:
    measured = (
        Measurement(step=5, prompts=4, samples=4, kl_start=1.5, entropy=1, tokens=9, end_rate=1, cut_share=0),
    )
    verdict = verdict_of(contents(tmp_path, [], measurements=measured))
    assert "it cost 1.50 nats of KL" in verdict.sentences[0]
    assert verdict.word == "not measured"


def test_wilson_interval_agrees_with_scipy() -> None:
    for k, n in [(0, 10), (7, 10), (144, 200), (200, 200)]:
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert share_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_document_holds_the_same_numbers_as_the_sentences(tmp_path: Path) -> None:
    verdict = verdict_of(contents(tmp_path, samples(np.random.default_rng(1))))
    document = as_document(verdict)
    assert document["verdict"] == "better" and document["kl_start"] == 3.2
    assert document["score"]["low"] < document["score"]["gain"] < document["score"]["high"]
    assert document["score"]["after"] - document["score"]["before"] == pytest.approx(
        document["score"]["gain"]
    )
    assert document["held_out"]["rows"] == 200
