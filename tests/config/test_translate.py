"""Configs of TRL, axolotl and LLaMA-Factory: read as ours with a note, or refused by the key that cannot."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tether.cli.main import main
from tether.config.aliases import TRAIN_ALIASES
from tether.config.foreign import is_ours
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.config.translate import TOOLS, in_our_keys, tool_of, translate
from tether.errors import UsageError

TRL = """
model_name_or_path: Qwen/Qwen3-0.6B
dataset_name: trl-lib/ultrafeedback_binarized
dataset_test_split: test
learning_rate: 5.0e-7
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
logging_steps: 25
eval_strategy: steps
eval_steps: 50
output_dir: Qwen3-DPO
no_remove_unused_columns: true
bf16: true
report_to: none
dataloader_num_workers: 4
optim: adamw_torch_fused
dtype: bfloat16
push_to_hub: false
use_peft: true
lora_r: 32
lora_alpha: 16
"""
"""The options of TRL's documented DPO example, as YAML."""

AXOLOTL = """
base_model: meta-llama/Meta-Llama-3-8B-Instruct
model_type: LlamaForCausalLM
special_tokens:
  pad_token: <|finetune_right_pad_id|>
chat_template: llama3
rl: dpo
rl_beta: 0.2
datasets:
  - path: pairs.jsonl
    ds_type: json
    type: chat_template.default
    field_messages: messages
val_set_size: 0.05
output_dir: ./out
sequence_len: 4096
sample_packing: false
adapter: lora
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_target_linear: true
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
"""
"""The keys of axolotl's documented LoRA DPO example."""

LLAMA_FACTORY = """
model_name_or_path: Qwen/Qwen3-4B
trust_remote_code: true
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
pref_beta: 0.1
pref_loss: sigmoid
dataset: dpo_demo
template: qwen3_nothink
cutoff_len: 2048
preprocessing_num_workers: 16
output_dir: saves/dpo
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
val_size: 0.1
"""
"""The keys of LLaMA-Factory's documented LoRA DPO example."""


