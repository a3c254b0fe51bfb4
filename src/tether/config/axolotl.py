"""Axolotl's configs (`axolotl train c.yml`) in our keys."""

from collections.abc import Mapping
from typing import Any

from tether.config import trl
from tether.config.foreign import NoCounterpart, Rule, Values, no_effect, no_effects, only, read_as
from tether.config.sources import is_hub_name, with_split

LOSSES = {
    "dpo": "sigmoid",
    "True": "sigmoid",
    "ipo": "ipo",
    "kto": "kto",
    "orpo": "orpo",
    "simpo": "simpo",
}
DEFAULTS = {"num_epochs": 1, "sequence_len": 512, "lr_scheduler": "cosine", "micro_batch_size": 1,
            "excess_length_strategy": "drop"}  # fmt: skip
"""What axolotl does where a key is left out, and we would do something else."""

_COLUMNS = {
    "field_messages": "messages",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_prompt": "prompt",
    "field_tools": "tools",
}
_FREE = ("type", "ds_type", "roles", "message_property_mappings", "message_field_role", "chat_template",
         "message_field_content", "roles_to_train", "train_on_eos", "trust_remote_code")  # fmt: skip


def objective(value: Any, values: Values) -> dict[str, Any]:
    """`rl`, with `dpo_loss_type` where that says more."""
    loss = LOSSES.get(str(value))
    if loss is None:
        raise NoCounterpart(f"only {', '.join(k for k in LOSSES if k != 'True')} or no rl (SFT) can be done")
    return {} if values.get("dpo_loss_type") else {"loss_type": loss}


def sources(value: Any, values: Values) -> dict[str, Any]:
    """`datasets`: a list of paths or hub names, each with a type; the type follows from the columns."""
    entries = value if isinstance(value, list) else [value]
    named = [_source(entry) for entry in entries]
    found = {"dataset_name": named[0] if len(named) == 1 else named}
    for entry in entries:
        if problem := _other_text(entry.get("type"), values.get("rl")):
            raise NoCounterpart(problem, found)
    return found


def held_out(value: Any, values: Values) -> dict[str, Any]:
    """`test_datasets`: one of them."""
    named = sources(value, values)["dataset_name"]
    if not isinstance(named, str):
        raise NoCounterpart("one held-out data set can be named; put the rows into one file")
    return {"eval_dataset_name": named}


def _other_text(kind: Any, rl: Any) -> str | None:
    """Return why rows of this `type` would be read as other text here, or None."""
    if isinstance(kind, Mapping):
        columns = {f"field_{name}": name for name in ("prompt", "chosen", "rejected", "completion", "label")}
        usual = {**columns, **{f"{name}_format": f"{{{name}}}" for name in columns.values()}}
        strange = [key for key, text in kind.items() if text is not None and usual.get(key) != text]
        return f"type: {strange[0]}: {kind[strange[0]]} cannot be honoured" if strange else None
    plain = ("prompt_pairs", "ultra") if str(rl) == "kto" else ("prompt_pairs",)
    if str(kind).rpartition(".")[2] not in plain:
        return None
    return f"{kind} puts plain texts into a chat template; here texts are read as they are, write messages"


def _source(entry: Any) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise NoCounterpart("each entry needs a path")
    for key, value in entry.items():
        usual = _COLUMNS.get(key)
        if (
            usual is not None
            and value not in (usual, None)
            and not (key == "field_messages" and value == "conversation")
        ):
            raise NoCounterpart(f"{key} is {value}: columns are recognised by name; rename it to {usual}")
        if usual is None and key not in (*_FREE, "path", "split", "name", "data_files"):
            raise NoCounterpart(f"{key} cannot be honoured; prepare the rows first")
    files = entry.get("data_files")
    if files:
        if not isinstance(files, str) and len(files) != 1:
            raise NoCounterpart("name each file as an entry of its own")
        return files if isinstance(files, str) else files[0]
    path, split = entry["path"], entry.get("split")
    if is_hub_name(path):
        return with_split(path, entry.get("name"), split or "train")
    if split not in (None, "train"):
        raise NoCounterpart(f"a file has no split {split}; name the file of that split")
    return path


def adapter(value: Any, values: Values) -> dict[str, Any]:
    """LoRA, or QLoRA's 4 bits with it."""
    if value == "lora":
        return {"use_peft": True}
    if value == "qlora":
        # It quantises the scales too, unasked.
        return {"use_peft": True, "load_in_4bit": True, "use_bnb_nested_quant": True}
    raise NoCounterpart("lora, qlora or full tuning can be done")


def all_linear(value: Any, values: Values) -> dict[str, Any]:
    """Every linear layer."""
    return {"lora_target_modules": ["all-linear"]} if value else {}


def targets(value: Any, values: Values) -> dict[str, Any] | str:
    """`lora_target_modules`, which `lora_target_linear` adds every linear layer to."""
    if values.get("lora_target_linear"):
        return "lora_target_linear names them all"
    return {"lora_target_modules": value}


