"""What a study writes is what it reads back; a damaged or foreign folder is told in one line."""

from pathlib import Path

import numpy as np
import pytest

from tests.study.fixtures import make_study
from tether.errors import RunFolderError
from tether.records.study import StudyRecord, cell_folder, measures, read_record, read_study
from tether.study.measure import _pairs
from tether.study.tables import HeldOut, Samples, Tokens, read_table, write_table


def samples(n: int = 3) -> Samples:
    values = np.arange(n, dtype=np.float64)
    nothing = np.full(n, np.nan)
    return Samples(
        row_id=[f"eval.jsonl:{i}" for i in range(n)],
        sample=np.arange(n),
        text=["", "löss \ud7ff", 'quote "'][:n],
        token_ids=[[], [1, 2], [3]][:n],
        tokens=np.arange(n),
        ended=np.array([True, False, True])[:n],
        cut=np.array([False, True, False])[:n],
        policy_logp=-values,
        start_logp=-2 * values,
        reference_logp=nothing,
        kl_start=values,
        kl_reference=nothing,
        entropy=values / 3,
        scores={"gold_reward": values * 0.1, "judge:x": nothing},
    )


def test_samples_come_back_exactly_with_scores_and_missing_models(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "samples.parquet"
    made = samples()
    write_table(path, made)
    back = read_table(Samples, path)
    for name in vars(made):
        if name == "token_ids":
            assert back.token_ids == made.token_ids
        elif name != "scores":
            np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    assert list(back.scores) == ["gold_reward", "judge:x"]
    np.testing.assert_array_equal(back.scores["gold_reward"], made.scores["gold_reward"])
    assert np.isnan(back.scores["judge:x"]).all() and np.isnan(back.reference_logp).all()
    assert [p.name for p in path.parent.iterdir()] == ["samples.parquet"]


def test_sums_are_kept_in_double_and_tokens_in_single_precision(tmp_path: Path) -> None:
    third = np.array([1 / 3])
    held = HeldOut(["a"], ["chosen"], np.array([1]), third, third, third)
    write_table(tmp_path / "h.parquet", held)
    assert read_table(HeldOut, tmp_path / "h.parquet").policy_logp[0] == 1 / 3
    tokens = Tokens(["a"], ["chosen"], np.array([0]), np.array([7]), third, third, third, np.array([True]))
    write_table(tmp_path / "t.parquet", tokens)
    back = read_table(Tokens, tmp_path / "t.parquet")
    assert back.policy_logp[0] == np.float32(1 / 3) and bool(back.is_end[0])


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "samples.parquet"
    if damage == "cut":
        write_table(path, samples())
        path.write_bytes(path.read_bytes()[:-20])
    if damage == "foreign":
        write_table(path, HeldOut(["a"], ["chosen"], np.array([1]), *[np.zeros(1)] * 3))
    with pytest.raises(RunFolderError, match=r"samples\.parquet"):
        read_table(Samples, path)


def test_a_study_is_read_with_each_cells_own_state(tmp_path: Path) -> None:
    made = make_study(tmp_path, betas=(1.0, 0.1), seeds=(0,), failed=("sigmoid-beta0.1",))
    assert [cell.state for cell in made.cells] == ["finished", "failed"]
    assert read_study(tmp_path) == made
    # The cell's own file is newer than study.json where the study's process was killed.
    cell = made.cells[1]
    newer = cell.model_copy(update={"state": "finished", "error": None})
    (cell_folder(tmp_path, cell.cell_id) / "cell.json").write_text(newer.model_dump_json())
    assert read_study(tmp_path).cells[1].state == "finished"
    assert read_record(StudyRecord, tmp_path / "study.json").cells[1].state == "failed"


def test_measures_are_absent_until_the_summary_is_written(tmp_path: Path) -> None:
    made = make_study(tmp_path, betas=(1.0, 0.1), seeds=(0,), failed=("sigmoid-beta0.1",))
    first, second = (measures(cell_folder(tmp_path, cell.cell_id)) for cell in made.cells)
    assert first is not None and first.kl > 0 and second is None
    start = measures(tmp_path / "shared" / "start")
    assert start is not None and start.kl == 0


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"study\.json: not there"):
        read_study(tmp_path)


def test_accuracies_and_ratios_are_what_a_hand_computes() -> None:
    """Three pairs: a tie within rounding is one half, and the start model is the reference."""
    start = np.array([-12.0, -10, -8, -8, -5, -9])
    held = HeldOut(
        row_id=["a", "a", "b", "b", "c", "c"],
        role=["chosen", "rejected"] * 3,
        tokens=np.array([5, 3, 4, 4, 3, 9]),
        policy_logp=np.array([-10.0, -9, -8, -8 - 1e-7, -6, -9]),
        start_logp=start,
        reference_logp=start,
    )
    tie = np.full(3, 1e-6)
    found = _pairs(held, {name: name for name in "abc"}, tie, trained=True)
    assert found["pairs"] == 3
    assert found["policy_accuracy"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert found["implicit_accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)  # ratios 2 > 1, 0 = 0, -1 < 0
    # Per token no tie is allowed for: -2 > -3, -2 > -2 - 2.5e-8, -2 < -1.
    assert found["policy_accuracy_per_token"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["chosen_log_ratio"] == pytest.approx((2 + 0 - 1) / 3)
    assert found["rejected_log_ratio"] == pytest.approx((1 - 1e-7 + 0) / 3)
    assert found["chosen_log_ratio_per_token"] == pytest.approx((2 / 5 + 0 - 1 / 3) / 3)
    untrained = _pairs(held, {name: name for name in "abc"}, tie, trained=False)
    assert "implicit_accuracy" not in untrained
