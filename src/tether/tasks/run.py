"""A task from its config to `task.json`; every stage is kept, so a run that was stopped goes on.

data     model, pairs, test prompts with their references (and, with texts, the tuned model and its pairs)
models   supervised on chosen, DPO at every beta, unlikelihood at every weight
answers  every compared policy at every temperature; Best-of-N among the start model's samples
verdicts each answer against its reference, in both orders
task.json
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tether import __version__
from tether.config.hub import model_folder
from tether.config.parse import read_yaml
from tether.config.task import TaskConfig
from tether.errors import RunFolderError, UsageError
from tether.judging.judges import EvaluatorJudge, Judge
from tether.judging.pairwise import Cache, Verdict
from tether.records.protocols import Evaluator
from tether.records.results import write_json, write_text
from tether.records.task import (
    Example,
    FrontierPoint,
    Gap,
    PolicyKind,
    Stage,
    TaskPolicy,
    TaskRecord,
    WinRate,
)
from tether.tasks.answers import (
    Answers,
    implicit_rewards,
    read_answers,
    samples,
    true_scores,
    write_answers,
    write_best,
)
from tether.tasks.compare import gap, judged, win_rate
from tether.tasks.reward import classifier_named
from tether.tasks.runs import Run, frontier_points, runs_of, start_name, train_config, train_run
from tether.tasks.sources import TaskData, file_data, readable_world, world_data
from tether.tasks.texts import make_pairs, text_data
from tether.training.track import Silent, Watcher

EXAMPLES = 12

Told = Callable[[str], Watcher]
"""Says that a stage begins, and gives what watches it."""


@dataclass
class Task:
    """What the stages of one task share."""

    config: TaskConfig
    out: Path
    told: Told
    reward: Evaluator | None
    judge: Judge
    runs: list[Run]
    data: TaskData
    stages: list[Stage] = field(default_factory=list[Stage])
    counts: dict[str, Any] = field(default_factory=dict[str, Any])
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """Book the time since the last stage."""
        now = time.perf_counter()
        self.stages.append(Stage(name=name, seconds=now - self._since))
        self._since = now

    def model_of(self, name: str) -> str:
        """Return the folder of a model: the one the task begins with, or a run's."""
        return self.data.model if name == "model" else str(self.out / "runs" / name / "model")

    @property
    def start(self) -> str:
        """Name of what preference training starts from."""
        return start_name(self.config)

    @property
    def dpo(self) -> Run:
        """The DPO run whose answers are compared."""
        return next(run for run in self.runs if run.kind == "dpo" and run.compared)


def silent(_: str) -> Watcher:
    """Show nothing."""
    return Silent()


def run_task(config: TaskConfig, out: Path, told: Told, judge: Judge | None = None) -> TaskRecord:
    """Run a task, or what is left of it, and write its record; the caller renders the page.

    `told` is asked with the name of each stage and gives what watches it. Without `judge` the task's own
    reward decides which of two answers is better.

    Raises:
        UsageError: no judge for a task without a known reward, or an option that does not exist.
        RunFolderError: the folder holds a task with another config.
        TetherError: every refusal of data, models, training and judging.

    """
    task = _opened(config, out, told, judge)
    if config.texts is not None:
        _tune_on_texts(task, task.runs[0])
    points = _train(task)
    policies = policies_of(config, task.runs)
    _answer(task)
    rates, gaps, examples = _compare(task, [policy for policy in policies if policy.compared])
    record = TaskRecord(
        task=config.task,
        title=config.title,
        size="full" if config.world is None else "world",
        tether_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.model_dump(mode="json"),
        judge=task.judge.name,
        reward=_reward_text(config),
        references=task.data.references,
        data={**task.data.counts, **task.counts},
        policies=tuple(policies),
        win_rates=tuple(rates),
        gaps=tuple(gaps),
        frontier=tuple(points),
        examples=tuple(examples),
        example_temperature=max(config.temperatures),
        stages=tuple(task.stages),
    )
    write_json(out / "task.json", record)
    return record


