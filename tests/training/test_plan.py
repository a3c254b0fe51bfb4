"""What `--plan` says before a run is what the run then takes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import rows
from tether import api
from tether.config.train import TrainConfig
from tether.training.hardware import Memory
from tether.training.plan import FIRST_USE, activation_bytes_per_token, cache_bytes_per_token, model_on_meta

MIB = 2**20


def test_parts_by_hand(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(max_tokens_per_microbatch=64)
    plan = api.plan(config)
    parameters = model_on_meta(_model_config(config), config).num_parameters()
    assert plan["weights_mib"] == plan["gradients_mib"] == pytest.approx(4 * parameters / MIB)
    assert plan["optimizer_mib"] == pytest.approx(8 * parameters / MIB)
    assert plan["updates"] == 12 and plan["rows"] == 24 and plan["start_copy_mib"] == 0
    # tests/tiny.py's Llama: 2 layers, width 32, inner 64, 4 heads, 2 key-value heads.
    per_token = 4 * (2 * (8 * 32 + 2 * (32 + 2 * 16) + 4 * 64) + 2 * 32)
    assert activation_bytes_per_token(_model_config(config), checkpointing=False) == per_token
    assert cache_bytes_per_token(_model_config(config)) == 4 * 2 * 2 * 2 * 8
    assert plan["activations_mib"] <= plan["peak_mib"] < plan["available_mib"]


def test_an_adapter_learns_less_and_keeps_no_copy(make_config: Callable[..., TrainConfig]) -> None:
    whole = api.plan(make_config(measure_prompts=4))
    adapter = api.plan(make_config(measure_prompts=4, use_peft=True, lora_r=2))
    assert 0 < adapter["gradients_mib"] < 0.5 * whole["gradients_mib"]
    assert adapter["start_copy_mib"] == 0 < whole["start_copy_mib"]
    assert adapter["sampling_mib"] == whole["sampling_mib"] > 0


def test_checkpointing_saves_activations_but_not_what_the_allocator_keeps(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.api.training.memory_of", lambda device: Memory(50 * MIB, 900 * MIB))
    plain = api.plan(make_config())
    checkpointed = api.plan(make_config(gradient_checkpointing=True))
    assert checkpointed["activations_mib"] < 0.8 * plain["activations_mib"]
    assert (
        checkpointed["retained_mib"]
        == plain["retained_mib"]
        == pytest.approx(0.4 * (plain["activations_mib"] + plain["head_mib"]))
    )
    saved = plain["activations_mib"] - checkpointed["activations_mib"]
    assert plain["peak_mib"] - checkpointed["peak_mib"] == pytest.approx(saved)


def test_the_largest_budget_is_the_last_that_fits(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_room(mib: float, budget: int) -> dict[str, Any]:
        memory = Memory(50 * MIB, int(50 * MIB + FIRST_USE + mib * MIB))
        monkeypatch.setattr("tether.api.training.memory_of", lambda device: memory)
        whole = {"dataset_name": str(data), "train_batch_size": 400}
        return api.plan(make_config(max_tokens_per_microbatch=budget, **whole))

    data = Path(make_config().output_dir).parent / "many.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(400)))
    largest = with_room(30, 256)["largest_token_budget"]
    assert largest >= 256 and largest % 256 == 0
    limit = 0.9 * (80 + FIRST_USE / MIB)
    assert with_room(30, largest)["peak_mib"] <= limit < with_room(30, largest + 256)["peak_mib"]
    assert with_room(1, 256)["largest_token_budget"] == 0


def test_no_budget_is_larger_than_an_update(make_config: Callable[..., TrainConfig]) -> None:
    def planned(size: int, budget: int) -> dict[str, Any]:
        return api.plan(make_config(train_batch_size=size, max_tokens_per_microbatch=budget))

    one, all_rows = planned(1, 10_000), planned(24, 10_000)
    per_token = activation_bytes_per_token(_model_config(make_config()), checkpointing=False)
    assert all_rows["activations_mib"] * MIB == pytest.approx(per_token * all_rows["tokens_per_epoch"])
    assert one["activations_mib"] < all_rows["activations_mib"] / 8
    assert one["activations_mib"] == planned(1, 1)["activations_mib"], "the longest pair, whatever the budget"
    assert one["largest_token_budget"] == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--max-tokens-per-microbatch", "4096"],
        ["--max-tokens-per-microbatch", "4096", "--use-peft"],
        ["--max-tokens-per-microbatch", "8192", "--gradient-checkpointing"],
        ["--measure-prompts", "32"],
    ],
)
def test_the_peak_is_within_15_percent_of_the_measured_one(options: list[str], tmp_path: Path) -> None:
    """On a model of 5 M parameters: tensors are about half of what the process then holds."""
    data = tmp_path / "rows.jsonl"
    long = [{k: v * 12 for k, v in row.items()} for row in rows(300)]
    data.write_text("".join(json.dumps(row) + "\n" for row in long))
    _run("tools/small_model.py", "--data", str(data), "--out", str(tmp_path / "model"))
    words = ["-m", "tether", "train", "--model", str(tmp_path / "model"), "--data", str(data)]
    words += ["--output-dir", str(tmp_path / "run"), "--max-steps", "3", "--train-batch-size", "32"]
    words += [
        "--save-strategy",
        "no",
        *([] if "--measure-prompts" in options else ["--measure-prompts", "0"]),
    ]
    planned = json.loads(_run(*words, *options, "--plan", "--json"))["peak_mib"]
    measured = json.loads(_run(*words, *options, "--json"))["hardware"]["peak_memory_mib"]
    assert planned == pytest.approx(measured, rel=0.15)


def _run(*words: str) -> str:
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout


def _model_config(config: TrainConfig) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(config.model_name_or_path)