def read(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


def resolved(values: dict[str, Any]) -> TrainConfig:
    return build(TrainConfig, values, aliases=TRAIN_ALIASES)


def test_a_trl_config_runs_as_it_is() -> None:
    made = in_our_keys({k: v for k, v in read(TRL).items() if k != "no_remove_unused_columns"}, "c.yaml")
    config = resolved(made.values)
    assert config.dataset_name == "trl-lib/ultrafeedback_binarized:train"
    assert config.eval_dataset_name == "trl-lib/ultrafeedback_binarized:test"
    assert (config.pairs_per_update, config.bf16, config.lora_alpha) == (16, True, 16)
    assert made.tool == "trl" and any("dataloader_num_workers" in line for line in made.ignored)


def test_a_key_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match="unknown key 'no_remove_unused_columns'"):
        resolved(in_our_keys(read(TRL), "c.yaml").values)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("push_to_hub", True, "nothing is uploaded"),
        ("use_weighting", True, "sampled alignment"),
        ("report_to", ["wandb", "swanlab"], "trackers are trackio, tensorboard, wandb, mlflow"),
        ("num_processes", 4, "torchrun"),
        ("deepspeed", "zero3.json", "torchrun"),
        ("fsdp", "full_shard", "torchrun"),
        ("fp16", True, "bf16"),
        ("optim", "adafactor", "AdamW"),
        ("max_prompt_length", 512, "keep_end"),
        ("neftune_noise_alpha", 5, "not offered"),
        ("dtype", "float16", "float16"),
        ("lr_scheduler_kwargs", {"min_lr": 1e-7}, "schedule"),
        ("dataset_train_split", "train_prefs", "files have no splits"),
        ("model_revision", "v1", "a folder has no revisions"),
        ("env", {"A": "1"}, "where you start the command"),
    ],
)
def test_a_trl_key_that_cannot_be_honoured_is_named_with_the_reason(key: str, value: Any, named: str) -> None:
    values = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o", key: value}
    with pytest.raises(UsageError) as refused:
        in_our_keys(values, "c.yaml")
    assert key in str(refused.value) and named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"use_weighting": False}, {}),
        ({"sync_ref_model": True}, {"reference": "moving"}),
        ({"sync_ref_model": False}, {}),
        ({"reference_free": True}, {"reference": "none"}),
        ({"rpo_alpha": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"use_cpu": True}, {"device": "cpu"}),
        ({"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ({"dtype": "bfloat16"}, {"bf16": True}),
        ({"test_split_size": 0.1}, {"eval_fraction": 0.1}),
        ({"attn_implementation": "flash_attention_2", "optim": "adamw_torch"}, {}),
        ({"attn_implementation": "eager", "no_cuda": False}, {"attn_implementation": "eager"}),
        (
            {"sync_ref_model": True, "ref_model_mixup_alpha": 0.4, "ref_model_sync_steps": 64},
            {"reference": "moving", "ref_model_mixup_alpha": 0.4, "ref_model_sync_steps": 64},
        ),
        (
            {"model_name_or_path": "owner/model", "model_revision": "v1"},
            {"model_name_or_path": "owner/model@v1"},
        ),
        ({"model_name_or_path": "owner/model"}, {"model_name_or_path": "owner/model"}),
        ({"model_name_or_path": ".", "model_revision": "main"}, {"model_name_or_path": "."}),
    ],
)
def test_trl_options_become_ours(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert translate(values, "trl").values == expected


def test_an_axolotl_config_becomes_ours() -> None:
    made = translate(read(AXOLOTL))
    assert made.tool == "axolotl" and made.refused == []
    config = resolved(made.values)
    assert (config.model_name_or_path, config.dataset_name, config.loss_type, config.beta) == (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "pairs.jsonl",
        ("sigmoid",),
        0.2,
    )
    assert (config.use_peft, config.lora_r, config.lora_target_modules) == (True, 32, ("all-linear",))
    assert (config.max_length, config.pairs_per_update, config.num_train_epochs) == (4096, 8, 4)
    assert (config.lr_scheduler_type, config.eval_strategy, config.bf16) == ("cosine", "steps", None)
    assert "rl_beta: 0.2 is read as beta: 0.2" in made.renamed
    assert any(line.startswith("special_tokens") for line in made.ignored)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rl": "kto", "kto_desirable_weight": 0.5}, {"loss_type": "kto", "desirable_weight": 0.5}),
        ({"rl": "orpo", "orpo_alpha": 0.3, "rl_beta": None}, {"loss_type": "orpo", "beta": 0.3}),
        ({"rl": "dpo", "dpo_loss_type": ["ipo"]}, {"loss_type": ["ipo"]}),
        ({"rl": True}, {"loss_type": "sigmoid"}),
        ({"adapter": "qlora", "load_in_4bit": True}, {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        ({"bf16": False}, {"bf16": False}),
        ({"lora_target_modules": ["q_proj"]}, {"lora_target_modules": ["all-linear"]}),
        (
            {"lora_target_modules": ["q_proj"], "lora_target_linear": None},
            {"lora_target_modules": ["q_proj"]},
        ),
        ({"attn_implementation": "flash_attention_2"}, {"attn_implementation": None}),
        ({"excess_length_strategy": "truncate"}, {"truncation_mode": "keep_start"}),
        ({"excess_length_strategy": None}, {"truncation_mode": "drop"}),
        ({"val_set_size": 200}, {"eval_rows": 200}),
        ({"evals_per_epoch": 1, "saves_per_epoch": 2}, {"eval_strategy": "epoch", "save_steps": 1 / 8}),
        ({"evals_per_epoch": 0}, {"eval_strategy": "no"}),
        ({"evals_per_epoch": 4, "num_epochs": 0.2}, {"eval_strategy": "epoch"}),
        ({"evals_per_epoch": 4, "val_set_size": 0}, {"eval_strategy": None}),
        ({"curriculum_sampling": True}, {"train_sampling_strategy": "sequential"}),
        ({"peft_init_lora_weights": "pissa"}, {"init_lora_weights": "pissa"}),
        (
            {"wandb_project": "p", "wandb_name": "n", "use_tensorboard": True},
            {"report_to": ["wandb", "tensorboard"], "project": "p", "run_name": "n"},
        ),
        ({"relora": False, "dp_shard_size": 1, "wandb_entity": "me"}, {"beta": 0.2}),
        ({"revision_of_model": "v1"}, {"model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct@v1"}),
        ({"trl": {"beta": 0.2}}, {"beta": 0.2}),
        ({"shuffle_merged_datasets": False}, {"train_sampling_strategy": "sequential"}),
        (
            {
                "datasets": [
                    {"path": "a/b", "split": "train_prefs", "type": "chatml.ultra"},
                    {"path": "c.jsonl"},
                ]
            },
            {"dataset_name": ["a/b:train_prefs", "c.jsonl"]},
        ),
        ({"datasets": [{"path": "json", "data_files": "x.jsonl"}]}, {"dataset_name": "x.jsonl"}),
        ({"test_datasets": [{"path": "held.jsonl"}]}, {"eval_dataset_name": "held.jsonl"}),
    ],
)
def test_axolotl_options_become_ours(change: dict[str, Any], expected: dict[str, Any]) -> None:
    made = translate({**read(AXOLOTL), **change})
    assert made.refused == []
    assert {key: made.values.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rl": "grpo"}, "rl: grpo"),
        ({"datasets": [{"path": "a.jsonl", "field_chosen": "good"}]}, "rename it to chosen"),
        ({"datasets": [{"path": "a.jsonl", "split": "test"}]}, "no split test"),
        ({"plugins": ["my.plugin"]}, "my.plugin"),
        ({"train_on_inputs": True}, "never scored"),
        ({"deepspeed": "z.json"}, "torchrun"),
        ({"lora_model_dir": "old"}, "model_name_or_path"),
        ({"dpo_beta": 0.7}, "another key says beta"),
        ({"relora": True}, "relora: true: not known here"),
        ({"rl_bete": 0.1}, "did you mean rl_beta?"),
        ({"dp_shard_size": 2}, "torchrun"),
        ({"excess_length_strategy": "raise"}, "tether check --max-length"),
    ],
)
def test_axolotl_keys_without_a_counterpart_are_named(change: dict[str, Any], named: str) -> None:
    (line,) = translate({**read(AXOLOTL), **change}).refused
    assert named in line


