"""An 8B-shaped model with LoRA under 24 GiB: the plan by hand, and on a GPU (`make test-cuda`) the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.llama.configuration_llama import LlamaConfig

from tests.tiny import tiny_tokenizer
from tests.training.conftest import rows
from tether.config.train import TrainConfig
from tether.tokens.render import EncodedCompletion, EncodedGroup
from tether.training.hardware import Memory
from tether.training.plan import Plan, model_on_meta, plan_run

MIB, GIB = 2**20, 2**30
CAP = 24 * GIB
WIDTH, INNER, LAYERS, KEYS, VOCAB, RANK = 4096, 14336, 32, 1024, 128_256, 16
BLOCK = 2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER
"""Weights of a block's linear layers: q and o, k and v, the gated MLP."""
REST = 2 * VOCAB * WIDTH + (2 * LAYERS + 1) * WIDTH
"""Embedding, head and norms."""
ADAPTER = LAYERS * RANK * (2 * (2 * WIDTH) + 2 * (WIDTH + KEYS) + 3 * (WIDTH + INNER))

STORED = {
    "bf16": ({}, 2 * (LAYERS * BLOCK + REST)),
    # 4 bits and a scale of 4 bytes for 64 numbers; the largest layer once more, put back for its product.
    "4 bit": ({"load_in_4bit": True}, LAYERS * BLOCK * (0.5 + 4 / 64) + 2 * (REST + WIDTH * INNER)),
}


def shape(
    layers: int = LAYERS, width: int = WIDTH, inner: int = INNER, keys: int = KEYS, vocab: int = VOCAB
) -> LlamaConfig:
    """Return the shape of Llama-3-8B, or a smaller relative with heads of the same width."""
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=keys // 128,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def options(stored: str) -> dict[str, Any]:
    return {
        "use_peft": True, "lora_r": RANK, "bf16": True, "gradient_checkpointing": True, "measure_prompts": 0,
        "max_tokens_per_microbatch": 2048, "train_batch_size": 8, "max_steps": 1, **STORED[stored][0],
    }  # fmt: skip


def planned(stored: str, budget: int = 2048) -> Plan:
    config = TrainConfig(
        model_name_or_path="m", dataset_name="d", output_dir="o", device="cpu", **options(stored)
    )
    answers = tuple(
        EncodedCompletion(role, [5] * 256, role, cut=False, reference_logprob=None)
        for role in ("chosen", "rejected")
    )
    groups = [EncodedGroup(str(i), [5] * 512, answers, 1.0, 0.0, 1.0, frozenset()) for i in range(8)]
    model = model_on_meta(shape(), config)
    return plan_run(config, model, groups, budget=budget, memory=Memory(0, CAP))


@pytest.mark.parametrize("stored", STORED)
def test_the_plan_of_8b_with_lora_is_the_sum_by_hand_and_fits_24_gib(stored: str) -> None:
    plan = planned(stored)
    assert LAYERS * BLOCK + REST == 8_030_261_248 and ADAPTER == 41_943_040
    weights = STORED[stored][1] + 4 * ADAPTER
    # Checkpointed: the input of every block and one live block, two bytes a value.
    token = 2 * (LAYERS * WIDTH + 8 * WIDTH + 2 * (WIDTH + 2 * KEYS) + 4 * INNER + 2 * WIDTH)
    head = 3 * 4 * 1024 * VOCAB
    by_hand = weights + 12 * ADAPTER + 2048 * token + head
    assert plan.weights_mib == pytest.approx(weights / MIB)
    assert (plan.gradients_mib, plan.optimizer_mib) == (4 * ADAPTER / MIB, 8 * ADAPTER / MIB)
    assert plan.activations_mib == pytest.approx(2048 * token / MIB)
    assert plan.peak_mib == pytest.approx(by_hand / MIB)
    assert plan.peak_mib < 0.9 * CAP / MIB and plan.largest_token_budget >= 2048


CHILD = """
import sys, torch
from tether.cli.main import main
cap, words = int(sys.argv[1]), sys.argv[2:]
if torch.cuda.is_available():
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / whole))
main(words)
"""


def tether(*words: str) -> dict[str, Any]:
    """Run a command in a process of its own that may take no more of the GPU than the cap."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(CAP), *words, "--json"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def walk(folder: Path, config: LlamaConfig, stored: str, device: str) -> tuple[float, float]:
    """Make the model and rows, plan, train one update; return the planned and the measured peak, MiB."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "model", max_shard_size="4GB")
    tiny_tokenizer().save_pretrained(folder / "model")
    del model
    if device != "cpu":
        torch.cuda.empty_cache()
    long = [{key: text * 6 for key, text in row.items()} for row in rows(16)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    words = ["train", "--model", str(folder / "model"), "--data", str(folder / "pairs.jsonl")]
    words += ["--output-dir", str(folder / "run"), "--device", device, "--save-strategy", "no"]
    for key, value in options(stored).items():
        words += ["--" + key.replace("_", "-"), *([] if value is True else [str(value)])]
    plan = tether(*words, "--plan")
    record = tether(*words)
    assert record["status"] == "finished" and record["steps"] == 1
    assert record["step0"]["verified"] and (folder / "run" / "model" / "adapter_config.json").is_file()
    return plan["peak_mib"], record["hardware"]["peak_memory_mib"]


@pytest.mark.cuda
@pytest.mark.parametrize("stored", STORED)
def test_8b_with_lora_makes_its_first_update_under_24_gib_as_planned(stored: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    free = torch.cuda.mem_get_info()[0]
    if free < CAP:
        pytest.skip(f"the GPU has {free / GIB:.0f} GiB free, this needs 24")
    if shutil.disk_usage(tmp_path).free < 20 * GIB:
        pytest.skip(f"{tmp_path} has no 20 GiB free for the weights; use --basetemp")
    if stored == "4 bit":
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'tether[quant]'")
    plan, measured = walk(tmp_path, shape(), stored, "cuda")
    print(f"{stored}: planned {plan:.0f} MiB, measured {measured:.0f} MiB: {plan / measured - 1:+.1%}")
    assert measured < CAP / MIB
    assert plan == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
def test_the_walk_that_the_gpu_takes_works_on_a_small_relative(tmp_path: Path) -> None:
    plan, measured = walk(tmp_path, shape(layers=1, width=128, inner=128, keys=128, vocab=384), "bf16", "cpu")
    assert plan > 0 and measured > 0
