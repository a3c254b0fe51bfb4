"""What training leaves: an ordinary Hugging Face folder, or a PEFT adapter that names its base."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.hub import published_as
from tether.policies.adapters import ADAPTER, on_plain_base, trainable
from tether.policies.load import BASE_RECORD
from tether.policies.quantisation import quantisation_of
from tether.policies.sharding import collected, in_shards
from tether.records.results import write_json
from tether.training.policy import PolicyModel


def save_policy(
    policy: PolicyModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, first: bool = True
) -> None:
    """Save what was trained as a model, or as an adapter of the base it started from (`save_model`)."""
    save_model(policy.model, tokenizer, folder, base_weights=policy.weights, start=policy.start, first=first)


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    base_weights: str,
    start: Mapping[str, Tensor] | None = None,
    first: bool = True,
) -> None:
    """Save model and tokenizer, safetensors only; the folder appears whole or not at all.

    `start` is the adapter as it began where its base was split (PiSSA): what is saved fits the plain base.
    Of several processes only the first writes; a model in shards is gathered on it, tensor by tensor.
    """
    tensors = _tensors(model, keep=first) if in_shards(model) or start is not None else None
    if not first:
        return
    changed: dict[str, Any] = {}
    if start is not None and tensors is not None:
        tensors, changed = on_plain_base(tensors, start, model.peft_config[ADAPTER].to_dict())
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    use_cache = model.config.use_cache
    model.config.use_cache = True
    try:
        model.save_pretrained(temporary, state_dict=tensors)
    finally:
        model.config.use_cache = use_cache
    tokenizer.save_pretrained(temporary)
    if isinstance(model, PeftModel):
        write_json(temporary / BASE_RECORD, {"weights": base_weights, "quantisation": quantisation_of(model)})
        _settle(temporary / "adapter_config.json", changed)
    (temporary / "README.md").unlink(missing_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    for path in temporary.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors makes files only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _tensors(model: Any, *, keep: bool) -> dict[str, Tensor]:
    """Gather what `save_pretrained` writes: every tensor once, tied names sharing theirs."""
    named: dict[str, Tensor] = model.state_dict(keep_vars=True)
    if isinstance(model, PeftModel):
        named = {**trainable(model)}
    once = {id(tensor): (name, tensor) for name, tensor in reversed(named.items())}
    found = collected(once.values(), keep=keep)
    return {name: found[once[id(tensor)][0]] for name, tensor in named.items()} if keep else {}


def _settle(path: Path, changed: Mapping[str, Any]) -> None:
    """Name the base so that the adapter loads from anywhere, and its modules in an order that stays.

    A base of the hub is named with its commit, as PEFT does.
    """
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {key: changed[key] for key in ("r", "lora_alpha", "init_lora_weights") if key in changed}
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"].sort()
    base = Path(settings.get("base_model_name_or_path") or "")
    published = published_as(base)
    if published is not None:
        settings["base_model_name_or_path"], _, settings["revision"] = published.partition("@")
    elif base.is_dir():
        settings["base_model_name_or_path"] = str(base.resolve())
    write_json(path, settings)