def _opened(config: TaskConfig, out: Path, told: Told, judge: Judge | None) -> Task:
    if judge is None and not config.reward_known:
        raise UsageError(
            f"task {config.task}: its reward is unknown, so name a judge: server:URL#MODEL, local:MODEL"
        )
    runs = runs_of(config)
    for run in runs:
        train_config(config, run, out, "(model)", ("(pairs)",), None)
    _same_config(config, out)
    told("data")
    reward = _reward(config)
    if config.world is not None:
        data = world_data(config, out)
    elif config.files is not None:
        data = file_data(config, config.files, out)
    else:
        assert config.texts is not None
        data = text_data(config, config.texts, out)
    if judge is None:
        assert reward is not None
        judge = _own_judge(config, reward)
    task = Task(config, out, told, reward, judge, runs, data)
    task.lap("data")
    return task


def _same_config(config: TaskConfig, out: Path) -> None:
    """Write the task's config into its folder, or refuse a folder that holds another."""
    path = out / "config.yaml"
    # The judge may change: verdicts are kept by judge, and nothing else depends on it.
    wanted = config.model_dump(mode="json", exclude={"judge"}, exclude_none=True)
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise RunFolderError(f"{out}: the folder is not empty and holds no task; name a new --output-dir")
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(wanted, sort_keys=False))
        return
    there = read_yaml(path)
    for key in dict.fromkeys([*wanted, *there]):
        if there.get(key) != wanted.get(key):
            raise RunFolderError(
                f"{out}: holds a task with {key} {there.get(key)!r}, not {wanted.get(key)!r}; "
                "name a new --output-dir"
            )


def _reward(config: TaskConfig) -> Evaluator | None:
    if config.world is not None:
        return readable_world(config.world).evaluator()
    if config.reward is None:
        return None
    return classifier_named(config.reward, str(model_folder(config.reward.rpartition("#")[0], weights=True)))


def _own_judge(config: TaskConfig, reward: Evaluator) -> EvaluatorJudge:
    if config.world is not None:
        name = f"world:{config.world}"
        return EvaluatorJudge(name, reward, f"{name}:{readable_world(config.world).version}")
    name = f"reward:{config.reward}"
    return EvaluatorJudge(name, reward, getattr(reward, "identity", name))


def _reward_text(config: TaskConfig) -> str | None:
    if config.world is not None:
        return f"the known reward of the world {config.world}"
    return None if config.reward is None else f"the probability of {config.reward}"


def _tune_on_texts(task: Task, run: Run) -> None:
    """Train the start model on the texts, then make the pairs of its samples."""
    config, texts = task.config, task.config.texts
    assert texts is not None and task.reward is not None
    options = train_config(
        config, run, task.out, task.data.model, (str(task.out / "data" / "sft.jsonl"),), None
    )
    train_run(options, (task.reward,), task.told(run.name))
    task.lap(run.name)
    counts = task.out / "data" / "pairs.json"
    if not counts.is_file():
        progress = _progress(task.told("pairs"))
        found = make_pairs(config, texts, run.model(task.out), task.reward, task.out, progress)
        write_json(counts, found)
    task.counts |= json.loads(counts.read_text(encoding="utf-8"))
    task.lap("pairs")


def _train(task: Task) -> list[FrontierPoint]:
    """Train every model; return what each gained and spent on the way."""
    points: list[FrontierPoint] = []
    for run in task.runs:
        if run.kind == "start":
            continue
        options = train_config(
            task.config, run, task.out, task.model_of(run.begins), task.data.train, task.data.held_out
        )
        evaluators = () if task.reward is None else (task.reward,)
        record = train_run(options, evaluators, task.told(run.name))
        if task.reward is not None and run.begins == task.start:
            points += frontier_points(run, record, task.reward.name)
        task.lap(run.name)
    return points


def policies_of(config: TaskConfig, runs: Sequence[Run]) -> list[TaskPolicy]:
    """Return everything that answers, what it is in words, and whether its answers are compared."""
    start = start_name(config)
    found: list[TaskPolicy] = []
    if start != "sft":
        found.append(
            TaskPolicy(name="model", kind="base", text="the model everything begins with", compared=True)
        )
    for run in runs:
        compared = run.compared or run.name == start
        text = _text(run, start)
        folder = f"runs/{run.name}/model"
        found.append(
            TaskPolicy(
                name=run.name, kind=run.kind, text=text, model=folder, setting=run.setting, compared=compared
            )
        )
    if config.best_of > 1:
        whose = "the model everything begins with" if start == "model" else start
        picks: dict[PolicyKind, str] = {"best-of-n": "the reward that DPO learnt (beta times its log-ratio)"}
        if config.reward_known:
            picks["best-of-n-true"] = "the task's own reward: an upper bound that nobody has on real data"
        for kind, by in picks.items():
            found.append(
                TaskPolicy(
                    name=kind.replace("-n", f"-{config.best_of}", 1),
                    kind=kind,
                    text=f"the best of {config.best_of} answers of {whose}, by {by}",
                    setting=config.best_of,
                    compared=True,
                )
            )
    return found


