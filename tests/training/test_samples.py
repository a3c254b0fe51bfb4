"""Answers of every measured step: when they are made, what is kept, and that a resume keeps the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_adapters import StopAfter
from tether.config.train import TrainConfig
from tether.errors import Interrupted, UsageError
from tether.records.results import Answer, answer_files, read_lines, read_run, write_json
from tether.training.run import train

Maker = Callable[..., TrainConfig]


class Length:
    """An evaluator that counts letters."""

    name = "length"

    def __call__(self, prompts: Any, completions: Any) -> list[float]:
        return [float(len(text)) for text in completions]


@pytest.fixture
def sampled(make_config: Maker, eval_file: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(folder: str, **options: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / folder), "eval_dataset_name": str(eval_file), "max_steps": 7,
            "measure_prompts": 3, "kl_max_new_tokens": 6, "sample_steps": 3, "learning_rate": 2e-2,
            "eval_strategy": "steps", "eval_steps": 5,
        }  # fmt: skip
        return make_config(**{**values, **options})

    return make


def kept(folder: Path) -> dict[int, list[Answer]]:
    return {
        step: [Answer.model_validate(line) for line in read_lines(path)]
        for step, path in answer_files(folder).items()
    }


def test_the_same_prompts_are_answered_every_n_updates(sampled: Maker, tmp_path: Path) -> None:
    record = train(sampled("run"), evaluators=[Length()])
    found = kept(tmp_path / "run")
    assert list(found) == [0, 3, 6, 7] == [m.step for m in record.measurements]
    lines = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert [line["step"] for line in lines if line["phase"] == "eval"] == [0, 5, 7]
    prompts = [answer.prompt for answer in found[0]]
    assert all([answer.prompt for answer in answers] == prompts for answers in found.values())
    assert len({tuple(answer.completion for answer in answers) for answers in found.values()}) > 1
    for step, measured in zip(found, record.measurements, strict=True):
        assert sum(a.tokens for a in found[step]) / 3 == pytest.approx(measured.tokens)
        assert sum(a.kl_start or 0 for a in found[step]) / 3 == pytest.approx(measured.kl_start)
        assert sum(a.scores["length"] for a in found[step]) / 3 == pytest.approx(measured.scores["length"])
    ends = list(read_lines(tmp_path / "run" / "samples.jsonl"))
    assert [line["before"] for line in ends] == [a.completion for a in found[0]]
    assert [line["after"] for line in ends] == [a.completion for a in found[7]]
    # Without the option: with every evaluation, as many as there are.
    train(sampled("unset", sample_steps=None))
    assert list(kept(tmp_path / "unset")) == [0, 5, 7]


def test_a_resumed_run_keeps_the_same_answers(sampled: Maker, tmp_path: Path) -> None:
    train(sampled("whole"))
    with pytest.raises(Interrupted):
        train(sampled("stopped"), watcher=StopAfter(4))
    # As if it had been killed later, with answers that no checkpoint had seen.
    shutil.copy(
        tmp_path / "stopped" / "samples" / "step-3.jsonl", tmp_path / "stopped" / "samples" / "step-5.jsonl"
    )
    train(sampled("stopped"))
    names = [path.name for path in (tmp_path / "whole" / "samples").iterdir()]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "stopped" / "samples").iterdir())
    for name in [f"samples/{name}" for name in names] + ["samples.jsonl", "metrics.jsonl"]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_a_run_killed_after_its_last_checkpoint_still_has_its_answers(sampled: Maker, tmp_path: Path) -> None:
    train(sampled("run"))
    folder = tmp_path / "run"
    ends = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").unlink()
    write_json(folder / "run.json", read_run(folder).model_copy(update={"status": "running"}))
    train(sampled("run"))
    assert (folder / "samples.jsonl").read_bytes() == ends and json.loads(ends.splitlines()[0])["after"]


def test_the_best_step_may_be_chosen_by_what_is_measured(sampled: Maker, tmp_path: Path) -> None:
    options = {"metric_for_best_model": "kl_start", "early_stopping_patience": 1, "max_steps": 12}
    record = train(sampled("run", **options))
    # kl_start only grows here: the look at step 3 is the first, the one at step 6 no better.
    assert record.steps == 6 and [m.step for m in record.measurements] == [0, 3, 6]


def test_nothing_is_sampled_without_prompts(sampled: Maker) -> None:
    with pytest.raises(ValueError, match="sample_steps is about measured prompts"):
        sampled("run", measure_prompts=0)


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
def test_the_metric_may_be_spelt_without_its_prefix(name: str, sampled: Maker, tmp_path: Path) -> None:
    options = {"load_best_model_at_end": True, "eval_steps": 2, "sample_steps": 7, "learning_rate": 0.5}
    record = train(sampled("run", metric_for_best_model=name, **options))
    # At this rate the loss on held-out rows is worst at the end, and an earlier model is kept.
    assert any(f"is kept: {name} was best" in event["text"] for event in record.events)


def test_a_metric_that_is_not_measured_is_refused_at_step_zero(sampled: Maker) -> None:
    with pytest.raises(
        UsageError, match=r"'eval_accuracy' is not measured in this run; .*eval_rewards/accuracies"
    ):
        train(sampled("run", metric_for_best_model="eval_accuracy", early_stopping_patience=2))


def test_evaluations_follow_the_log_where_nothing_else_is_said(sampled: Maker, tmp_path: Path) -> None:
    train(sampled("run", eval_steps=None, logging_steps=3, sample_steps=7))
    lines = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert [line["step"] for line in lines if line["phase"] == "eval"] == [0, 3, 6, 7]
