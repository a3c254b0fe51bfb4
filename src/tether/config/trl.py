"""TRL's configs: `DPOConfig`, `ModelConfig`, `ScriptArguments` of 1.16, and keys of older versions."""

from collections.abc import Mapping
from typing import Any

from tether.config.foreign import (
    NoCounterpart,
    Rule,
    Values,
    no_effect,
    no_effects,
    only,
    only_unset,
    read_as,
)
from tether.config.sources import is_hub_name, model_name, with_split
from tether.config.train import TRACKERS

OURS = "tether train does this by itself"
LOGS = "what is logged is the run's metrics.jsonl"
LOADER = "rows are in memory; there is no loader to tune"
SPEED = "speed and memory only, arranged otherwise here"
UPLOAD = "nothing is uploaded"
DEVICES = "start the same command with torchrun instead"
ONLY_TRACKERS = f"trackers are {', '.join(TRACKERS)}: report_to; metrics.jsonl has every number"

ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
SMALL_ADAMW = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adamw_torch_8bit",
               "adamw_torch_4bit", "paged_adamw", "ademamix_8bit")  # fmt: skip


def optimizer(value: Any, values: Values) -> str:
    """AdamW with fp32 state is the only optimiser; its smaller kin give about the same numbers."""
    if value in ADAMW:
        return "is what happens anyway"
    if value in SMALL_ADAMW:
        return "AdamW with 32-bit state is used: more memory, no rounding of the state"
    raise NoCounterpart("AdamW is the only optimiser; leave the key out")


def precision(value: Any, values: Values) -> dict[str, Any] | str:
    """Read the precision of weights; compute in bf16 is `bf16`."""
    name = str(value).removeprefix("torch.")
    if name in ("auto", "float32"):
        return "weights are fp32; compute is bf16 with bf16: true"
    if name == "bfloat16":
        return {} if values.get("bf16") is True else {"bf16": True}
    raise NoCounterpart("float16 is not offered; use bf16: true, or leave the key out")


def attention(value: Any, values: Values) -> dict[str, Any] | str:
    """Kernels of attention: sdpa and eager can be had, as the layout of the inputs asks."""
    if value in ("sdpa", "eager"):
        return {"attn_implementation": value}
    return "speed only; sdpa or eager is used, with inputs laid out here"


def use_cpu(value: Any, values: Values) -> dict[str, Any]:
    """`use_cpu: true` is `device: cpu`."""
    return {"device": "cpu"} if value else {}


def weighting(value: Any, values: Values) -> dict[str, Any]:
    """WPO's weights: TRL's are others than those offered here."""
    if not value:
        return {}
    raise NoCounterpart(
        "TRL's weight (sampled alignment) is not offered; the plain one is wpo_weighting: mean_probability",
        {"wpo_weighting": "mean_probability"},
    )


def moving(value: Any, values: Values) -> dict[str, Any]:
    """TR-DPO's reference."""
    return {"reference": "moving"} if value else {}


def reference_free(value: Any, values: Values) -> dict[str, Any]:
    """Read a reference of zero for every text."""
    return {"reference": "none"} if value else {}


def sft_addend(value: Any, values: Values) -> dict[str, Any]:
    """`rpo_alpha` is an addend of the chosen text's likelihood."""
    if not value:
        return {}
    loss = values.get("loss_type", "sigmoid")
    names = [loss] if isinstance(loss, str) else list(loss)
    return {"loss_type": [*names, "sft"], "loss_weights": [1.0] * len(names) + [float(value)]}


def start_model(value: Any, values: Values) -> dict[str, Any]:
    """Read a model by folder, or by hub name with its revision."""
    revision = values.get("model_revision", values.get("revision_of_model"))
    named = model_name(value) if isinstance(value, str) else None
    apart = named is not None and named.revision is None and revision is not None
    return {"model_name_or_path": f"{value}@{revision}" if apart else value}


def revision(value: Any, values: Values) -> str:
    """Leave a revision to the name it belongs to."""
    name = values.get("model_name_or_path", values.get("base_model"))
    if isinstance(name, str) and model_name(name) is not None:
        return "read together with the model's name"
    if value == "main":
        return "is what happens anyway"
    raise NoCounterpart("a folder has no revisions; leave the key out")


