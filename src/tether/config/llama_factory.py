"""LLaMA-Factory's configs (`llamafactory-cli train c.yaml`) in our keys."""

import json
from pathlib import Path
from typing import Any

from tether.config import trl
from tether.config.foreign import NoCounterpart, Rule, Values, no_effect, no_effects, only, read_as
from tether.config.sources import is_hub_name, with_split

LOSSES = ("sigmoid", "hinge", "ipo", "orpo", "simpo")
DEFAULTS = {"cutoff_len": 2048, "finetuning_type": "lora", "lora_rank": 8, "learning_rate": 5e-5}
"""What LLaMA-Factory does where a key is left out, and we would do something else."""


_COLUMNS = {
    "prompt": ("instruction", "question"),
    "query": ("input",),
    "response": ("output", "completion"),
    "history": ("history",),
    "messages": ("conversations", "messages", "completion"),
    "system": ("system",),
    "tools": ("tools",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "kto_tag": ("kto_tag", "label"),
}
"""Columns of `dataset_info.json` -> the names by which rows are recognised here."""
_TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "system_tag": ("system",),
}


def stage(value: Any, values: Values) -> dict[str, Any]:
    """Preference tuning, KTO or supervised; of supervised chats every assistant turn is scored there."""
    if value == "dpo":
        return {} if "pref_loss" in values or values.get("pref_ftx") else {"loss_type": "sigmoid"}
    if value == "kto":
        return {"loss_type": "kto"}
    if value == "sft":
        turns = {} if values.get("mask_history") else {"score_turns": "all"}
        return {"loss_type": "sft", **turns}
    raise NoCounterpart("only dpo, kto and sft can be done")


def objective(value: Any, values: Values) -> dict[str, Any]:
    """Return the loss; `pref_ftx` adds the chosen text's likelihood."""
    if value not in LOSSES:
        raise NoCounterpart(f"only {', '.join(LOSSES)} can be done")
    decided = values.get("pref_ftx") or values.get("stage", "dpo") != "dpo"
    return {} if decided else {"loss_type": value}


def likelihood(value: Any, values: Values) -> dict[str, Any]:
    """Add the weight of the chosen text's likelihood."""
    if not value:
        return {}
    return {
        "loss_type": [values.get("pref_loss", "sigmoid"), "sft"],
        "loss_weights": [1.0, float(value)],
    }


def tuning(value: Any, values: Values) -> dict[str, Any]:
    """LoRA or all weights; LoRA's alpha is twice its rank unless given."""
    if value == "full":
        return {}
    if value != "lora":
        raise NoCounterpart("lora and full can be done")
    alpha = {} if values.get("lora_alpha") is not None else {"lora_alpha": 2 * values.get("lora_rank", 8)}
    return {"use_peft": True, **alpha}


def targets(value: Any, values: Values) -> dict[str, Any]:
    """`all`, or names with commas between them."""
    names = [name.strip() for name in str(value).split(",")]
    return {"lora_target_modules": ["all-linear"] if names == ["all"] else names}


def reference(value: Any, values: Values) -> dict[str, Any]:
    """Another model as the reference."""
    return {"reference": f"model:{value}"}


def dataset(key: str) -> Rule:
    """`dataset`, `eval_dataset`: files, or names in `dataset_info.json`."""

    def rule(value: Any, values: Values) -> dict[str, Any]:
        names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
        found = [_source(name, Path(str(values.get("dataset_dir", "data")))) for name in names]
        if key == "eval_dataset_name" and len(found) > 1:
            raise NoCounterpart("one held-out data set can be named; put the rows into one file")
        return {key: found[0] if len(found) == 1 else found}

    return rule


def _source(name: str, folder: Path) -> str:
    if Path(name).exists():
        return name
    table = folder / "dataset_info.json"
    if not table.is_file():
        raise NoCounterpart(f"{name} is no file, and {table}, which would say what it is, is not here")
    try:
        entry = json.loads(table.read_text(encoding="utf-8")).get(name)
    except (ValueError, AttributeError) as error:
        raise NoCounterpart(f"{table} is no JSON object: {error}") from error
    if not isinstance(entry, dict):
        raise NoCounterpart(f"{table} has no entry {name}")
    if problem := _unreadable(entry):
        raise NoCounterpart(f"{table}: {name}: {problem}")
    if entry.get("hf_hub_url") and is_hub_name(entry["hf_hub_url"]):
        return with_split(entry["hf_hub_url"], entry.get("subset"), entry.get("split", "train"))
    if isinstance(entry.get("file_name"), str):
        return str(folder / entry["file_name"])
    raise NoCounterpart(f"{table}: {name} has no file_name")


def _unreadable(entry: dict[str, Any]) -> str | None:
    """Return what an entry of `dataset_info.json` asks for that reading its rows here would not do."""
    for part, known in (("columns", _COLUMNS), ("tags", _TAGS)):
        for key, column in (entry.get(part) or {}).items():
            if key not in known:
                return f"{part} has {key}, which is not read here"
            if column not in known[key]:
                return f"{part}: {key} is {column}; rows are recognised by names: use {known[key][0]}"
    for key in ("num_samples", "folder"):
        if entry.get(key):
            return f"{key} cannot be honoured; prepare the file, or use max_samples"
    return None


