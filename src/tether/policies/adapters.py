"""Adapters: a fresh one (LoRA, DoRA, PiSSA), the model as it was before it learnt, its plain form on disk."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.policies.lora_linear import AdaptedLinear, in_one_product
from tether.policies.quantisation import quantisation_of

ADAPTER = "default"
"""The name PEFT gives the one adapter."""


def add_lora(
    model: PreTrainedModel, config: TrainConfig, *, seed: int, start: Mapping[str, Tensor] | None = None
) -> PeftModel:
    """Wrap a model with a fresh adapter; the model computes what it did before, up to rounding.

    The base is frozen; adapter weights are fp32 whatever its dtype. With `init_lora_weights: pissa` the
    base's weights change (`split_base`); `start` is what an earlier call made of them, for a resume.

    Raises:
        UsageError: a target module that the model does not have, or that PiSSA cannot split.

    """
    targets = config.lora_target_modules
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  (peft takes floats at run time)
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights="gaussian" if config.init_lora_weights == "gaussian" else True,
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
    if config.init_lora_weights == "pissa":
        split_base(wrapped, start or {})
    if config.use_dora:
        _measure_magnitudes(wrapped)
    in_one_product(wrapped)
    return wrapped  # pyright: ignore[reportReturnType]  (a PeftModel for every causal LM)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _measure_magnitudes(model: nn.Module) -> None:
    # PEFT measures them in the base's dtype; from a bf16 base they would be off by 2^-9 at step 0.
    for _, layer in _layers(model):
        layer.lora_magnitude_vector[ADAPTER].update_layer(
            base_layer=layer.get_base_layer(),
            lora_A=layer.lora_A[ADAPTER].weight,
            lora_B=layer.lora_B[ADAPTER].weight,
            scaling=layer.scaling[ADAPTER],
        )


def split_base(model: nn.Module, start: Mapping[str, Tensor]) -> None:
    """Take the r largest singular parts out of every adapted weight, in place, and start the adapter as them.

    W = U S V^T; A = sqrt(S_r / s) V_r^T, B = U_r sqrt(S_r / s), and W - s B A stays frozen, s the adapter's
    scale. PEFT has the same, but only from a decomposition of its own; a resume takes the A and B of `start`
    where they fit, so that its frozen part has the same bits. Source: 2404.02948 Eq. 2-4.

    Raises:
        UsageError: an adapted module that is not linear, or smaller than the rank.

    """
    with torch.no_grad():
        for name, layer in _layers(model):
            base: Any = layer.get_base_layer()
            _refuse_unsplittable(name, layer, base.weight)
            turned = bool(getattr(layer, "fan_in_fan_out", False))
            weight: Tensor = base.weight.T if turned else base.weight
            a: Tensor = layer.lora_A[ADAPTER].weight
            b: Tensor = layer.lora_B[ADAPTER].weight
            rank, scale = layer.r[ADAPTER], layer.scaling[ADAPTER]
            known = [start.get(f"{name}.{part}.{ADAPTER}.weight") for part in ("lora_A", "lora_B")]
            if [None if old is None else old.shape for old in known] == [a.shape, b.shape]:
                first, second = (old.to(a.device, a.dtype) for old in known if old is not None)
            else:
                left, values, right = torch.linalg.svd(weight, full_matrices=False)
                root = (values[:rank] / scale).sqrt()
                first, second = root[:, None] * right[:rank], left[:, :rank] * root
            a.copy_(first)
            b.copy_(second)
            rest = weight - scale * (b @ a)
            base.weight.data = rest.T.contiguous() if turned else rest


def _refuse_unsplittable(name: str, layer: Any, weight: Tensor) -> None:
    if type(layer) not in (Linear, AdaptedLinear):
        raise UsageError(f"init_lora_weights pissa: {name} is no linear layer; leave it out")
    if weight.dtype != torch.float32:
        raise UsageError(
            f"init_lora_weights pissa: {name} is stored as {weight.dtype}, which would round what is left "
            "of it; load the model in float32"
        )
    if layer.r[ADAPTER] > min(weight.shape):
        raise UsageError(
            f"init_lora_weights pissa: {name} is {tuple(weight.shape)}, rank at most {min(weight.shape)}; "
            f"lower lora_r from {layer.r[ADAPTER]}"
        )


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the adapter's A and B, on the CPU, by the names they have in the model."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in trainable(model).items()
        if ".lora_A." in name or ".lora_B." in name
    }


def on_plain_base(
    tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an adapter of a split base as one of the base as it was: its tensors, its PEFT settings.

    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0], an ordinary adapter of twice the rank at the same scale.
    """
    made = dict(tensors)
    for name, first in start.items():
        now = tensors[name]
        old = first.to(now.device, now.dtype)
        made[name] = torch.cat([now, old]) if ".lora_A." in name else torch.cat([now, -old], dim=1)
    grown = math.sqrt(2) if settings.get("use_rslora") else 2
    changed = {"r": 2 * settings["r"], "lora_alpha": grown * settings["lora_alpha"]}
    return made, {**settings, **changed, "init_lora_weights": True}


def has_adapter(model: nn.Module) -> bool:
    """Return whether the model carries a PEFT adapter."""
    return isinstance(model, PeftModel)


def start_copy(model: nn.Module, *, sharing: bool = True) -> nn.Module | None:
    """Return a frozen copy of the model as it is, or None where switching its adapter off gives the same.

    With `sharing` the copy uses the model's own frozen weights, which never change (8-bit ones move about
    between passes and are copied); do not move it.
    """
    names = [name for name, _ in model.named_parameters()]
    plain = not any(".lora_magnitude_vector." in name for name in names)  # DoRA's scale may differ with B = 0
    if plain and has_adapter(model) and _adds_nothing(model):
        return None
    sharing = sharing and quantisation_of(model) != "int8"
    frozen = [p for p in model.parameters() if not p.requires_grad] if sharing else []
    shared: dict[int, Any] = {id(tensor): tensor for tensor in frozen}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def _adds_nothing(model: nn.Module) -> bool:
    parts = [p for name, p in model.named_parameters() if ".lora_B." in name]
    return all(not bool(p.detach().count_nonzero()) for p in parts)


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
