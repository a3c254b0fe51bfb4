"""Adapter runs: the reference is the start model, a resume is the same run, what is saved fits the base."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import gentle_model, save_model, tiny_batch, tiny_model, tiny_tokenizer
from tether.config.train import TrainConfig
from tether.errors import Interrupted, RunFolderError, UsageError
from tether.policies.adapters import add_lora, trainable
from tether.policies.load import config_summary, load_model, read_json
from tether.policies.logprobs import sequence_logprobs
from tether.policies.quantisation import asked_for, weight_count
from tether.training import run as run_module
from tether.training.hardware import Memory
from tether.training.merge import merge_adapter
from tether.training.plan import model_on_meta, plan_run
from tether.training.policy import InMemory
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
def wide_folder(tmp_path: Path) -> Path:
    """Save a Llama wide enough for blocks of 64 4-bit numbers, and its tokenizer."""
    return save_model(tmp_path / "wide", gentle_model("llama", hidden_size=64, intermediate_size=128))


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


@pytest.mark.parametrize(
    ("options", "in_memory", "why"),
    [
        ({"load_in_4bit": True}, False, "add use_peft, or name an adapter"),
        ({"load_in_8bit": True, "use_peft": True, "parallel": "fsdp"}, False, "parallel ddp"),
        ({"load_in_4bit": True, "use_peft": True}, True, "quantise it when you load it"),
    ],
)
def test_a_quantised_base_that_cannot_be_had_is_refused_before_anything_is_read(
    options: dict[str, Any], in_memory: bool, why: str, make_config: Maker
) -> None:
    config = make_config(**options, dataset_name="nowhere.jsonl")
    memory = InMemory(tiny_model(), tiny_tokenizer()) if in_memory else None
    with pytest.raises(UsageError, match=why):
        train(config, given=Given(memory=memory))


def test_4_bits_without_the_package_say_how_to_get_it(
    make_config: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.policies.quantisation.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'tether\[quant\]'"):
        train(make_config(load_in_4bit=True, **ADAPTER))


def test_a_plan_counts_few_bits_and_what_is_put_back(make_config: Maker, model_folder: Path) -> None:
    def weights(**options: Any) -> float:
        config = make_config(**{**ADAPTER, "bf16": True, **options})
        model = model_on_meta(config_summary(model_folder), config)
        memory = Memory(available=2**33, process=0)
        return 2**20 * plan_run(config, model, [], budget=64, memory=memory).weights_mib

    plain = tiny_model()
    layers = [
        m.weight.numel() for n, m in plain.named_modules() if hasattr(m, "weight") and n.endswith("_proj")
    ]
    small, total = sum(layers), sum(p.numel() for p in plain.parameters())
    full = weights()
    learning = (full - 2 * total) / 4
    assert learning == sum(
        p.numel() for p in trainable(add_lora(plain, make_config(**ADAPTER), seed=0)).values()
    )
    rest = 4 * learning + 2 * (total - small) + 2 * max(layers)
    assert weights(load_in_4bit=True) == pytest.approx(rest + small * 36 / 64)
    assert weights(load_in_4bit=True, use_bnb_nested_quant=True) == pytest.approx(
        rest + small * (33 + 4 / 256) / 64
    )
    assert weights(load_in_8bit=True) == pytest.approx(rest + small)
    assert weights(init_lora_weights="pissa") == pytest.approx(4 * learning + 4 * total)


STORED = {"nf4 nested": {"load_in_4bit": True, "use_bnb_nested_quant": True}, "int8": {"load_in_8bit": True}}


@pytest.mark.parametrize("name", STORED)
def test_a_run_beside_a_quantised_base(
    name: str, make_config: Maker, trained: list[torch.Tensor], wide_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    options: dict[str, Any] = {
        **ADAPTER, **STORED[name], "model_name_or_path": str(wide_folder), "eval_fraction": 0.2,
        "measure_prompts": 2, "kl_max_new_tokens": 4,
    }  # fmt: skip
    record = train(make_config(output_dir=str(tmp_path / "whole"), **options))
    assert record.model["quantisation"] == name
    assert record.model["parameters"] == weight_count(load_model(tmp_path / "whole" / "model").model)
    assert record.reference["identity"]["scored"]["quantisation"] == name
    assert record.step0["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert record.measurements[0].kl_start == pytest.approx(0, abs=1e-9)
    # The adapter beside the same quantised base is the policy; beside the base in full it is another model.
    stored = asked_for(make_config(**options))
    saved = load_model(tmp_path / "whole" / "model", quantisation=stored)
    assert saved.trained_on == name
    assert torch.allclose(scores(saved.model), trained[0], atol=1e-4, rtol=0)
    full = float((scores(load_model(tmp_path / "whole" / "model").model) - trained[0]).abs().max())
    assert full > 20 * EPS * float(trained[0].abs().max())
    assert merge_adapter(tmp_path / "whole", tmp_path / "merged").trained_on == name
    # A table of a quantised model is told from one of the model in full, in both directions.
    again = {**options, "reference": f"artifact:{tmp_path / 'whole' / 'reference'}", "measure_prompts": 0}
    used = train(make_config(output_dir=str(tmp_path / "again"), **again))
    assert "agree to" in used.reference["verified"]
    assert used.reference["identity"]["scored"]["quantisation"] == name
    # Stopped and resumed it is the same run.
    stopped = make_config(output_dir=str(tmp_path / "stopped"), **options)
    with pytest.raises(Interrupted):
        train(stopped, watcher=StopAfter(2))
    train(stopped)
    tensors = [
        load_file(tmp_path / side / "model" / "adapter_model.safetensors") for side in ("whole", "stopped")
    ]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


@pytest.mark.parametrize("name", STORED)
def test_runs_that_share_a_quantised_base_are_runs_alone(
    name: str, make_config: Maker, wide_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    shared = Kept(tmp_path / "shared")
    found: list[dict[str, torch.Tensor]] = []
    for side, given in (
        ("alone", Given()),
        ("first", Given(shared=shared)),
        ("second", Given(shared=shared)),
    ):
        options = {**ADAPTER, **STORED[name], "model_name_or_path": str(wide_folder), "max_steps": 2}
        train(make_config(output_dir=str(tmp_path / side), **options), given=given)
        found.append(load_file(tmp_path / side / "model" / "adapter_model.safetensors"))
    assert all(torch.equal(found[0][key], other[key]) for other in found[1:] for key in found[0])


def test_an_adapter_trained_in_4_bits_goes_on_in_4_bits(
    make_config: Maker, wide_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    options: dict[str, Any] = {**ADAPTER, "load_in_4bit": True, "model_name_or_path": str(wide_folder)}
    train(make_config(output_dir=str(tmp_path / "sft"), loss_type="sft", **options))
    options |= {"model_name_or_path": str(tmp_path / "sft" / "model"), "use_peft": False}
    record = train(
        make_config(output_dir=str(tmp_path / "dpo"), measure_prompts=2, kl_max_new_tokens=4, **options)
    )
    assert record.model["adapter_trained_on"] == record.model["quantisation"] == "nf4"
    assert record.step0["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert record.measurements[0].kl_start == pytest.approx(0, abs=1e-9)
    assert record.measurements[-1].kl_start > 1e-6
