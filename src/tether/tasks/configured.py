"""Task configs: those that come with tether (`NAME.yaml` small, `NAME-full.yaml` as published), or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.config.parse import build, read_yaml
from tether.config.task import TASKS, TaskConfig
from tether.errors import UsageError

CONFIGS = Path(__file__).parent / "configs"
QUICK: dict[str, Any] = {
    "pairs": 400,
    "eval_pairs": 40,
    "betas": (),
    "alphas": (),
    "best_of": 4,
    "prompts": 40,
}
"""What `--quick` makes of a small task: a look at the whole chain, not a result."""
QUICK_TRAIN: dict[str, Any] = {"num_train_epochs": 1, "eval_steps": 7, "measure_prompts": 16}


def config_path(task: str, full: str | None) -> Path:
    """Return the file of a task's config; `full` is None (small), `paper` (as published) or a file.

    Raises:
        UsageError: no such task.

    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}; there are {', '.join(TASKS)}")
    if full is None or full == "paper":
        return CONFIGS / (f"{task}.yaml" if full is None else f"{task}-full.yaml")
    return Path(full)


def task_config(
    task: str, full: str | None = None, *, quick: bool = False, overrides: Mapping[str, Any] | None = None
) -> TaskConfig:
    """Return the resolved config of a task.

    Raises:
        UsageError: no such task, a config of another task, an unknown key, or `quick` at full size.

    """
    path = config_path(task, full)
    values = read_yaml(path)
    if quick:
        if values.get("world") is None:
            raise UsageError("--quick shortens the small tasks; at full size set the numbers in the config")
        values = {**values, **QUICK, "train": {**values.get("train", {}), **QUICK_TRAIN}}
    config = build(TaskConfig, values, overrides=overrides, source=str(path))
    if config.task != task:
        raise UsageError(f"{path}: is a config of task {config.task}, not {task}")
    return config
