"""LoRA on and off: making a trainable adapter, its weights alone, and what merging it changes."""

import copy
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from tether.config.train import TrainConfig
from tether.errors import UsageError


def add_lora(model: PreTrainedModel, config: TrainConfig, *, seed: int) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter; its update is zero until the first step.

    The base is frozen as loaded; adapter weights are fp32 whatever the base's dtype.

    Raises:
        UsageError: a target module that the model does not have.

    """
    targets = config.lora_target_modules
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  (peft takes floats at run time)
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    # The adapter's first matrix is random: it gets its own seed so that nothing drawn before can change it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, lora, autocast_adapter_dtype=True)
        except ValueError as error:
            raise UsageError(f"lora_target_modules: {str(error).splitlines()[0]}") from error
    return wrapped  # pyright: ignore[reportReturnType]  (a PeftModel for every causal LM)


def has_adapter(model: nn.Module) -> bool:
    """Return whether the model carries a PEFT adapter."""
    return isinstance(model, PeftModel)


def start_copy(model: nn.Module) -> nn.Module | None:
    """Return a frozen copy of the model as it is, or None where switching its adapter off gives the same."""
    if has_adapter(model) and all(
        not bool(p.detach().count_nonzero()) for name, p in model.named_parameters() if ".lora_B." in name
    ):
        return None  # a fresh adapter changes nothing at step 0
    return copy.deepcopy(model).eval().requires_grad_(False)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that will change, by name, tied tensors once, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def disable_dropout(model: nn.Module, *, keep_adapter: bool) -> int:
    """Turn off every dropout: modules, and the probabilities functional attention dropout reads.

    `keep_adapter` leaves LoRA's own dropout, which the user asked for by `lora_dropout`. Returns how many
    places were changed.
    """
    changed = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0 and not (keep_adapter and "lora_dropout" in name):
            module.p = 0.0
            changed += 1
        for field in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout"):
            value: Any = getattr(module, field, None)
            if isinstance(value, float) and value > 0 and not (keep_adapter and "lora" in name):
                setattr(module, field, 0.0)
                changed += 1
    return changed