def begins(value: Any, values: Values) -> dict[str, Any] | str:
    """`peft_init_lora_weights`: how the adapter starts."""
    if value is True:
        return "is what happens anyway"
    if value in ("gaussian", "pissa"):
        return {"init_lora_weights": value}
    raise NoCounterpart("default, gaussian and pissa can be had")


def too_long(value: Any, values: Values) -> dict[str, Any]:
    """`excess_length_strategy`: rows over the limit are dropped, unless told to cut their answers."""
    if value not in ("drop", "truncate"):
        raise NoCounterpart("drop and truncate can be had; tether check --max-length lists the rows")
    return {"truncation_mode": "drop" if value == "drop" else "keep_start"}


def trackers(value: Any, values: Values) -> dict[str, Any]:
    """Trackers, switched on by their own key or by a project's name."""
    wanted = {
        "wandb": values.get("use_wandb") or values.get("wandb_project"),
        "mlflow": values.get("use_mlflow") or values.get("mlflow_experiment_name"),
        "tensorboard": values.get("use_tensorboard"),
        "trackio": values.get("use_trackio"),
    }
    named = [name for name, on in wanted.items() if on]
    return {"report_to": named} if named else {}


def project(value: Any, values: Values) -> dict[str, Any]:
    """Name the project; the name alone switches some trackers on."""
    return {**trackers(value, values), "project": value} if value else {}


def half(value: Any, values: Values) -> dict[str, Any] | str:
    """`auto` is what is done anyway."""
    if value in ("auto", "full"):
        return "is what happens anyway" if value == "auto" else {"bf16": True}
    return {"bf16": bool(value)}


def checkpointing(value: Any, values: Values) -> dict[str, Any]:
    """Recompute activations; where they are offloaded to is not."""
    return {"gradient_checkpointing": bool(value)}


def per_epoch(strategy: str, steps: str) -> Rule:
    """`evals_per_epoch`, `saves_per_epoch`: so many in each, as a share of all updates."""

    def rule(value: Any, values: Values) -> dict[str, Any] | str:
        held_out = values.get("val_set_size") or values.get("test_datasets")
        if strategy == "eval_strategy" and value and not held_out:
            return "no rows are held out (val_set_size, test_datasets)"
        looks = value * (values.get("num_epochs") or DEFAULTS["num_epochs"]) if value else 0
        if value == 1 or 0 < looks <= 1:
            return {strategy: "epoch"}
        return {strategy: "steps", steps: 1 / looks} if value else {strategy: "no"}

    return rule


def shuffled(value: Any, values: Values) -> dict[str, Any]:
    """Whether rows are shuffled."""
    return {} if value else {"train_sampling_strategy": "sequential"}


def nested(value: Any, values: Values) -> dict[str, Any]:
    """Read beta from the `trl` section; nothing else there is for offline training."""
    more = {k: v for k, v in value.items() if v is not None and k != "beta"}
    if more:
        raise NoCounterpart(f"{', '.join(more)}: of this section only beta is read")
    return {"beta": value["beta"]} if value.get("beta") is not None else {}


def plugins(value: Any, values: Values) -> str:
    """Kernels change nothing, a tracker has its own key; anything else might."""
    known = ("liger", "cut_cross_entropy", "integrations.kernels", "swanlab")
    strange = [name for name in value or [] if not any(part in str(name).lower() for part in known)]
    if strange:
        raise NoCounterpart(f"{strange[0]} is code of another trainer")
    return trl.SPEED


OWN_TEXT = "the model's own tokenizer and template are used, unchanged"
ADAPTER_FOLDER = "name the adapter's folder as model_name_or_path"

