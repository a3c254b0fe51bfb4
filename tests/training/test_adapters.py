"""Adapter runs: the reference is the start model, a resume is the same run, what is saved fits the base."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_batch
from tether.config.train import TrainConfig
from tether.errors import Interrupted, RunFolderError
from tether.policies.load import load_model, read_json
from tether.policies.logprobs import sequence_logprobs
from tether.training import run as run_module
from tether.training.merge import merge_adapter
from tether.training.run import Given, train
from tether.training.sharing import Kept
from tether.training.track import Silent

BATCH = tiny_batch([(5, [7, 9]), (11, [3, 4])])
EPS = torch.finfo(torch.float32).eps
Maker = Callable[..., TrainConfig]

VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora-gaussian": {"use_rslora": True, "init_lora_weights": "gaussian"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-dora-rslora": {"init_lora_weights": "pissa", "use_dora": True, "use_rslora": True},
}
ADAPTER = {"use_peft": True, "lora_r": 4, "learning_rate": 2e-2, "max_steps": 4, "layout": "padded"}


class StopAfter(Silent):
    """Sends this process a signal after an update."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: int, total: int, loss: float) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return sequence_logprobs(model.eval(), BATCH).sums


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Collect what each trained policy says of a batch, just before it is saved."""
    found: list[torch.Tensor] = []
    save = run_module.save_policy

    def spy(policy: Any, *args: Any, **options: Any) -> None:
        found.append(scores(policy.model))
        save(policy, *args, **options)

    monkeypatch.setattr(run_module, "save_policy", spy)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_0_is_the_start_and_the_saved_adapter_is_the_policy(
    variant: str, make_config: Maker, trained: list[torch.Tensor], model_folder: Path, tmp_path: Path
) -> None:
    options = {**ADAPTER, **VARIANTS[variant], "measure_prompts": 2, "kl_max_new_tokens": 4}
    config = make_config(eval_fraction=0.2, **options)
    record = train(config)
    # Rewards and KL from the start: exactly nothing, for the copy runs the same kernels on the same weights.
    assert record.measurements[0].kl_start == pytest.approx(0, abs=1e-9)
    assert record.measurements[-1].kl_start > 1e-7
    assert record.step0["margin_max"] <= record.step0["bound"]
    assert record.step0["loss"] == pytest.approx(0.6931472, abs=1e-5)
    saved = load_model(tmp_path / "run" / "model")
    assert saved.weights == load_model(model_folder).weights
    moved = float((scores(load_model(model_folder).model) - trained[0]).abs().max())
    # fp32 through two layers: some rounding of sums of this size, and the training is far from lost in it.
    rounding = 64 * EPS * float(trained[0].abs().max())
    assert float((scores(saved.model) - trained[0]).abs().max()) <= rounding
    assert moved > 50 * rounding
    merged = merge_adapter(tmp_path / "run", tmp_path / "merged")
    assert merged.error_max < 1e-3 * merged.adapter_effect + 1e-5
    assert float((scores(load_model(tmp_path / "merged").model) - trained[0]).abs().max()) <= rounding


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_adapter_run_is_the_run_that_never_stopped(
    variant: str, make_config: Maker, tmp_path: Path
) -> None:
    options = {**ADAPTER, **VARIANTS[variant]}
    train(make_config(output_dir=str(tmp_path / "whole"), **options))
    config = make_config(output_dir=str(tmp_path / "stopped"), **options)
    with pytest.raises(Interrupted):
        train(config, watcher=StopAfter(2))
    train(config)
    name = "model/adapter_model.safetensors"
    whole, stopped = (load_file(tmp_path / side / name) for side in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


def test_a_base_split_otherwise_is_not_resumed(make_config: Maker, tmp_path: Path) -> None:
    config = make_config(init_lora_weights="pissa", **ADAPTER)
    with pytest.raises(Interrupted):
        train(config, watcher=StopAfter(1))
    path = tmp_path / "run" / "checkpoints" / "start-adapter.safetensors"
    tensors = load_file(path)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(RunFolderError, match=r"model\.start_adapter"):
        train(config)
    # Lost altogether it is made again: the same machine gives the same decomposition.
    path.unlink()
    assert train(config).status == "finished"


def test_a_split_base_is_not_the_base_of_other_runs(make_config: Maker, tmp_path: Path) -> None:
    shared = Kept(tmp_path / "shared")

    def cell(name: str, **options: Any) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        config = make_config(output_dir=str(folder), **ADAPTER, **options)
        train(config, given=Given(shared=shared if "alone" not in name else Given().shared))
        return load_file(folder / "model" / "adapter_model.safetensors")

    alone, before = cell("alone"), cell("before")
    cell("pissa", init_lora_weights="pissa")
    after = cell("after")
    for other in (before, after):
        assert all(torch.equal(alone[name], other[name]) for name in alone)


def test_the_saved_split_says_what_it_is(make_config: Maker, tmp_path: Path) -> None:
    record = train(make_config(init_lora_weights="pissa", lora_alpha=8, **ADAPTER))
    settings = read_json(tmp_path / "run" / "model" / "adapter_config.json")
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 16, True)
    assert record.reference["identity"]["computed"]["adapter"] == "pissa of rank 4, alpha 8 / r on all-linear"
