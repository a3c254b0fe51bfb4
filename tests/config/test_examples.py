"""Configs with the keys of the other trainers' own published examples: each converts; what cannot is listed.

The keys (and their nesting) are those of the examples each heading names; values and paths are ours.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tether.cli.main import main
from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.config.translate import TOOLS, translate

FACTORY = """
model_name_or_path: some/instruct
trust_remote_code: true
do_train: true
finetuning_type: lora
lora_target: all
pref_beta: 0.2
template: qwen3_nothink
cutoff_len: 1024
max_samples: 50
preprocessing_num_workers: 2
dataloader_num_workers: 1
output_dir: out
logging_steps: 5
save_steps: 20
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 3.0e-6
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.2
bf16: true
ddp_timeout: 1800
resume_from_checkpoint: null
"""
"""What LLaMA-Factory's examples for preferences have in common."""

AXOLOTL = """
base_model: some/base
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
load_in_8bit: false
load_in_4bit: false
chat_template: llama3
dataset_prepared_path:
val_set_size: 0.2
output_dir: ./out
sequence_len: 1024
sample_packing: false
lora_model_dir:
lora_r: 4
lora_alpha: 8
lora_dropout: 0.1
lora_target_linear: true
wandb_project:
wandb_entity:
wandb_watch:
wandb_name:
wandb_log_model:
gradient_accumulation_steps: 2
micro_batch_size: 3
num_epochs: 2
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0001
bf16: auto
tf32: false
gradient_checkpointing: true
resume_from_checkpoint:
logging_steps: 1
attn_implementation: flash_attention_2
warmup_ratio: 0.2
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
"""
"""What axolotl's examples for preferences have in common."""

CHAT_SET = {
    "path": "owner/pairs",
    "type": "chat_template.default",
    "field_messages": "conversation",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "message_property_mappings": {"role": "role", "content": "content"},
    "roles": {"system": ["system"], "user": ["user"], "assistant": ["assistant"]},
}

HANDBOOK = """
model_name_or_path: some/sft
torch_dtype: bfloat16
attn_implementation: flash_attention_2
dataset_num_proc: 2
bf16: true
beta: 0.02
do_eval: true
eval_strategy: steps
eval_steps: 50
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
hub_model_id: mine
learning_rate: 6.0e-7
log_level: info
logging_steps: 5
lr_scheduler_type: cosine
max_length: 512
num_train_epochs: 1
optim: adamw_torch
output_dir: out
per_device_train_batch_size: 4
per_device_eval_batch_size: 4
save_strategy: steps
save_steps: 0.5
save_total_limit: 1
seed: 7
warmup_ratio: 0.1
"""
"""What the alignment handbook's recipes (a YAML of TRL's classes) have in common."""

TRL_SCRIPT = """
dataset_name: owner/pairs
model_name_or_path: some/instruct
learning_rate: 5.0e-6
num_train_epochs: 1
per_device_train_batch_size: 2
max_steps: 30
gradient_accumulation_steps: 4
eval_strategy: steps
eval_steps: 10
output_dir: out
use_peft: true
lora_r: 8
lora_alpha: 16
"""
"""The options of TRL's script for DPO with LoRA, as YAML."""


def keys(text: str, **more: Any) -> dict[str, Any]:
    """Return a config with further keys; a key set to `...` is taken out."""
    return {key: value for key, value in {**yaml.safe_load(text), **more}.items() if value is not ...}


