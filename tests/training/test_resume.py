"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tether.errors import Interrupted, RunFolderError
from tether.training import loop as loop_module
from tether.training.run import train
from tether.training.track import Silent

TOTAL = 12
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "lora-dropout": {"use_peft": True, "lora_dropout": 0.2, "lora_r": 4},
    "accumulation": {"max_tokens_per_microbatch": 60},
}


class StopAfter(Silent):
    """Sends this process a signal after an update."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number = step, number

    def step(self, step: int, total: int, loss: float) -> None:
        if step == self.at:
            os.kill(os.getpid(), self.number)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, torch.Tensor]]:
    weights = next((folder / "model").glob("*.safetensors"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    newest = sorted((folder / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))[-1]
    return load_file(weights), lines, load_file(newest / "optimizer.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_equals_the_uninterrupted_run_at_every_step(
    variant: str, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    options = VARIANTS[variant]
    whole = make_config(output_dir=str(tmp_path / "whole"), **options)
    train(whole)
    weights, lines, moments = outcome(tmp_path / "whole")
    config = make_config(output_dir=str(tmp_path / "stopped"), **options)
    for stop in range(1, TOTAL):  # one run, stopped after every single update
        with pytest.raises(Interrupted) as caught:
            train(config, watcher=StopAfter(stop))
        assert caught.value.exit_code == 143
    train(config)
    again = outcome(Path(config.output_dir))
    assert all(torch.equal(weights[name], again[0][name]) for name in weights)
    assert lines == again[1]
    assert all(torch.equal(moments[name], again[2][name]) for name in moments)


def test_ctrl_c_saves_within_one_step_and_exits_130(make_config: Callable[..., Any]) -> None:
    config = make_config()
    with pytest.raises(Interrupted) as caught:
        train(config, watcher=StopAfter(5, signal.SIGINT))
    assert caught.value.exit_code == 130
    assert (Path(config.output_dir) / "checkpoints" / "step-5" / "complete.json").is_file()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "complete.json"],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, name: str, make_config: Callable[..., Any]
) -> None:
    config = make_config(save_steps=3, save_total_limit=3)
    with pytest.raises(Interrupted):
        train(config, watcher=StopAfter(7))
    path = Path(config.output_dir) / "checkpoints" / "step-7" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        if damage == "flip":
            data[len(data) // 2] ^= 4
        path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    notes: list[str] = []
    watcher = StopAfter(-1)
    watcher.note = notes.append  # type: ignore[method-assign]
    record = train(config, watcher=watcher)
    assert record.status == "finished" and record.steps == TOTAL
    assert any("resuming after step 6" in note for note in notes)
    assert any("step-7" in event["text"] for event in record.events)


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.2},
        {"learning_rate": 1e-4},
        {"loss_type": "ipo"},
        {"seed": 8},
        {"max_length": 64},
        {"num_train_epochs": 3},
    ],
)
def test_a_changed_option_is_refused_with_the_difference(
    change: dict[str, Any], make_config: Callable[..., Any]
) -> None:
    with pytest.raises(Interrupted):
        train(make_config(), watcher=StopAfter(2))
    with pytest.raises(RunFolderError, match=next(iter(change))):
        train(make_config(**change))


def test_changed_rows_and_changed_weights_are_refused(
    make_config: Callable[..., Any], data_file: Path, model_folder: Path
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        train(config, watcher=StopAfter(2))
    text = data_file.read_text()
    data_file.write_text(text.replace("number 3", "number three"))
    with pytest.raises(RunFolderError, match=r"data\.train"):
        train(config)
    data_file.write_text(text)
    weights = model_folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RunFolderError, match=r"model\.weights"):
        train(config)


def test_a_finished_run_is_not_run_again(make_config: Callable[..., Any]) -> None:
    first = train(make_config())
    assert train(make_config()).run_id == first.run_id


def test_a_second_process_on_one_folder_is_refused(make_config: Callable[..., Any]) -> None:
    from tether.training.folder import RunFolder

    config = make_config()
    held = RunFolder(Path(config.output_dir))
    held.acquire()
    try:
        with pytest.raises(RunFolderError, match=str(os.getpid())):
            train(config)
    finally:
        held.release()
    assert train(config).status == "finished"


def test_a_foreign_folder_is_refused(make_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        train(make_config())
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_out_of_memory_halves_the_budget_once_and_changes_no_number(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = train(make_config(output_dir=str(tmp_path / "plain"), max_tokens_per_microbatch=400))
    original = loop_module.update_gradient
    calls = {"n": 0}

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 3:
            original(*args, **kwargs)  # leaves gradients behind, as a failure half-way does
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(*args, **kwargs)

    monkeypatch.setattr(loop_module, "update_gradient", failing)
    record = train(make_config(max_tokens_per_microbatch=400))
    assert [event["step"] for event in record.events] == [2]
    assert "200" in record.events[0]["text"]
    assert record.results["loss"] == pytest.approx(plain.results["loss"], abs=1e-5)
