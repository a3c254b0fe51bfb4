"""The model under training: loaded or handed over, wrapped with an adapter if asked, and named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.hub import Pins, model_folder
from tether.config.train import TrainConfig
from tether.errors import ModelError, UsageError
from tether.policies.adapters import adapter_tensors, add_lora, has_adapter
from tether.policies.load import LoadedModel, hash_model, is_adapter, load_model
from tether.policies.quantisation import NONE, asked_for, quantisation_of, require_package
from tether.tokens.load import load_tokenizer, stop_ids
from tether.training.score import device_of, uses_bf16
from tether.training.sharing import Shared

IN_MEMORY = "(in memory)"


@dataclass(frozen=True)
class InMemory:
    """A model and its tokenizer as objects; the model is trained in place, as TRL does."""

    model: Any
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class PolicyModel:
    """The policy at step 0 and its names: hashes of the base's weights and of a loaded adapter."""

    model: Any
    weights: str
    adapter: str | None
    path: str
    architecture: str
    trained_on: str = NONE
    """How the base of a loaded adapter was stored when that was trained."""
    start: Mapping[str, Tensor] | None = None
    """A and B as they began, where the base was split for them (PiSSA): the way back to the plain base."""


def pinned_config(config: TrainConfig, pins: Pins, *, weights: bool = True) -> TrainConfig:
    """Return the config with its models of the hub named by commit; fetched, with their `weights` or without.

    Raises:
        ModelError: the hub does not have one, or cannot be reached.

    """
    model = pins.model(config.model_name_or_path, weights=weights)
    reference = pins.reference(config.reference, weights=weights)
    return config.model_copy(update={"model_name_or_path": model, "reference": reference})


def load_texts(
    config: TrainConfig, memory: InMemory | None
) -> tuple[PreTrainedTokenizerBase, frozenset[int]]:
    """Return the tokenizer and the ids that end a completion.

    Raises:
        ModelError: no end token is known, so no completion could ever end.

    """
    if memory is not None:
        settings = memory.model.generation_config.to_dict() if memory.model.generation_config else {}
        tokenizer, stops = memory.tokenizer, stop_ids(memory.tokenizer, settings)
    else:
        tokenizer = load_tokenizer(config.model_name_or_path)
        stops = stop_ids(tokenizer, config.model_name_or_path)
    if not stops:
        raise ModelError(
            f"{config.model_name_or_path}: neither tokenizer nor generation_config.json names an end token"
        )
    return tokenizer, stops


def load_policy(
    config: TrainConfig,
    memory: InMemory | None,
    shared: Shared | None = None,
    *,
    device: torch.device | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> PolicyModel:
    """Load the policy: full weights in fp32, or a frozen base (bf16 under bf16) with an fp32 adapter.

    `start` is the split of the base (PiSSA) that an earlier process of this run made.

    Raises:
        ModelError: the model cannot be used as it is.
        UsageError: a fresh adapter was asked for on top of a loaded one.

    """
    device = device or device_of(config.device)
    model: Any
    fresh = config.use_peft and (memory is None or not has_adapter(memory.model))
    if memory is not None:
        weights, adapter, trained_on = hash_model(memory.model), None, NONE
        model, path = memory.model, IN_MEMORY
        architecture = type(model).__name__
        if quantisation_of(model) == NONE:
            model = model.to(device)
    else:
        loaded = _from_folder(config, shared or Shared(), device)
        model, weights, adapter = loaded.model, loaded.weights, loaded.adapter
        architecture, path, trained_on = loaded.architecture, loaded.path, loaded.trained_on
    if fresh:
        model = add_lora(model, config, seed=config.seed, start=start)
    if config.gradient_checkpointing:
        checkpoint_blocks(model)
    model.config.use_cache = False
    split = adapter_tensors(model) if fresh and config.init_lora_weights == "pissa" else None
    return PolicyModel(model, weights, adapter, path, architecture, trained_on, split)


def checkpoint_blocks(model: Any) -> None:
    """Keep only each block's input for the backward pass, and compute the rest again."""
    # The newer of the transformers we run with warn of the older name.
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})


def start_model(
    config: TrainConfig, shared: Shared, *, frozen: bool, device: torch.device | None = None
) -> LoadedModel:
    """Load the model a run starts from, as it trains it, before any adapter is put on."""
    path, attention, stored = config.model_name_or_path, config.attn_implementation, asked_for(config)
    device = device or device_of(config.device)
    dtype = base_dtype(config)
    return shared.model(
        {
            "path": path,
            "dtype": str(dtype),
            "device": str(device),
            "attention": attention,
            "quantisation": stored.name if stored else NONE,
        },
        lambda: load_model(
            path,
            dtype=dtype,
            device=device,
            attention=attention,
            trainable_adapter=True,
            quantisation=stored,
        ),
        frozen=frozen,
    )


def check_storage(config: TrainConfig, *, in_memory: bool) -> None:
    """Refuse a quantised base that cannot be had, before anything is read.

    Raises:
        UsageError: bitsandbytes is missing; a model object; shards; nothing beside the base would be trained.

    """
    stored = asked_for(config)
    if stored is None:
        return
    key = "load_in_8bit" if config.load_in_8bit else "load_in_4bit"
    if in_memory:
        raise UsageError(f"{key}: a model object is used as it is; quantise it when you load it")
    if config.parallel == "fsdp":
        raise UsageError(f"{key}: quantised weights are not cut into shards; use parallel ddp")
    if not config.use_peft and not is_adapter(model_folder(config.model_name_or_path)):
        raise UsageError(f"{key}: quantised weights cannot be tuned; add use_peft, or name an adapter folder")
    require_package(key)


def base_dtype(config: TrainConfig) -> torch.dtype:
    """Return how weights are stored: a frozen base in bf16 under bf16, everything that learns in fp32.

    A base that is split (PiSSA) stays fp32: rounding its rest would make step 0 another model.
    """
    small = config.use_peft and config.init_lora_weights != "pissa" and uses_bf16(config)
    return torch.bfloat16 if small else torch.float32


def _from_folder(config: TrainConfig, shared: Shared, device: torch.device) -> LoadedModel:
    # PiSSA takes its start out of the base's weights, and 8-bit weights move into the first module that uses
    # them: neither can be another run's too.
    frozen = config.use_peft and config.init_lora_weights != "pissa" and not config.load_in_8bit
    loaded = start_model(config, shared, frozen=frozen, device=device)
    if config.use_peft and loaded.adapter is not None:
        raise UsageError(
            f"{config.model_name_or_path}: already an adapter; leave out use_peft to train it on, "
            "or make a whole model of it first (tether merge)"
        )
    whole = not config.use_peft and loaded.adapter is None
    if whole and any(not p.is_floating_point() for p in loaded.model.parameters()):
        raise ModelError(
            f"{config.model_name_or_path}: quantised weights cannot be tuned whole; add --use-peft"
        )
    return loaded