EXAMPLES: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    # LLaMA-Factory: examples/train_lora/qwen3_lora_dpo.yaml
    "factory dpo": (
        keys(FACTORY, stage="dpo", lora_rank=4, pref_loss="sigmoid", dataset="dpo_demo"),
        [],
        {"loss_type": ["sigmoid"], "beta": 0.2, "max_samples": 50, "use_peft": True, "lora_r": 4,
         "lora_alpha": 8, "dataset_name": "data/dpo.json", "max_length": 1024},
    ),
    # LLaMA-Factory: examples/train_lora/llama3_lora_kto.yaml
    "factory kto": (
        keys(FACTORY, stage="kto", dataset="kto_demo", overwrite_cache=True, val_size=0.1,
             per_device_eval_batch_size=1, eval_strategy="steps", eval_steps=10),
        [],
        {"loss_type": ["kto"], "beta": 0.2, "eval_fraction": 0.1, "eval_strategy": "steps", "eval_steps": 10,
         "lora_r": 8, "lora_alpha": 16, "dataset_name": "data/kto.json"},
    ),
    # LLaMA-Factory: the same file with the loss its comment offers, and full tuning under DeepSpeed
    "factory orpo": (
        keys(FACTORY, stage="dpo", pref_loss="orpo", finetuning_type="full", lora_target=..., val_size=30,
             dataset="dpo_demo", deepspeed="examples/deepspeed/ds_z3_config.json"),
        ["deepspeed"],
        {"loss_type": ["orpo"], "use_peft": False, "eval_rows": 30, "beta": 0.2},
    ),
    # LLaMA-Factory: examples/train_lora/qwen3vl_lora_dpo.yaml
    "factory pictures": (
        keys(FACTORY, stage="dpo", pref_loss="sigmoid", dataset="dpo_demo", image_max_pixels=1000,
             video_max_pixels=100, use_swanlab=True, swanlab_project="p"),
        ["image_max_pixels", "video_max_pixels", "use_swanlab"],
        {"loss_type": ["sigmoid"], "report_to": []},
    ),
    # axolotl: examples/llama-3/instruct-dpo-lora-8b.yml
    "axolotl dpo": (
        keys(AXOLOTL, rl="dpo", adapter="lora", load_in_8bit=True, datasets=[CHAT_SET],
             special_tokens={"pad_token": "<pad>", "eos_token": "<eos>"}),
        [],
        {"loss_type": ["sigmoid"], "load_in_8bit": True, "eval_strategy": "steps", "eval_steps": 0.125,
         "save_strategy": "epoch", "eval_fraction": 0.2, "dataset_name": "owner/pairs:train",
         "truncation_mode": "drop", "report_to": [], "train_batch_size": None},
    ),
    # axolotl: examples/qwen2/dpo.yaml, where nothing is held out
    "axolotl full": (
        keys(AXOLOTL, rl="dpo", val_set_size=0.0, datasets=[CHAT_SET], adapter=..., load_in_8bit=...,
             lora_r=..., lora_alpha=..., lora_dropout=..., lora_target_linear=..., lora_model_dir=...),
        [],
        {"eval_strategy": None, "eval_steps": None, "eval_fraction": 0.0, "use_peft": False},
    ),
    # axolotl: examples/mistral/dpo/mistral-dpo-qlora.yml
    "axolotl qlora": (
        keys(AXOLOTL, rl="dpo", adapter="qlora", load_in_4bit=True, datasets=[CHAT_SET],
             lora_target_modules=["q_proj"], lora_modules_to_save=["embed_tokens", "lm_head"]),
        ["lora_modules_to_save"],
        {"load_in_4bit": True, "use_bnb_nested_quant": True, "lora_target_modules": ["all-linear"]},
    ),
    # axolotl: examples/mistral/orpo/mistral-qlora-orpo.yml
    "axolotl orpo": (
        keys(AXOLOTL, rl="orpo", orpo_alpha=0.3, remove_unused_columns=False, adapter="qlora",
             load_in_4bit=True, datasets=[{"path": "owner/pairs", "type": "chat_template.argilla"}],
             loss_watchdog_threshold=5.0, loss_watchdog_patience=3, special_tokens=None, num_epochs=1),
        [],
        {"loss_type": ["orpo"], "beta": 0.3, "eval_steps": 0.25},
    ),
    # axolotl: examples/llama-3/qlora-1b-kto.yaml
    "axolotl kto": (
        keys(AXOLOTL, rl="kto", rl_beta=0.5, kto_desirable_weight=0.2, adapter="qlora", load_in_4bit=True,
             remove_unused_columns=False, eval_sample_packing=False, pad_to_sequence_len=False,
             gradient_checkpointing_kwargs={"use_reentrant": False}, val_set_size=40,
             datasets=[{"path": "owner/kto", "type": "llama3.ultra", "split": "train"}]),
        ["datasets"],
        {"loss_type": ["kto"], "beta": 0.5, "desirable_weight": 0.2, "eval_rows": 40,
         "dataset_name": "owner/kto:train"},
    ),
    # axolotl: examples/llama-3/lora-1b-deduplicate-dpo.yml
    "axolotl twice": (
        keys(AXOLOTL, rl="dpo", adapter="lora", datasets=[CHAT_SET, CHAT_SET],
             dataset_exact_deduplication=True),
        ["dataset_exact_deduplication"],
        {"dataset_name": ["owner/pairs:train", "owner/pairs:train"]},
    ),
    # axolotl: examples/swanlab/dpo-swanlab-completions.yml
    "axolotl swanlab": (
        keys(AXOLOTL, rl="dpo", adapter="lora", datasets=[CHAT_SET],
             plugins=["axolotl.integrations.swanlab.SwanLabPlugin"], use_swanlab=True, swanlab_project="p",
             swanlab_experiment_name="e", swanlab_description="d", swanlab_mode="cloud",
             swanlab_log_completions=True, swanlab_completion_log_interval=100,
             swanlab_completion_max_buffer=128),
        ["use_swanlab"],
        {"report_to": [], "loss_type": ["sigmoid"]},
    ),
    # axolotl: examples/falcon-e/falcon-e-3b-dpo.yaml
    "axolotl sharded": (
        keys(AXOLOTL, rl="dpo", evals_per_epoch=0, saves_per_epoch=..., save_steps=50, save_strategy="steps",
             datasets=[{"path": "owner/pairs", "split": "train", "type": "chatml.ultra"}],
             plugins=["axolotl.integrations.kernels.KernelsPlugin"], use_kernels=False,
             use_scattermoe=False, use_sonicmoe=False, use_onebitllms=True, flash_attention=True,
             accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
             adam_beta1=0.9, adam_beta2=0.95, shuffle_merged_datasets=True, fsdp_version=2,
             experimental_skip_move_to_device=True, fsdp_config={"offload_params": False},
             dp_shard_size=1, dp_replicate_size=1, tensor_parallel_size=1, context_parallel_size=1,
             eot_tokens=["<|im_end|>"], trust_remote_code=False),
        ["use_onebitllms", "fsdp_config"],
        {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 50, "adam_beta2": 0.95},
    ),
    # TRL: trl/scripts/dpo.py
    "trl script": (
        keys(TRL_SCRIPT),
        [],
        {"dataset_name": "owner/pairs:train", "eval_dataset_name": "owner/pairs:test", "max_steps": 30},
    ),
    # TRL: docs, `trl dpo --config` with several processes
    "trl command line": (
        {"model_name_or_path": "some/model", "dataset_name": "owner/pairs", "output_dir": "out",
         "num_processes": 4, "accelerate_config": "zero2"},
        ["num_processes", "accelerate_config"],
        {"dataset_name": "owner/pairs:train", "beta": 0.1},
    ),
    # TRL: trl/scripts/kto.py with 4 bits
    "trl kto": (
        keys(TRL_SCRIPT, loss_type="kto", max_steps=..., eval_strategy=..., lr_scheduler_type="cosine",
             warmup_steps=0.1, logging_first_step=True, load_in_4bit=True, lora_target_modules="all-linear"),
        [],
        {"loss_type": ["kto"], "warmup_steps": 0.1, "load_in_4bit": True, "eval_dataset_name": None},
    ),
    # alignment-handbook: recipes/zephyr-7b-beta/dpo/config_full.yaml
    "handbook zephyr": (
        keys(HANDBOOK, torch_dtype=None, push_to_hub=True, max_prompt_length=256,
             dataset_mixture={"datasets": [
                 {"id": "owner/a", "config": "default", "split": "train_prefs",
                  "columns": ["chosen", "rejected"], "weight": 1.0},
                 {"id": "owner/b", "split": "test_prefs", "columns": ["chosen"], "weight": 0.5},
             ], "test_split_size": 200, "seed": 0}),
        ["push_to_hub", "max_prompt_length"],
        {"dataset_name": ["owner/a@default:train_prefs", "owner/b:test_prefs"], "save_steps": 0.5,
         "dataset_weights": [1.0, 0.5], "eval_rows": 200, "beta": 0.02},
    ),
    # alignment-handbook: recipes/smollm3/dpo/apo.yaml
    "handbook apo": (
        keys(HANDBOOK, model_revision="it", trust_remote_code=True, run_name="n", hub_strategy="every_save",
             lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1},
             loss_type="apo_zero", overwrite_output_dir=True, padding_free=True, report_to=["wandb"],
             use_liger_kernel=True, logging_strategy="steps", max_grad_norm=0.2, eval_strategy="no",
             dataset_mixture={"datasets": [{"id": "owner/a", "split": "pairs", "weight": 0.5}]}),
        ["lr_scheduler_kwargs"],
        {"model_name_or_path": "some/sft@it", "loss_type": ["apo_zero"], "report_to": ["wandb"],
         "max_grad_norm": 0.2, "run_name": "n"},
    ),
}  # fmt: skip
"""Name -> its keys, the keys without a counterpart, and some of what the rest becomes."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_theirs_converts_and_what_has_no_counterpart_is_listed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    sharegpt = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    marked = {"columns": {"messages": "messages", "kto_tag": "label"}, "tags": {"role_tag": "role"}}
    table = {
        "dpo_demo": {"file_name": "dpo.json", "ranking": True, **sharegpt},
        "kto_demo": {"file_name": "kto.json", "formatting": "sharegpt", **marked},
    }
    Path("data/dataset_info.json").write_text(json.dumps(table))
    theirs, refused, expected = EXAMPLES[name]
    Path("theirs.yaml").write_text(yaml.safe_dump(theirs, sort_keys=False))
    with pytest.raises(SystemExit) as end:
        main(["config", "convert", "theirs.yaml", "--json"])
    assert end.value.code == 0
    made = json.loads(capsys.readouterr().out)
    assert [line.partition(":")[0] for line in made["no_counterpart"]] == refused
    assert made["to_mend"] is None
    config = build(TrainConfig, made["values"], aliases=TRAIN_ALIASES).model_dump(mode="json")
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"columns": {"chosen": "good"}}, "chosen is good"),
        ({"columns": {"images": "images"}}, "columns has images"),
        ({"tags": {"role_tag": "who"}}, "role_tag is who"),
        ({"tags": {"function_tag": "call"}}, "tags has function_tag"),
        ({"num_samples": 5}, "max_samples"),
    ],
)
def test_an_entry_of_dataset_info_that_would_be_read_otherwise_is_refused(
    entry: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps({"demo": {"file_name": "x.json", **entry}}))
    (line,) = translate({"stage": "dpo", "model_name_or_path": "m", "dataset": "demo"}).refused
    assert named in line


@pytest.mark.parametrize(
    ("kind", "rl", "refused"),
    [
        ("chatml.intel", "dpo", False),
        ("llama3.prompt_pairs", "dpo", True),
        ("chatml.ultra", "dpo", False),
        ("chatml.ultra", "kto", True),
        ({"field_prompt": "prompt", "field_chosen": "chosen", "chosen_format": "{chosen}"}, "dpo", False),
        ({"field_prompt": "question"}, "dpo", True),
        ({"field_prompt": "prompt", "prompt_format": "Q: {prompt}"}, "dpo", True),
        ({"field_system": "system"}, "dpo", True),
    ],
)
def test_a_type_of_axolotls_that_means_other_text_is_refused(kind: Any, rl: str, refused: bool) -> None:
    made = translate({"base_model": "m", "rl": rl, "datasets": [{"path": "a.jsonl", "type": kind}]})
    assert bool(made.refused) == refused and made.values["dataset_name"] == "a.jsonl"


@pytest.mark.parametrize("tool", ["trl", "axolotl", "llama-factory"])
@pytest.mark.parametrize("value", ["text", 3, 0.5, True, [], ["a"], [[1]], {}, {"a": 1}, {"datasets": 3}])
def test_no_value_of_a_key_ends_in_a_traceback(tool: str, value: Any) -> None:
    for key in TOOLS[tool][0]:
        translate({"base_model": "m", "dataset_dir": "nowhere", key: value}, tool)
