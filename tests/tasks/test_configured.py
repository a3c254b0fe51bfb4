"""Every config that comes with tether is whole; the full ones name what the DPO paper used."""

from pathlib import Path
from typing import Any

import pytest

from tether.config.parse import build
from tether.config.task import TASKS, TaskConfig
from tether.errors import UsageError
from tether.tasks.configured import CONFIGS, task_config
from tether.tasks.plan import plan_task
from tether.tasks.run import policies_of
from tether.tasks.runs import runs_of, train_config
from tether.worlds import WORLDS

SMALL = {"task": "dialogue", "title": "x", "world": "dialogue"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_and_every_run_of_it_is_valid(path: Path) -> None:
    task, _, size = path.stem.partition("-")
    config = task_config(task, "paper" if size else None)
    assert config.temperatures == (0.0, 0.25, 0.5, 0.75, 1.0)
    runs = runs_of(config)
    for run in runs:
        options = train_config(config, run, Path("out"), "model", ("pairs",), "held-out")
        assert options.eval_steps and options.kl_max_new_tokens == config.max_new_tokens
        assert options.pairs_per_update in (32, 64)
    known = {"model", *(run.name for run in runs)}
    assert all(run.begins in known for run in runs)
    kinds = [policy.kind for policy in policies_of(config, runs) if policy.compared]
    assert {"preferred-ft", "dpo", "unlikelihood", "best-of-n"} <= set(kinds)
    assert kinds.count("dpo") == 1
    assert [stage["done"] for stage in plan_task(config, Path("nowhere"))].count(True) == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_small_and_a_full_config(task: str) -> None:
    small, full = task_config(task), task_config(task, "paper")
    assert small.world == task and task in WORLDS
    assert full.world is None and full.model is not None and full.differences
    quick = task_config(task, quick=True)
    assert quick.pairs < small.pairs and quick.prompts < small.prompts and quick.betas == ()


def test_the_full_configs_are_the_papers() -> None:
    """2305.18290, section 6 and appendix C: models, beta, batch 64, 150 warm-up updates at 1e-6."""
    found = {task: task_config(task, "paper") for task in TASKS}
    assert set(found["sentiment"].all_betas) == {0.05, 0.1, 1, 5}
    assert set(found["sentiment"].all_alphas) == {0.05, 0.1, 0.5, 1}
    assert (found["summarization"].beta, found["dialogue"].beta) == (0.5, 0.1)
    assert (found["summarization"].start, found["dialogue"].start) == ("model", "preferred-ft")
    for config in found.values():
        assert config.best_of == 128 and config.prompts == 256
        assert config.train["learning_rate"] == 1e-6 and config.train["warmup_steps"] == 150
        assert config.train["train_batch_size"] == 64
    assert found["sentiment"].texts is not None and found["sentiment"].texts.samples == 4
    assert found["sentiment"].texts.prefix_tokens == (2, 8)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"temperatures": (0.5, 0.5)}, "temperatures: is"),
        ({"temperatures": (-1.0,)}, "temperatures: is"),
        ({"betas": (0.0,)}, "every number must be above 0"),
        ({"beta": 0}, "beta: "),
        ({"best_of": 0}, "best_of: "),
        ({"model": "x"}, "a world brings model, pairs and reward"),
        ({"world": None}, "name a world, or a model with files"),
        ({"world": None, "model": "x", "texts": {"train": ["a"], "test": ["b"]}}, "texts need a reward"),
        ({"tempratures": (1.0,)}, "did you mean temperatures"),
    ],
)
def test_what_makes_no_sense_is_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        build(TaskConfig, {**SMALL, **change}, source="test")


def test_a_config_of_another_task_an_unknown_task_and_a_quick_full_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a config of task dialogue, not sentiment"):
        task_config("sentiment", str(CONFIGS / "dialogue.yaml"))
    with pytest.raises(UsageError, match="no task 'poetry'; there are sentiment, summarization, dialogue"):
        task_config("poetry")
    with pytest.raises(UsageError, match="--quick shortens the small tasks"):
        task_config("dialogue", "paper", quick=True)


def test_an_option_that_training_does_not_have_names_the_run() -> None:
    config = build(TaskConfig, {**SMALL, "train": {"learning_rat": 1}}, source="test")
    with pytest.raises(UsageError, match="task dialogue: run preferred-ft: unknown key 'learning_rat'"):
        train_config(config, runs_of(config)[0], Path("out"), "model", ("pairs",), None)
