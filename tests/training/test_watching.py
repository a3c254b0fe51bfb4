"""Trackers get what metrics.jsonl has and never hurt a run; a run stops when it no longer gets better."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tether.config.train import TrainConfig
from tether.errors import Interrupted, UsageError
from tether.records.results import read_lines
from tether.training.run import train
from tether.training.track import Silent

Make = Callable[..., TrainConfig]


class Calls(types.ModuleType):
    """A tracker's package: notes what it is told."""

    def __init__(self, name: str, fail_at: int | None = None) -> None:
        super().__init__(name)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed, self.fail_at = 0, fail_at

    def init(self, **how: Any) -> None:
        self.started.append(how)

    def log(self, values: dict[str, float], step: int) -> None:
        if self.fail_at is not None and step >= self.fail_at:
            raise ConnectionError("no route to host\nand more")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.closed += 1

    def set_experiment(self, name: str) -> None:
        self.started.append({"project": name})

    def start_run(self, run_name: str) -> None:
        self.started[-1]["name"] = run_name

    def log_params(self, values: dict[str, str]) -> None:
        self.started[-1]["config"] = values

    log_metrics = log
    end_run = finish


class Notes(Silent):
    def __init__(self, stop_after: int = -1) -> None:
        self.notes: list[str] = []
        self.stop_after = stop_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: int, total: int, loss: float) -> None:
        if step == self.stop_after:
            import signal

            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_tracker_gets_every_number_of_metrics_jsonl(
    name: str, make_config: Make, eval_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Calls(name)
    monkeypatch.setitem(sys.modules, name, package)
    config = make_config(
        report_to=name, project="calm", run_name="first", eval_dataset_name=str(eval_file), num_train_epochs=1
    )
    train(config)
    (started,) = package.started
    assert (started["project"], started["name"]) == ("calm", "first")
    assert str(started["config"]["beta"]) == "0.1"
    lines = list(read_lines(Path(config.output_dir) / "metrics.jsonl"))
    assert [step for step, _ in package.logged] == [line["step"] for line in lines]
    for (_, values), line in zip(package.logged, lines, strict=True):
        told = {k: v for k, v in line.items() if k not in ("step", "phase") and v is not None}
        assert values == pytest.approx(told)
    assert package.closed == 1


def test_tensorboard_gets_scalars(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            assert log_dir.endswith("tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    package = types.ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    train(make_config(report_to=["tensorboard"], num_train_epochs=1))
    assert {step for name, _, step in written if name == "rewards/margins"} == {1, 2, 3, 4, 5, 6}
    assert written[-1][0] == "closed"


def test_a_tracker_that_fails_is_told_of_once_and_costs_nothing(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Calls("wandb", fail_at=3))
    watcher = Notes()
    record = train(make_config(report_to="wandb"), watcher=watcher)
    plain = train(make_config(output_dir=str(tmp_path / "plain")))
    assert record.status == "finished" and record.results == plain.results
    said = [note for note in watcher.notes if "wandb" in note]
    assert said == ["report_to wandb failed and is left: no route to host; metrics.jsonl has everything"]


def test_a_tracker_that_is_not_there_is_refused_before_anything_loads(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = make_config(report_to="mlflow", model_name_or_path="not/there")
    with pytest.raises(UsageError, match=r"pip install 'tether\[mlflow\]'"):
        train(config)
    with pytest.raises(ValueError, match="each must be named"):
        make_config(report_to="all")
    assert make_config(report_to="none").report_to == ()


def _eval_losses(config: TrainConfig) -> list[float]:
    lines = read_lines(Path(config.output_dir) / "metrics.jsonl")
    return [line["eval_loss"] for line in lines if line["phase"] == "eval"]


def test_a_run_stops_when_it_no_longer_gets_better(make_config: Make, eval_file: Path) -> None:
    # Only a margin above 0.9 would count as better: no look after the first one can be.
    options: dict[str, Any] = {
        "eval_dataset_name": str(eval_file),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "early_stopping_patience": 3,
        "early_stopping_threshold": 0.9,
    }
    record = train(config := make_config(**options))
    # Step 1 sets the best value; steps 2, 3 and 4 are not clearly better.
    assert record.steps == 4 and record.status == "finished"
    assert len(_eval_losses(config)) == 5
    assert any("stopped early after step 4 of 12" in e["text"] for e in record.events)


def test_shares_of_all_updates_say_when_to_look_and_to_save(make_config: Make, eval_file: Path) -> None:
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 0.25, "save_steps": 0.4}
    options |= {"logging_steps": 0.1, "save_total_limit": None, "measure_prompts": 0}
    record = train(config := make_config(eval_dataset_name=str(eval_file), **options))
    assert record.steps == 12
    lines = list(read_lines(Path(config.output_dir) / "metrics.jsonl"))
    steps = {phase: [x["step"] for x in lines if x["phase"] == phase] for phase in ("train", "eval")}
    assert steps == {"train": [2, 4, 6, 8, 10, 12], "eval": [0, 3, 6, 9, 12]}
    saved = sorted(int(path.name[5:]) for path in Path(config.output_dir).glob("checkpoints/step-*"))
    assert saved == [5, 10, 12]
    assert '"save_steps": 0.4' in (Path(config.output_dir) / "run.json").read_text()


@pytest.mark.parametrize(
    ("steps", "total", "every"), [(0.07, 100, 7), (1 / 3, 12, 4), (0.01, 12, 1), (1, 12, 1), (500, 12, 500)]
)
def test_a_share_of_the_updates_is_rounded_up_as_hugging_face_does(
    steps: float, total: int, every: int, make_config: Make
) -> None:
    assert make_config().every(steps, total) == every


def test_a_number_of_updates_is_whole_and_stays_so_in_the_run_folder(make_config: Make) -> None:
    with pytest.raises(ValueError, match=r"save_steps[\s\S]*is 1\.5; give a whole number"):
        make_config(save_steps=1.5)
    dumped = make_config(save_steps=500.0, eval_steps=20).model_dump_json()
    assert '"save_steps":500,' in dumped and '"eval_steps":20,' in dumped


def test_a_stop_on_the_way_does_not_forget_the_patience(
    make_config: Make, eval_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "eval_dataset_name": str(eval_file),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "early_stopping_patience": 3,
        "early_stopping_threshold": 0.9,
        "output_dir": str(tmp_path / "stopped"),
    }
    with pytest.raises(Interrupted):
        train(make_config(**options), watcher=Notes(stop_after=2))
    assert train(make_config(**options)).steps == 4


def test_early_stopping_needs_something_to_look_at(make_config: Make) -> None:
    with pytest.raises(ValueError, match="early_stopping_patience needs eval_dataset_name"):
        make_config(early_stopping_patience=2)


def test_config_of_trackers_survives_yaml(make_config: Make) -> None:
    config = make_config(report_to=["wandb", "trackio"])
    assert TrainConfig.model_validate(json.loads(config.model_dump_json())).report_to == ("wandb", "trackio")