def dataset(value: Any, values: Values) -> dict[str, Any]:
    """Read a data set by path or hub name, with its configuration and splits."""
    if not isinstance(value, str) or not is_hub_name(value):
        return {"dataset_name": value}
    config = values.get("dataset_config")
    found = {"dataset_name": with_split(value, config, values.get("dataset_train_split", "train"))}
    evaluates = values.get("eval_strategy", values.get("evaluation_strategy", "no")) != "no"
    if evaluates and "eval_dataset_name" not in values:
        found["eval_dataset_name"] = with_split(value, config, values.get("dataset_test_split", "test"))
    return found


def split_of_dataset(value: Any, values: Values) -> str:
    """Leave splits to the name they belong to."""
    name = values.get("dataset_name")
    if isinstance(name, str) and is_hub_name(name):
        return "read together with dataset_name"
    if value in ("train", "test", "default"):
        return "files have no splits; name held-out rows with eval_dataset_name"
    raise NoCounterpart("files have no splits; name the file of this split in dataset_name")


def data_mix(value: Any, values: Values) -> dict[str, Any]:
    """TRL's `datasets`: a list of sources."""
    return {"dataset_name": value}


def handbook_mix(value: Any, values: Values) -> dict[str, Any]:
    """`dataset_mixture` of the alignment handbook: data sets of the hub with weights, and a held-out part."""
    entries = value.get("datasets") if isinstance(value, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and e.get("id") for e in entries):
        raise NoCounterpart("datasets: a list of entries with an id is expected in it")
    named: list[dict[str, Any]] = []
    for entry in entries:
        weight = entry.get("weight")
        config = {"name": entry["config"]} if entry.get("config") else {}
        named.append(
            {
                "path": entry["id"],
                **config,
                "split": entry.get("split") or "train",
                **({} if weight is None else {"weight": weight}),
            }
        )
    found: dict[str, Any] = {"dataset_name": named}
    return {**found, **held_out(value.get("test_split_size"), values)}


def held_out(value: Any, values: Values) -> dict[str, Any]:
    """Read how much is held out: below 1 a share, else a number of rows."""
    if not value:
        return {}
    return {"eval_fraction": value} if value < 1 else {"eval_rows": int(value)}


def in_order(value: Any, values: Values) -> dict[str, Any]:
    """Return rows in the order of the file, where the other tools' switch for it is on."""
    return {"train_sampling_strategy": "sequential"} if value else {}


def trackers(value: Any, values: Values) -> dict[str, Any]:
    """`report_to`: the trackers there are; others have no counterpart."""
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    known = [name for name in names if name in (*TRACKERS, "none")]
    if len(known) < len(names):
        raise NoCounterpart(ONLY_TRACKERS, {"report_to": known} if known else {})
    return {"report_to": value}


def prompt_length(value: Any, values: Values) -> str:
    """Lengths of prompt and completion apart."""
    raise NoCounterpart(
        "only prompt + completion is bounded: use max_length, and truncation_mode: keep_end to cut prompts"
    )


