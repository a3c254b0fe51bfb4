"""Which models a task trains, from what, and with which options; and training them.

sft            only where a task has texts: the start model, tuned on them
preferred-ft   supervised on the chosen answers
dpo-beta-B     DPO held to the model it starts from
unlikelihood-A chosen answers up, tokens of rejected ones down
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.analysis.stats import Z95
from tether.config.parse import build
from tether.config.task import TaskConfig
from tether.config.train import TrainConfig
from tether.records.comparison import Estimate
from tether.records.protocols import Evaluator
from tether.records.results import RunRecord, read_run
from tether.records.task import FrontierPoint, PolicyKind
from tether.training.run import train
from tether.training.track import Watcher


@dataclass(frozen=True)
class Run:
    """One model to train."""

    name: str
    kind: PolicyKind
    setting: float | None
    begins: str
    """Where it starts: `model`, or the name of the run whose model it starts from."""
    options: Mapping[str, Any]
    compared: bool = True

    def folder(self, out: Path) -> Path:
        """Return its run folder."""
        return out / "runs" / self.name

    def model(self, out: Path) -> Path:
        """Return the folder of its tuned model."""
        return self.folder(out) / "model"


def runs_of(config: TaskConfig) -> list[Run]:
    """Return every model the task trains, in order; a run stands after the one it begins from."""
    first = "sft" if config.texts is not None else "model"
    supervised = {"loss_type": "sft", "reference": "none", **config.sft}
    runs = [Run("sft", "start", None, "model", supervised, False)] if config.texts is not None else []
    runs.append(Run("preferred-ft", "preferred-ft", None, first, supervised))
    start = "preferred-ft" if config.start == "preferred-ft" else first
    for beta in config.all_betas:
        options = {"loss_type": "sigmoid", "beta": beta}
        runs.append(Run(f"dpo-beta-{beta:g}", "dpo", beta, start, options, beta == config.beta))
    for alpha in config.all_alphas:
        options = {"loss_type": "unlikelihood", "unlikelihood_alpha": alpha, "reference": "none"}
        name = f"unlikelihood-{alpha:g}"
        runs.append(Run(name, "unlikelihood", alpha, start, options, alpha == config.alpha))
    return runs


def start_name(config: TaskConfig) -> str:
    """Return what preference training starts from: `model`, or the name of a run."""
    if config.start == "preferred-ft":
        return "preferred-ft"
    return "sft" if config.texts is not None else "model"


def train_config(
    config: TaskConfig, run: Run, out: Path, model: str, data: Sequence[str], held_out: str | None
) -> TrainConfig:
    """Return the options of one run: the task's own, then those of its kind.

    Raises:
        UsageError: an option that tether train does not have.

    """
    values: dict[str, Any] = {
        "model_name_or_path": model,
        "dataset_name": tuple(data),
        "output_dir": str(run.folder(out)),
        "seed": config.seed,
        **config.train,
        **run.options,
    }
    if held_out is not None:
        values["eval_dataset_name"] = held_out
    return build(TrainConfig, values, source=f"task {config.task}: run {run.name}")


def train_run(options: TrainConfig, evaluators: Sequence[Evaluator], watcher: Watcher) -> RunRecord:
    """Train one model, go on where it stopped, or return the record of a finished one."""
    folder = Path(options.output_dir)
    record = train(options, evaluators=evaluators, watcher=watcher)
    return read_run(folder) if record.status != "finished" else record


def frontier_points(run: Run, record: RunRecord, reward: str) -> list[FrontierPoint]:
    """Return what a run gained and spent at every moment it was measured; none where KL or reward was not."""
    points: list[FrontierPoint] = []
    for one in record.measurements:
        if one.kl_start is None or reward not in one.scores:
            continue
        points.append(
            FrontierPoint(
                policy=run.name,
                kind=run.kind,
                setting=run.setting,
                step=one.step,
                kl=_measured(one.kl_start, one.kl_start_se),
                reward=_measured(one.scores[reward], one.scores_se.get(reward)),
                prompts=one.prompts,
            )
        )
    return points


def _measured(value: float, error: float | None) -> Estimate:
    if error is None:
        return Estimate(value=value, low=None, high=None, se=None)
    return Estimate(value=value, low=value - Z95 * error, high=value + Z95 * error, se=error)