def test_what_a_tool_does_unasked_is_written_down() -> None:
    short = {
        k: v for k, v in read(AXOLOTL).items() if k not in ("num_epochs", "sequence_len", "lr_scheduler")
    }
    made = translate(short)
    assert (made.values["num_train_epochs"], made.values["max_length"]) == (1, 512)
    assert "num_epochs: 1 is read as num_train_epochs: 1 (axolotl's default)" in made.renamed
    bare = translate({"stage": "dpo", "model_name_or_path": "m", "dataset": "rows.jsonl"})
    assert bare.values["lora_alpha"] == 16 and bare.values["lora_r"] == 8


def test_a_llama_factory_config_becomes_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    table = {"dpo_demo": {"file_name": "demo.json", "ranking": True}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(table))
    made = translate(read(LLAMA_FACTORY))
    assert made.tool == "llama-factory" and made.refused == []
    config = resolved(made.values)
    assert config.dataset_name == "data/demo.json"
    assert (config.lora_r, config.lora_alpha, config.lora_target_modules) == (8, 16, ("q_proj", "v_proj"))
    assert (config.beta, config.max_length, config.eval_fraction, config.loss_type) == (
        0.1,
        2048,
        0.1,
        ("sigmoid",),
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stage": "kto", "kto_chosen_weight": 2}, {"loss_type": "kto", "desirable_weight": 2}),
        ({"stage": "sft", "pref_loss": None}, {"loss_type": "sft", "score_turns": "all"}),
        (
            {"stage": "sft", "mask_history": True, "pref_loss": None},
            {"loss_type": "sft", "score_turns": "last"},
        ),
        ({"pref_loss": "simpo"}, {"loss_type": "simpo"}),
        ({"pref_ftx": 0.2}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}),
        ({"ref_model": "big"}, {"reference": "model:big"}),
        ({"lora_target": "all"}, {"lora_target_modules": ["all-linear"]}),
        ({"early_stopping_steps": 3}, {"early_stopping_patience": 3}),
        ({"disable_shuffling": True}, {"train_sampling_strategy": "sequential"}),
        ({"quantization_bit": 4}, {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        ({"quantization_bit": 4, "double_quantization": False}, {"use_bnb_nested_quant": False}),
        ({"quantization_bit": 8}, {"load_in_8bit": True}),
        ({"lora_alpha": 64}, {"lora_alpha": 64}),
        ({"max_samples": 1000}, {"max_samples": 1000}),
        ({"val_size": 100}, {"eval_rows": 100}),
    ],
)
def test_llama_factory_options_become_ours(
    change: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    values = {
        k: v for k, v in {**read(LLAMA_FACTORY), "dataset": str(rows), **change}.items() if v is not None
    }
    made = translate(values)
    assert made.refused == []
    assert {key: made.values.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stage": "ppo"}, "dpo, kto and sft"),
        ({"finetuning_type": "freeze"}, "lora and full"),
        ({"pref_loss": "kto_pair"}, "sigmoid, hinge"),
        ({"enable_thinking": False}, "chat_template_kwargs"),
        ({"use_badam": True}, "AdamW"),
        ({"oft_rank": 8}, "not known here"),
        ({"dataset": "nowhere_demo"}, "dataset_info.json"),
        ({"val_size": "a tenth"}, "cannot have such a value"),
    ],
)
def test_llama_factory_keys_without_a_counterpart_are_named(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    (line,) = translate({**read(LLAMA_FACTORY), "dataset": str(rows), **change}).refused
    assert named in line


def test_the_tool_is_seen_by_its_keys() -> None:
    assert [tool_of(read(text)) for text in (TRL, AXOLOTL, LLAMA_FACTORY)] == list(TOOLS)
    ours = {"model": "m", "data": "d.jsonl", "output_dir": "o", "beta": 0.1}
    assert (translate(ours).tool, translate(ours).values) == ("tether", ours)


def test_sources_with_weights_are_names_and_weights() -> None:
    base = {"model": "m", "output_dir": "o"}
    entries = [{"path": "a.jsonl", "weight": 2}, {"path": "org/set", "split": "train_prefs"}, "b.jsonl"]
    config = resolved({**base, "dataset_name": entries})
    assert config.dataset_name == ("a.jsonl", "org/set:train_prefs", "b.jsonl")
    assert config.dataset_weights == (2.0, 1.0, 1.0)
    again = config.model_dump(mode="json", exclude_none=True)
    assert TrainConfig.model_validate(again) == config
    with pytest.raises(UsageError, match="2 values for 1 data sources"):
        resolved({**base, "data": "a.jsonl", "dataset_weights": [1, 2]})
    with pytest.raises(UsageError, match="an entry has the key 'wieght'"):
        resolved({**base, "dataset_name": [{"path": "a.jsonl", "wieght": 2}]})


def test_config_convert_writes_our_yaml_and_lists_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = tmp_path / "axolotl.yml", tmp_path / "ours.yaml"
    theirs.write_text(AXOLOTL + "load_in_8bit: true\ndeepspeed: zero3.json\n")
    with pytest.raises(SystemExit) as end:
        main(["config", "convert", str(theirs), "--out", str(ours)])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert not out and "no counterpart:" in err and "deepspeed: zero3.json" in err
    assert max(map(len, err.splitlines())) <= 80
    text = ours.read_text()
    assert "# no counterpart: deepspeed" in text
    assert resolved(yaml.safe_load(text)).beta == 0.2
    with pytest.raises(SystemExit) as end:
        main(["config", "convert", str(theirs), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["tool"] == "axolotl" and document["values"]["beta"] == 0.2


@pytest.mark.parity
def test_every_field_of_trls_configs_is_ours_or_has_a_rule() -> None:
    from trl import DPOConfig, KTOConfig, ModelConfig, ScriptArguments
    from trl.scripts.utils import DatasetMixtureConfig

    rules, _ = TOOLS["trl"]
    unset = (None, dataclasses.MISSING)
    for kind in (DPOConfig, KTOConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig):
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        assert [name for name in fields if not is_ours(name) and name not in rules] == []
        made = translate({name: value for name, value in fields.items() if value not in unset}, "trl")
        assert made.refused == []


def changed(default: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return [*default, "x"] if isinstance(default, list) else "x"


@pytest.mark.parity
def test_no_field_of_a_dpo_config_is_lost_in_silence() -> None:
    from trl import DPOConfig

    base = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "o"}
    for field in dataclasses.fields(DPOConfig):
        value = changed(field.default)
        made = translate({**base, field.name: value}, "trl")
        told = [*made.renamed, *made.ignored, *made.refused]
        mapped = made.values.get(field.name) == value
        assert mapped or any(line.startswith(f"{field.name}: ") for line in told), field.name
        if made.refused:
            continue
        try:
            resolved(made.values)
        except UsageError as refusal:
            assert TRAIN_ALIASES.get(field.name, field.name) in str(refusal), (field.name, str(refusal))