RULES: dict[str, Rule] = {
    **no_effects(
        LOGS,
        *("logging_strategy", "logging_first_step", "logging_dir", "log_on_each_node", "log_level"),
        *("log_level_replica", "disable_tqdm", "run_name", "project", "trackio_space_id"),
        *("trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
        *("include_tokens_per_second", "skip_memory_metrics", "debug", "plot_loss"),
    ),
    **no_effects(
        LOADER,
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
        *("remove_unused_columns", "label_names", "length_column_name", "dataset_num_proc"),
        *("preprocessing_num_workers", "dataset_streaming", "streaming", "group_by_length"),
    ),
    **no_effects(
        SPEED,
        *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "torch_compile"),
        *("torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "liger_kernel_config"),
        *("use_liger_loss", "use_cache", "torch_empty_cache_steps", "auto_find_batch_size", "padding_free"),
        *("pad_to_multiple_of", "precompute_ref_batch_size", "activation_offloading", "tf32"),
        *("per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches"),
        *("eval_use_gather_object", "include_for_metrics", "batch_eval_metrics", "prediction_loss_only"),
        *("use_logits_to_keep", "average_tokens_across_devices"),
    ),
    **no_effects(
        DEVICES + "; what one process alone would do is done",
        *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
        *("ddp_backend", "ddp_timeout", "local_rank", "accelerator_config", "ignore_bias_buffers"),
    ),
    **no_effects(
        OURS,
        *("do_train", "do_eval", "do_predict", "eval_on_start", "logging_nan_inf_filter", "save_safetensors"),
        *("precompute_ref_log_probs", "generate_during_eval", "save_on_each_node", "enable_jit_checkpoint"),
        *("restore_callback_states_from_checkpoint", "lora_task_type", "full_determinism", "pad_token"),
        *("label_pad_token_id", "padding_value", "is_encoder_decoder", "save_only_model"),
    ),
    **no_effects(
        UPLOAD,
        *(
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "hub_model_revision",
        ),
    ),
    "resume_from_checkpoint": no_effect("a run folder resumes by itself"),
    "overwrite_output_dir": no_effect("an existing run folder is resumed, or refused"),
    "trust_remote_code": no_effect("code that comes with a model is never run"),
    "evaluation_strategy": read_as("eval_strategy"),
    "attn_implementation": attention,
    "chat_template": only("", why="set the template in the tokenizer's folder"),
    "env": only({}, why="set environment variables where you start the command"),
    "optim": optimizer,
    "dtype": precision,
    "torch_dtype": precision,
    "use_cpu": use_cpu,
    "no_cuda": use_cpu,
    "use_weighting": weighting,
    "sync_ref_model": moving,
    "reference_free": reference_free,
    "rpo_alpha": sft_addend,
    "dataset_name": dataset,
    "datasets": data_mix,
    "dataset_mixture": handbook_mix,
    "dataset_mixer": only({}, why="name each in dataset_name: [{path, split, weight}]"),
    "dataset_splits": only([], why="name them in dataset_name: [{path, split, weight}]"),
    "report_to": trackers,
    "dataset_config": split_of_dataset,
    "dataset_train_split": split_of_dataset,
    "dataset_test_split": split_of_dataset,
    "test_split_size": held_out,
    "max_prompt_length": prompt_length,
    "max_completion_length": prompt_length,
    "max_target_length": prompt_length,
    "eval_delay": only(0, why="evaluation begins at step 0; leave the key out"),
    "label_smoothing_factor": only(0, why="use label_smoothing"),
    "model_name_or_path": start_model,
    "model_revision": revision,
    "alpha": only(0, why="AlphaPO's alpha is alphapo_alpha, with loss_type: alphapo"),
    **only_unset("half precision is bf16: true here", "fp16", "fp16_full_eval", "bf16_full_eval"),
    **only_unset("not offered; leave the key out", "neftune_noise_alpha", "router_aux_loss_coef"),
    **only_unset("not offered; leave the key out", "optim_args", "optim_target_modules"),
    **only_unset("no schedule with options is offered", "lr_scheduler_kwargs"),
    **only_unset("the last update of an epoch is smaller, never dropped", "dataloader_drop_last"),
    **only_unset("a resumed run continues its data order", "ignore_data_skip"),
    **only_unset(UPLOAD + "; leave the key out", "push_to_hub"),
    "num_processes": only(1, why=DEVICES),
    "accelerate_config": only("single_gpu", why=DEVICES),
    **only_unset(DEVICES, "fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
    **only_unset("not offered; load the model yourself and call tether.train", "model_init_kwargs"),
    **only_unset("LoRA goes on linear layers only", "lora_target_parameters", "lora_modules_to_save"),
    "bnb_4bit_quant_storage": only("uint8", "", why="4-bit numbers are stored as uint8; leave the key out"),
    **only_unset(
        "name the reference with reference: model:PATH", "ref_model_init_kwargs", "force_use_ref_model"
    ),
    **only_unset("name the adapter's folder as model_name_or_path", "model_adapter_name", "ref_adapter_name"),
}
"""Key -> rule, for keys of TRL that are not ours."""