RULES: dict[str, Rule] = {
    **trl.RULES,
    "base_model": trl.start_model,
    "revision_of_model": trl.revision,
    "rl": objective,
    "dpo_loss_type": read_as("loss_type"),
    "dpo_loss_weights": read_as("loss_weights"),
    "rl_beta": read_as("beta"),
    "dpo_beta": read_as("beta"),
    "orpo_alpha": read_as("beta"),
    "trl": nested,
    "dpo_label_smoothing": read_as("label_smoothing"),
    "dpo_use_weighting": trl.weighting,
    "kto_desirable_weight": read_as("desirable_weight"),
    "kto_undesirable_weight": read_as("undesirable_weight"),
    "datasets": sources,
    "test_datasets": held_out,
    "val_set_size": trl.held_out,
    "sequence_len": read_as("max_length"),
    "adapter": adapter,
    "lora_target_linear": all_linear,
    "peft_use_rslora": read_as("use_rslora"),
    "peft_use_dora": read_as("use_dora"),
    "micro_batch_size": read_as("per_device_train_batch_size"),
    "batch_size": read_as("train_batch_size"),
    "num_epochs": read_as("num_train_epochs"),
    "lr_scheduler": read_as("lr_scheduler_type"),
    "optimizer": trl.optimizer,
    "bf16": half,
    "bfloat16": half,
    "gradient_checkpointing": checkpointing,
    "evals_per_epoch": per_epoch("eval_strategy", "eval_steps"),
    "saves_per_epoch": per_epoch("save_strategy", "save_steps"),
    "shuffle_merged_datasets": shuffled,
    "curriculum_sampling": trl.in_order,
    "lora_target_modules": targets,
    "peft_init_lora_weights": begins,
    "excess_length_strategy": too_long,
    "use_wandb": trackers,
    "use_mlflow": trackers,
    "use_tensorboard": trackers,
    "use_trackio": trackers,
    "use_swanlab": only(False, why=trl.ONLY_TRACKERS),
    "use_comet": only(False, why=trl.ONLY_TRACKERS),
    "use_otel_metrics": only(False, why=trl.ONLY_TRACKERS),
    "wandb_project": project,
    "mlflow_experiment_name": project,
    "trackio_project_name": project,
    "wandb_name": read_as("run_name"),
    "mlflow_run_name": read_as("run_name"),
    "trackio_run_name": read_as("run_name"),
    "dataset_exact_deduplication": only(False, why="tether check lists equal rows; take them out yourself"),
    "dp_shard_size": only(1, why=trl.DEVICES),
    "dp_replicate_size": only(1, why=trl.DEVICES),
    "tensor_parallel_size": only(1, why=trl.DEVICES),
    "context_parallel_size": only(1, why=trl.DEVICES),
    "sequence_parallel_degree": only(1, why=trl.DEVICES),
    "dpo_generate_during_eval": no_effect(trl.OURS),
    **no_effects(
        "a loss that is NaN or infinite ends the run; no other limit is set",
        "loss_watchdog_threshold",
        "loss_watchdog_patience",
    ),
    **no_effects("log in with hf auth login", "hf_use_auth_token"),
    "plugins": plugins,
    "cosine_min_lr_ratio": only(0, why="no schedule with a floor is offered; leave the key out"),
    "train_on_inputs": only(False, why="prompts are never scored; leave the key out"),
    "lora_model_dir": only("", why=ADAPTER_FOLDER),
    "chat_template_jinja": only("", why="set the template in the tokenizer's folder"),
    "float16": only(False, why="half precision is bf16: true here"),
    "fp8": only(False, why="half precision is bf16: true here"),
    "max_prompt_len": trl.prompt_length,
    **no_effects(
        OWN_TEXT,
        "model_type",
        "tokenizer_type",
        "tokenizer_config",
        "base_model_config",
        "special_tokens",
        "chat_template",
        "is_llama_derived_model",
        "is_mistral_derived_model",
        "is_falcon_derived_model",
        "is_qwen_derived_model",
        "tokenizer_use_fast",
        "default_system_message",
        "eot_tokens",
    ),
    **no_effects(
        trl.SPEED,
        "sample_packing",
        "eval_sample_packing",
        "pad_to_sequence_len",
        "flash_attention",
        "xformers_attention",
        "sdp_attention",
        "flex_attention",
        "eager_attention",
        "eval_batch_size",
        "dataset_prepared_path",
        "dataset_processes",
        "skip_prepare_dataset",
        "dataset_keep_in_memory",
        "lora_mlp_kernel",
        "lora_qkv_kernel",
        "lora_o_kernel",
        "lora_fan_in_fan_out",
        "gc_steps",
        "low_cpu_mem_usage",
        "dpo_use_logits_to_keep",
        "dpo_use_liger_kernel",
        "dpo_padding_free",
        "gc_collect_steps",
        "sdpa_varlen",
        "flash_attn_cross_entropy",
        "flash_attn_rms_norm",
        "flash_attn_fuse_mlp",
        "chunked_cross_entropy",
        "tiled_mlp",
        "use_kernels",
        "use_scattermoe",
        "use_sonicmoe",
        "experimental_skip_move_to_device",
        "lora_on_cpu",
        "lora_embedding_kernel",
        "sample_packing_bin_size",
        "sample_packing_group_size",
        "sample_packing_eff_est",
        "sample_packing_sequentially",
        "device_map",
    ),
    "fsdp_version": no_effect("read together with fsdp_config"),
    **no_effects(
        trl.LOGS,
        *(f"swanlab_{name}" for name in ("project", "experiment_name", "description", "mode", "workspace")),
        *(f"swanlab_{name}" for name in ("api_key", "log_model", "web_host", "api_host")),
        *(f"swanlab_{name}" for name in ("lark_webhook_url", "lark_secret", "log_completions")),
        *(f"swanlab_{name}" for name in ("completion_log_interval", "completion_max_buffer")),
        *(f"comet_{name}" for name in ("api_key", "workspace", "project_name", "experiment_key")),
        *(f"comet_{name}" for name in ("mode", "online", "experiment_config")),
        "otel_metrics_host",
        "otel_metrics_port",
        "wandb_entity",
        "wandb_watch",
        "wandb_run_id",
        "wandb_mode",
        "wandb_log_model",
        "mlflow_tracking_uri",
        "eval_table_size",
        "eval_max_new_tokens",
        "profiler_steps",
    ),
    "strict": no_effect("unknown keys are always refused"),
    "auto_resume_from_checkpoints": no_effect("a run folder resumes by itself"),
}
