"""What a task will do, counted without loading a model."""

from pathlib import Path
from typing import Any

from tether.config.task import TaskConfig
from tether.tasks.answers import answers_path
from tether.tasks.run import policies_of
from tether.tasks.runs import runs_of


def plan_task(config: TaskConfig, out: Path) -> list[dict[str, Any]]:
    """Return the stages in order: what each does, and whether its result is in the folder already."""
    policies = [policy for policy in policies_of(config, runs_of(config)) if policy.compared]
    picked = sum(policy.kind in ("best-of-n", "best-of-n-true") for policy in policies)
    answering = len(policies) - picked
    temperatures = len(config.temperatures)
    warm = sum(temperature > 0 for temperature in config.temperatures)
    completions = config.prompts * (answering * temperatures + (config.best_of - 1) * warm)
    where = f"world {config.world}" if config.world else f"{config.model} and its data"
    stages = [_stage("data", where, out / "data" / "data.json")]
    for run in runs_of(config):
        done = out / "runs" / run.name / "model"
        stages.append(_stage(run.name, f"train from {run.begins}{_rows(config)}", done))
        if run.kind == "start" and config.texts is not None:
            drawn = config.texts.prompts * config.texts.samples
            stages.append(_stage("pairs", f"{drawn:,} samples, ranked", out / "data" / "pairs.json"))
    last = answers_path(out, policies[-1].name, config.temperatures[-1])
    stages.append(
        _stage("answers", f"{completions:,} completions of at most {config.max_new_tokens} tokens", last)
    )
    judged = config.prompts * len(policies) * temperatures
    own = "the task's own reward" if config.reward_known else "a judge still to be named (--judge)"
    judge = config.judge or own
    stages.append(_stage("verdicts", f"{judged:,} pairs in both orders by {judge}", out / "task.json"))
    return stages


def _stage(name: str, does: str, done: Path) -> dict[str, Any]:
    return {"stage": name, "does": does, "done": done.exists()}


def _rows(config: TaskConfig) -> str:
    if config.world is None:
        return ""
    epochs = float(config.train.get("num_train_epochs", 3))
    size = int(config.train.get("train_batch_size", 8))
    return f", {round(epochs * -(-config.pairs // size))} updates"
