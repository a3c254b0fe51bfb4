"""A study: every cell as `tether train` would make it, measured; what is shared, goes on, fails."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study.conftest import Here, Told, run_here
from tests.tiny import save_model, tiny_model
from tether.api import study_plan
from tether.config.study import StudyConfig
from tether.errors import GuardStop, Interrupted, ModelError, RunFolderError, UsageError
from tether.records.findings import read_findings
from tether.records.results import file_digest, read_run, write_json
from tether.records.study import CELL, CellRecord, cell_folder, measures, read_record, read_study
from tether.study import cell as cell_module
from tether.study import plan as plan_module
from tether.study.bench import Bench
from tether.study.execute import run_study
from tether.study.grid import cells
from tether.study.plan import SPARE, StudyPlan, plan_study
from tether.study.report import write_study_report
from tether.study.tables import HeldOut, Samples, Tokens, read_table
from tether.training.hardware import Memory
from tether.training.run import train

Make = Callable[..., StudyConfig]


def weights(folder: Path) -> str:
    return file_digest(folder / "model" / "model.safetensors")


def test_every_cell_has_the_bits_of_tether_train_and_each_reference_is_scored_once(
    make_study: Make, tmp_path: Path
) -> None:
    config = make_study(reference=["self", "prior", "none"], seed=[0, 1])
    record = run_here(config)
    assert record.status == "finished"
    assert [cell.state for cell in record.cells] == ["finished"] * 12
    assert record.shared["made"] == {
        "rows": 1, "models": 1, "layouts": 1, "references": 2, "step 0": 1, "reference tokens": 1,
    }  # fmt: skip
    for number in (0, 5, 7, 11):
        cell = cells(config)[0][number]
        alone = cell.config.model_copy(update={"output_dir": str(tmp_path / cell.cell_id)})
        train(alone)
        assert weights(tmp_path / cell.cell_id) == weights(cell_folder(tmp_path / "study", cell.cell_id))
        assert not (cell_folder(tmp_path / "study", cell.cell_id) / "checkpoints").exists()


def test_what_is_measured_agrees_with_the_run_itself(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[0.1], max_steps=6, learning_rate=[3e-3])
    record = run_here(config)
    home = cell_folder(tmp_path / "study", record.cells[0].cell_id)
    found, trained = measures(home), read_run(home)
    assert found is not None
    # The loop evaluated the same rows after the last update.
    assert found.loss == trained.results["eval_loss"]
    assert found.implicit_accuracy == trained.results["eval_rewards/accuracies"]
    assert found.policy_accuracy == trained.results["eval_policy_accuracy"]
    held = read_table(HeldOut, home / "measures" / "held_out.parquet")
    assert held.role == ["chosen", "rejected"] * 6 and len(set(held.row_id)) == 6
    margin = 0.1 * (
        (held.policy_logp - held.reference_logp)[::2] - (held.policy_logp - held.reference_logp)[1::2]
    )
    assert margin.mean() == pytest.approx(trained.results["eval_rewards/margins"], abs=1e-5)
    tokens = read_table(Tokens, home / "measures" / "tokens.parquet")
    ends = np.flatnonzero(tokens.position == 0)
    np.testing.assert_allclose(np.add.reduceat(tokens.policy_logp, ends), held.policy_logp, atol=1e-4)
    np.testing.assert_allclose(np.add.reduceat(tokens.start_logp, ends), held.start_logp, atol=1e-4)
    assert tokens.is_end.sum() == 12
    samples = read_table(Samples, home / "measures" / "samples.parquet")
    assert tuple(samples.row_id) == record.prompts and len(record.prompts) == 4
    assert found.kl == pytest.approx(samples.kl_start.mean()) and found.kl > 0
    np.testing.assert_array_equal(samples.kl_start, samples.kl_reference)
    start = read_table(Samples, tmp_path / "study" / "shared" / "start" / "samples.parquet")
    assert (start.kl_start == 0).all() and start.row_id == samples.row_id
    vocabulary = json.loads((tmp_path / "study" / "shared" / "vocabulary.json").read_text())
    assert {str(i) for i in tokens.token_id} <= set(vocabulary)


def test_a_failed_cell_stops_no_other_and_is_tried_once_more_by_the_next_run(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cell_module.train

    def breaks(config: Any, **options: Any) -> Any:
        if config.beta == 1:
            raise GuardStop("step 2: the gradient is NaN or infinite on rows a, b")
        return original(config, **options)

    monkeypatch.setattr(cell_module, "train", breaks)
    config = make_study()
    first = run_here(config)
    assert first.status == "finished"
    assert [(c.state, c.attempts) for c in first.cells] == [("failed", 1), ("finished", 1)]
    assert first.cells[0].error == "step 2: the gradient is NaN or infinite on rows a, b"
    second = run_here(config)
    assert [(c.state, c.attempts) for c in second.cells] == [("failed", 2), ("finished", 1)]
    monkeypatch.setattr(cell_module, "train", original)
    third = run_here(config)
    assert [c.state for c in third.cells] == ["finished", "finished"]
    assert third.cells[0].error is None


def test_a_bug_in_one_cell_is_told_and_stops_no_other(
    make_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Bench.measure

    def breaks(self: Bench, cell: Any, loss: Any) -> Any:
        if cell.factors.beta == 1:
            raise ZeroDivisionError("division by zero")
        return original(self, cell, loss)

    monkeypatch.setattr(Bench, "measure", breaks)
    record = run_here(make_study())
    assert [c.state for c in record.cells] == ["failed", "finished"]
    assert record.cells[0].error == "ZeroDivisionError: division by zero"


def test_a_trained_cell_that_was_not_measured_is_only_measured(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_study(beta=[0.1])
    record = run_here(config)
    home = cell_folder(tmp_path / "study", record.cells[0].cell_id)
    before, found = weights(home), measures(home)
    (home / "measures" / "summary.json").unlink()
    again = run_here(config)
    assert again.cells[0].state == "finished" and again.study_id == record.study_id
    assert weights(home) == before and measures(home) == found


def test_a_stopped_study_goes_on_from_the_checkpoint_to_the_same_bits(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_here(make_study(output_dir=str(tmp_path / "whole")))
    from tether.training.track import Silent

    def stop(self: Silent, step: int, total: int, loss: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = make_study()
    with monkeypatch.context() as patch:
        patch.setattr(Silent, "step", stop)
        with pytest.raises(Interrupted) as caught:
            run_here(config)
    assert caught.value.exit_code == 143
    left = read_study(tmp_path / "study")
    assert left.status == "interrupted"
    assert [(c.state, c.attempts) for c in left.cells] == [("interrupted", 0), ("planned", 0)]
    told = Told()
    done = run_here(config, told)
    assert [c.state for c in done.cells] == ["finished", "finished"]
    for cell in done.cells:
        folders = [cell_folder(tmp_path / name, cell.cell_id) for name in ("whole", "study")]
        assert weights(folders[0]) == weights(folders[1])
    assert whole.status == done.status == "finished"


def test_another_study_in_the_folder_is_refused_and_added_cells_are_not(
    make_study: Make, tmp_path: Path
) -> None:
    run_here(make_study(beta=[0.1]))
    with pytest.raises(RunFolderError, match=r"max_steps was 3, now 4.*tether study add"):
        run_here(make_study(beta=[0.1], max_steps=4))
    with pytest.raises(RunFolderError, match=r"beta was"):
        run_here(make_study(beta=[0.1, 0.2]))
    told = Told()
    record = run_here(make_study(beta=[0.1], add=[{"beta": [0.05]}]), told)
    assert [c.factors.beta for c in record.cells] == [0.1, 0.05]
    assert [e["cell"] for e in told.events if e["event"] == "begin"] == [record.cells[1].cell_id]


def test_cells_that_were_added_stay_whatever_the_study_is_run_from_again(make_study: Make) -> None:
    run_here(make_study(beta=[0.1]))
    run_here(make_study(beta=[0.1], add=[{"beta": ["0.05"]}]))
    again = run_here(make_study(beta=[0.1]))
    assert [c.factors.beta for c in again.cells] == [0.1, 0.05]
    more = run_here(make_study(beta=[0.1], add=[{"beta": [0.2]}]))
    assert [c.factors.beta for c in more.cells] == [0.1, 0.05, 0.2]
    assert more.config["add"] == [{"beta": [0.05]}, {"beta": [0.2]}]


@pytest.mark.parametrize(("name", "kind"), [("held_out", HeldOut), ("tokens", Tokens), ("samples", Samples)])
def test_a_table_that_is_gone_is_measured_again_as_the_refusal_says(
    make_study: Make, name: str, kind: type[HeldOut | Tokens | Samples]
) -> None:
    config = make_study(beta=[0.1])
    record = run_here(config)
    folder = Path(config.output_dir)
    cell, start = cell_folder(folder, record.cells[0].cell_id) / "measures", folder / "shared" / "start"
    for home in (cell, start):
        path = home / f"{name}.parquet"
        whole = read_table(kind, path)
        path.unlink()
        if home == cell:
            write_study_report(folder)
            assert "its measures are gone; run the study again" in read_findings(folder).notices[0]
        else:
            with pytest.raises(
                RunFolderError, match="start model is not measured yet; run tether study again"
            ):
                write_study_report(folder)
        assert run_here(config).cells[0].state == "finished"
        for column, values in vars(whole).items():
            np.testing.assert_equal(getattr(read_table(kind, path), column), values)
    write_study_report(folder)
    assert not any("gone" in notice for notice in read_findings(folder).notices)


def test_a_plan_refuses_what_the_run_would_refuse_and_leaves_it_untouched(
    make_study: Make, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds 'thesis.txt' and no study"):
        study_plan(make_study(output_dir=str(other)))
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    for start in (run_here, study_plan):
        with pytest.raises(RunFolderError, match=r"thesis.txt: (is no folder|cannot be made)"):
            start(make_study(output_dir=str(other / "thesis.txt")))
    run_here(make_study(beta=[0.1]))
    with pytest.raises(RunFolderError, match=r"beta was \[0.1\], now \[0.2\]"):
        study_plan(make_study(beta=[0.2]))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"judge": "lenght"}, UsageError, "judge 'lenght' is not known; there are length, random"),
        ({"judge": "world:nowhere"}, UsageError, "nowhere: neither a world nor a folder"),
        ({"judge": "server:http://localhost"}, UsageError, "#MODEL"),
        ({"judge": "local:nowhere/model"}, ModelError, "nowhere/model"),
        ({"evaluators": ["world:nowhere"]}, UsageError, "nowhere: neither a world nor a folder"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_before_anything_is_trained(
    make_study: Make, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    config = make_study(beta=[0.1], **options)
    for start in (study_plan, run_here):
        with pytest.raises(error, match=text):
            start(config)
    assert not (Path(config.output_dir) / "study.json").exists()


def test_rows_or_a_model_that_changed_in_between_are_refused(make_study: Make, tmp_path: Path) -> None:
    run_here(make_study(beta=[0.1]))
    data, model = tmp_path / "train.jsonl", tmp_path / "model-in" / "model.safetensors"
    rows, weights_then = data.read_text(), model.read_bytes()
    data.write_text(rows.replace("number 3", "number 4"))
    with pytest.raises(RunFolderError, match=r"train\.jsonl: changed since this study read it"):
        run_here(make_study(beta=[0.1], add=[{"beta": [0.2]}]))
    data.write_text(rows)
    other = tiny_model("llama", seed=1)
    other.save_pretrained(tmp_path / "model-in")
    record = run_here(make_study(beta=[0.1], add=[{"beta": [0.2]}]))
    assert record.cells[1].state == "failed"
    assert "model-in: not what this study began with: weights" in str(record.cells[1].error)
    model.write_bytes(weights_then)
    assert run_here(make_study(beta=[0.1], add=[{"beta": [0.2]}])).cells[1].state == "finished"


def test_a_reference_that_changed_in_between_is_refused_not_mixed_in(
    make_study: Make, tmp_path: Path
) -> None:
    place = tmp_path / "other"
    save_model(place, tiny_model("llama", seed=5))
    named = {"beta": [0.1], "reference": [f"model:{place}"]}
    assert run_here(make_study(**named)).cells[0].state == "finished"
    weights = place / "model.safetensors"
    then = weights.read_bytes()
    tiny_model("llama", seed=6).save_pretrained(place)
    record = run_here(make_study(**named, add=[{"beta": [0.2]}]))
    assert [cell.state for cell in record.cells] == ["finished", "failed"]
    assert f"model:{place}: not what this study began with: weights" in str(record.cells[1].error)
    weights.write_bytes(then)
    assert run_here(make_study(**named, add=[{"beta": [0.2]}])).cells[1].state == "finished"


def test_an_artifact_that_changed_in_between_is_refused_too(make_study: Make, tmp_path: Path) -> None:
    place = save_model(tmp_path / "other", tiny_model("llama", seed=5))
    made = make_study(beta=[0.1], reference=["self", f"model:{place}"], output_dir=str(tmp_path / "made"))
    run_here(made)
    first, second = sorted((tmp_path / "made" / "cells").glob("*/reference"))
    artifact = tmp_path / "artifact"
    shutil.copytree(first, artifact)
    named = {"beta": [0.1], "reference": [f"artifact:{artifact}"], "output_dir": str(tmp_path / "study")}
    assert run_here(make_study(**named)).cells[0].state == "finished"
    shutil.copytree(second, artifact, dirs_exist_ok=True)
    record = run_here(make_study(**named, add=[{"beta": [0.2]}]))
    assert record.cells[1].state == "failed"
    assert f"artifact:{artifact}: not what this study began with: digest" in str(record.cells[1].error)


def test_a_study_that_goes_on_keeps_its_threads(make_study: Make) -> None:
    record = run_here(make_study(beta=[0.1], threads=5))
    assert record.shared["threads"] == 5
    assert plan_study(Bench(make_study(beta=[0.1])), timing=False).threads == 5
    assert plan_study(Bench(make_study(beta=[0.1], threads=3)), timing=False).threads == 3


def test_workers_are_as_many_as_memory_allows_with_their_reference_models(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    memory = [Memory(2**27, 2**40)]
    monkeypatch.setattr(plan_module, "memory_of", lambda _: memory[0])
    other = f"model:{save_model(tmp_path / 'other', tiny_model('llama', seed=1))}"

    def plan(*names: str) -> StudyPlan:
        config = make_study(reference=["self", *names], seed=[0, 1], threads=1)
        return plan_study(Bench(config), timing=False)

    weights = sum(p.numel() for p in tiny_model("llama").parameters()) * 4 / 2**20
    own = plan().memory_mib
    # One reference model scores rows, another copy is what samples are measured by.
    assert plan(other).memory_mib == pytest.approx(own + 2 * weights)
    memory[0] = Memory(2**27, 2**27 + 2**20 * own * 4.0001 / SPARE)
    assert (plan().workers, plan(other).workers) == (4, 3)


def test_halves_asked_for_later_are_trained_by_as_many_workers(
    make_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(make_study(threads=1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert plan_study(Bench(make_study(threads=1)), timing=False).workers == 1
    later = plan_study(Bench(make_study(threads=1, cross_fit=[0.1, 0.3, 1])), timing=False)
    assert later.finished == later.cells == 2 and later.workers == 2


def test_a_cell_stopped_while_it_is_measured_is_not_left_running(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[0.1])

    class Dies(Here):
        def _run(self, cell: str) -> None:
            path = cell_folder(tmp_path / "study", cell) / CELL
            record = read_record(CellRecord, path)
            write_json(path, record.model_copy(update={"state": "running", "attempts": 1}))
            self.events.put({"event": "begin", "cell": cell, "worker": 0})
            self.events.put({"event": "lost", "cell": cell, "code": 143, "worker": 0})
            self.alive = 0
            os.kill(os.getpid(), signal.SIGTERM)

    told = Told()
    with pytest.raises(Interrupted):
        run_study(config, told, lambda plan: Dies(Bench(config)))
    left = read_study(tmp_path / "study").cells[0]
    assert (left.state, left.attempts) == ("interrupted", 0)
    assert told.records[-1].cells[0].state == "interrupted"
    assert run_here(config).cells[0].state == "finished"


def test_a_study_under_torchrun_is_refused_before_it_touches_its_folder(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for start in (lambda: run_here(make_study()), lambda: study_plan(make_study())):
        with pytest.raises(UsageError, match="starts workers of its own; start it without torchrun"):
            start()
    assert not (tmp_path / "study").exists()


def test_a_folder_of_something_else_and_rows_all_trained_on_are_refused(
    make_study: Make, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds 'thesis.txt' and no study"):
        run_here(make_study(output_dir=str(tmp_path / "other")))
    with pytest.raises(RunFolderError, match="no row is held out"):
        run_here(make_study(eval_data=None))