def history(value: Any, values: Values) -> dict[str, Any]:
    """Train on the last turn only."""
    return {"score_turns": "last"} if value else {}


def pure_bf16(value: Any, values: Values) -> dict[str, Any]:
    """Compute in bf16; weights stay fp32."""
    return {"bf16": True} if value else {}


def few_bits(value: Any, values: Values) -> dict[str, Any]:
    """Read the bits of a quantised base; of 4 the scales are quantised too unless told otherwise."""
    if not value:
        return {}
    if value == 8:
        return {"load_in_8bit": True}
    if value != 4:
        raise NoCounterpart("4 and 8 bits can be had")
    return {"load_in_4bit": True, "use_bnb_nested_quant": values.get("double_quantization", True) is True}


def pissa(value: Any, values: Values) -> dict[str, Any]:
    """Read PiSSA: the adapter starts as the base's largest singular parts."""
    return {"init_lora_weights": "pissa"} if value else {}


RULES: dict[str, Rule] = {
    **trl.RULES,
    "stage": stage,
    "pref_loss": objective,
    "pref_beta": read_as("beta"),
    "pref_ftx": likelihood,
    "dpo_label_smoothing": read_as("label_smoothing"),
    "kto_chosen_weight": read_as("desirable_weight"),
    "kto_rejected_weight": read_as("undesirable_weight"),
    "ref_model": reference,
    "finetuning_type": tuning,
    "lora_rank": read_as("lora_r"),
    "lora_target": targets,
    "dataset": dataset("dataset_name"),
    "eval_dataset": dataset("eval_dataset_name"),
    "dataset_dir": no_effect("read together with dataset"),
    "cutoff_len": read_as("max_length"),
    "val_size": trl.held_out,
    "mask_history": history,
    "early_stopping_steps": read_as("early_stopping_patience"),
    "disable_shuffling": trl.in_order,
    "enable_thinking": only(True, why="give chat_template_kwargs with each row, or set it in the template"),
    "add_tokens": only("", why="vocabularies are never changed"),
    "add_special_tokens": only("", why="vocabularies are never changed"),
    "use_swanlab": only(False, why=trl.ONLY_TRACKERS),
    **no_effects("log-probs are summed in fp32", "upcast_lmhead_output"),
    **no_effects("log in with hf auth login", "hf_hub_token"),
    "pure_bf16": pure_bf16,
    "pref_bco_weight": only(0, why="bco is an objective of its own: loss_type: bco_pair"),
    "ref_model_adapters": only("", why="merge the adapter, or name its folder: reference: model:PATH"),
    "ref_model_quantization_bit": only(0, why="not offered; leave the key out"),
    "adapter_name_or_path": only("", why="name the adapter's folder as model_name_or_path"),
    "additional_target": only("", why="LoRA goes on linear layers only"),
    "train_on_prompt": only(False, why="prompts are never scored; leave the key out"),
    "mix_strategy": only("concat", why="give weights instead: dataset_weights"),
    "interleave_probs": only("", why="give weights instead: dataset_weights"),
    "quantization_bit": few_bits,
    "quantization_type": read_as("bnb_4bit_quant_type"),
    "double_quantization": no_effect("read together with quantization_bit"),
    "quantization_method": only("bnb", "bitsandbytes", why="bitsandbytes is the only method"),
    "rope_scaling": only("", why="set it in the model's config.json"),
    "resize_vocab": only(False, why="vocabularies are never changed"),
    "new_special_tokens": only("", why="vocabularies are never changed"),
    "use_galore": only(False, why="AdamW is the only optimiser"),
    "use_badam": only(False, why="AdamW is the only optimiser"),
    "use_apollo": only(False, why="AdamW is the only optimiser"),
    "loraplus_lr_ratio": only(0, why="not offered; leave the key out"),
    "pissa_init": pissa,
    **no_effects("the decomposition is exact", "pissa_iter"),
    **no_effects("the saved adapter fits the plain base by itself", "pissa_convert"),
    **no_effects(
        "the model's own tokenizer and template are used, unchanged",
        "template",
        "tool_format",
        "use_fast_tokenizer",
        "split_special_tokens",
        "default_system",
    ),
    **no_effects(
        trl.SPEED,
        "overwrite_cache",
        "flash_attn",
        "enable_liger_kernel",
        "use_unsloth",
        "packing",
        "neat_packing",
        "tokenized_path",
        "preprocessing_batch_size",
        "low_cpu_mem_usage",
        "buffer_size",
        "cache_dir",
        "disable_gradient_checkpointing",
        "upcast_layernorm",
        "use_reentrant_gc",
        "use_unsloth_gc",
        "use_v1_kernels",
        "infer_backend",
    ),
    **no_effects(
        trl.LOGS,
        *(f"swanlab_{name}" for name in ("project", "workspace", "run_name", "mode", "api_key", "logdir")),
        *("swanlab_lark_webhook_url", "swanlab_lark_secret", "ray_run_name", "ray_storage_path"),
        *("print_param_status", "compute_accuracy", "include_effective_tokens_per_second"),
    ),
}