def _text(run: Run, start: str) -> str:
    whence = "the model everything begins with" if run.begins == "model" else run.begins
    if run.kind == "start":
        return f"{whence}, tuned on the texts"
    if run.kind == "preferred-ft":
        return f"{whence}, tuned on the chosen answers"
    if run.kind == "dpo":
        return f"DPO with beta {run.setting:g}, from {whence} and held to it"
    return f"unlikelihood with weight {run.setting:g}, from {whence}"


def _answer(task: Task) -> None:
    """Answer the test prompts with every compared model, and pick the best of N."""
    config = task.config
    names = [task.start, *(run.name for run in task.runs if run.compared)]
    if task.start != "sft":
        names.insert(0, "model")
    for name in dict.fromkeys(names):
        watcher = task.told(f"answers of {name}")
        for temperature in config.temperatures:
            write_answers(
                config,
                task.model_of(name),
                name,
                task.data.prompts,
                task.out,
                temperature,
                samples=config.best_of if name == task.start else 1,
                progress=_progress(watcher),
            )
    task.lap("answers")
    if config.best_of > 1:
        _pick(task)
        task.lap("best of N")


def _pick(task: Task) -> None:
    config, dpo = task.config, task.dpo
    for temperature in config.temperatures:
        task.told(f"best-of-{config.best_of} at temperature {temperature:g}")
        rows = samples(task.out, task.start, temperature)
        learnt = implicit_rewards(
            rows, str(dpo.model(task.out)), task.model_of(task.start), dpo.setting or config.beta
        )
        write_best(task.out, f"best-of-{config.best_of}", temperature, rows, learnt)
        if task.reward is not None:
            scores = true_scores(rows, task.reward)
            write_best(task.out, f"best-of-{config.best_of}-true", temperature, rows, scores)


def _compare(task: Task, policies: Sequence[TaskPolicy]) -> tuple[list[WinRate], list[Gap], list[Example]]:
    """Judge every policy's answers against the references, and the DPO model's rates against the others'."""
    config, asked = task.config, task.data.asked
    cache = Cache(task.out / "opinions.jsonl")
    rates: list[WinRate] = []
    gaps: list[Gap] = []
    shown: dict[str, Answers] = {}
    for temperature in config.temperatures:
        verdicts: dict[str, list[Verdict]] = {}
        for policy in policies:
            watcher = task.told(f"judging {policy.name} at temperature {temperature:g}")
            answers = read_answers(task.out, policy.name, temperature)
            verdicts[policy.name] = judged(
                answers, asked, policy.name, temperature, task.judge, cache, task.out, _judging(watcher)
            )
            rates.append(
                win_rate(
                    policy.name, temperature, verdicts[policy.name], answers, asked, task.reward, config.seed
                )
            )
            if temperature == max(config.temperatures):
                shown[policy.name] = answers
        others = [policy.name for policy in policies if policy.name != task.dpo.name]
        found = (gap(task.dpo.name, other, temperature, verdicts, config.seed) for other in others)
        gaps += [one for one in found if one is not None]
    task.lap("verdicts")
    return rates, gaps, _examples(task, shown)


def _examples(task: Task, shown: dict[str, Answers]) -> list[Example]:
    found: list[Example] = []
    for one in task.data.asked[:EXAMPLES]:
        answers = {name: rows[one.id].completion for name, rows in shown.items()}
        texts = [one.reference, *answers.values()]
        scores = None if task.reward is None else task.reward([one.prompt] * len(texts), texts)
        found.append(
            Example(
                prompt=one.prompt,
                reference=one.reference,
                reference_score=None if scores is None else scores[0],
                answers=answers,
                scores={} if scores is None else dict(zip(answers, scores[1:], strict=True)),
            )
        )
    return found


def _progress(watcher: Watcher) -> Callable[[int, int, int, float], None]:
    return lambda done, total, tokens, seconds: watcher.stage(f"{done} of {total} completions")


def _judging(watcher: Watcher) -> Callable[[int, int], None]:
    return lambda done, total: watcher.stage(f"{done} of {total} prompts")
