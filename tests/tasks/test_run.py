"""A task from end to end, in a world and on files laid out as public data sets are; stopped and gone on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tasks.conftest import hh_row, write_rows
from tether import api
from tether.config.parse import build
from tether.config.task import TaskConfig
from tether.errors import RunFolderError, UsageError
from tether.judging.judges import LengthJudge
from tether.records.task import read_task
from tether.tasks.run import run_task, silent

TRAIN: dict[str, Any] = {
    "max_steps": 2,
    "train_batch_size": 4,
    "learning_rate": 1e-4,
    "max_length": 128,
    "measure_prompts": 4,
    "kl_max_new_tokens": 8,
    "save_strategy": "no",
}
SHORT: dict[str, Any] = {
    "temperatures": [0, 1],
    "best_of": 2,
    "prompts": 5,
    "max_new_tokens": 8,
    "train": TRAIN,
}


def config(**options: Any) -> TaskConfig:
    return build(TaskConfig, {"task": "dialogue", "title": "short", **SHORT, **options}, source="test")


@pytest.fixture(scope="module")
def world_task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskConfig]:
    """A world's task run once."""
    out = tmp_path_factory.mktemp("world") / "task"
    settings = config(world="dialogue", pairs=12, eval_pairs=4, start="preferred-ft", betas=[1.0])
    run_task(settings, out, silent)
    return out, settings


def test_every_policy_is_compared_at_every_temperature(world_task: tuple[Path, TaskConfig]) -> None:
    record = read_task(world_task[0])
    compared = [policy.name for policy in record.policies if policy.compared]
    assert compared == [
        "model",
        "preferred-ft",
        "dpo-beta-0.1",
        "unlikelihood-0.5",
        "best-of-2",
        "best-of-2-true",
    ]
    assert [(r.policy, r.temperature) for r in record.win_rates] == [(p, t) for t in (0, 1) for p in compared]
    assert all(rate.prompts == 5 and rate.reward is not None for rate in record.win_rates)
    assert {(g.other, g.temperature) for g in record.gaps} == {
        (p, t) for t in (0.0, 1.0) for p in compared if p != "dpo-beta-0.1"
    }
    # Only what starts where DPO starts is on the frontier: its KL is from there.
    assert {point.policy for point in record.frontier} == {"dpo-beta-0.1", "dpo-beta-1", "unlikelihood-0.5"}
    first = [point for point in record.frontier if point.step == 0]
    assert len(first) == 3 and all(abs(point.kl.value) < 1e-9 for point in first)
    assert record.judge == "world:dialogue" and len(record.examples) == 5


def test_the_best_of_n_by_the_true_reward_is_an_upper_bound(world_task: tuple[Path, TaskConfig]) -> None:
    record = read_task(world_task[0])
    found = {(r.policy, r.temperature): r.reward for r in record.win_rates}
    best, plain = found["best-of-2-true", 1.0], found["preferred-ft", 1.0]
    learnt = found["best-of-2", 1.0]
    assert best is not None and plain is not None and learnt is not None
    assert best.value >= max(plain.value, learnt.value)
    # At temperature 0 all samples are one.
    assert found["best-of-2-true", 0.0] == found["preferred-ft", 0.0]


def test_a_task_goes_on_and_gives_the_same_numbers(world_task: tuple[Path, TaskConfig]) -> None:
    out = world_task[0]
    before = read_task(out)
    (out / "task.json").unlink()
    answers = out / "answers" / "dpo-beta-0.1-t1.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]) + lines[2][:7])
    models = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/model/*.safetensors")}
    stages: list[str] = []

    def told(name: str) -> Any:
        stages.append(name)
        return silent(name)

    again = run_task(world_task[1], out, told)
    changing = {"created", "stages"}
    assert again.model_dump(exclude=changing) == before.model_dump(exclude=changing)
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert answers.read_text() == "".join(lines)
    assert "dpo-beta-0.1" in stages and "answers of dpo-beta-0.1" in stages


def test_another_config_is_refused_by_its_key_and_another_judge_is_not(
    world_task: tuple[Path, TaskConfig], tmp_path: Path
) -> None:
    out, settings = world_task
    with pytest.raises(RunFolderError, match=r"holds a task with prompts 5, not 6"):
        run_task(settings.model_copy(update={"prompts": 6}), out, silent)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty and holds no task"):
        run_task(settings, tmp_path, silent)
    before = read_task(out)
    record = run_task(settings.model_copy(update={"judge": "length"}), out, silent, LengthJudge())
    assert record.judge == "length"
    assert record.win_rates != before.win_rates
    assert run_task(settings, out, silent).win_rates == before.win_rates


def test_a_task_on_files_laid_out_as_hh(tmp_path: Path, model_folder: Path) -> None:
    train = write_rows(tmp_path / "hh" / "helpful" / "train.jsonl", [hh_row(1 + i % 3, i) for i in range(16)])
    test = write_rows(tmp_path / "hh" / "helpful" / "test.jsonl", [hh_row(1, 50 + i) for i in range(8)])
    document = {
        "task": "dialogue",
        "title": "HH in small",
        **SHORT,
        "model": str(model_folder),
        "start": "preferred-ft",
        "files": {"train": [str(train)], "test": [str(test)], "single_turn": True},
    }
    path = tmp_path / "hh.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError, match="its reward is unknown, so name a judge"):
        api.task("dialogue", tmp_path / "out", full=str(path))
    record = api.task("dialogue", tmp_path / "out", full=str(path), judge="length")
    assert record.size == "full" and record.reward is None and record.frontier == ()
    assert all(rate.reward is None for rate in record.win_rates)
    assert "best-of-2-true" not in {policy.name for policy in record.policies}
    assert record.data["test_prompts"] == 5
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "runs" / "dpo-beta-0.1" / "report.html").is_file()


def test_a_task_on_texts_makes_its_pairs_by_the_classifier(
    tmp_path: Path, model_folder: Path, classifier_folder: Path
) -> None:
    rows = [{"text": f"A film about jam number {i}, quite long and kind, with {i} foxes."} for i in range(24)]
    document = {
        "task": "sentiment",
        "title": "texts in small",
        **SHORT,
        "model": str(model_folder),
        "reward": f"{classifier_folder}#POSITIVE",
        "texts": {
            "train": [str(write_rows(tmp_path / "train.jsonl", rows))],
            "test": [str(write_rows(tmp_path / "test.jsonl", rows[::-1]))],
            "prompts": 6,
            "samples": 3,
            "prefix_tokens": [9, 12],
        },
        "sft": {"learning_rate": 1e-3},
        "alpha": None,
    }
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump(document))
    record = api.task("sentiment", tmp_path / "out", full=str(path))
    assert record.data["pairs"] + record.data["pairs_tied"] == 6 * 3
    compared = [policy.name for policy in record.policies if policy.compared]
    assert compared == ["sft", "preferred-ft", "dpo-beta-0.1", "best-of-2", "best-of-2-true"]
    runs = {
        name: json.loads((tmp_path / "out" / "runs" / name / "run.json").read_text()) for name in compared[:3]
    }
    assert runs["preferred-ft"]["config"]["model_name_or_path"].endswith("runs/sft/model")
    assert runs["dpo-beta-0.1"]["config"]["model_name_or_path"].endswith("runs/sft/model")
    assert {point.policy for point in record.frontier} == {"preferred-ft", "dpo-beta-0.1"}
    assert all(0 <= point.reward.value <= 1 for point in record.frontier)
