"""A frozen base stored in few bits by bitsandbytes: what is asked for, what a model is, how big it is.

4-bit numbers round weights only. 8-bit ones (LLM.int8) also round each token's activations; keeping
outlier columns in full is switched off, because which columns those are depends on the rest of the batch.
"""

import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.quantization_config import BitsAndBytesConfig

from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.policies.head import plain_model

NONE = "none"
BLOCK, OUTER_BLOCK = 64, 256
"""4-bit numbers that share a scale, and scales that share one in a nested quantisation."""

# It tells of every matrix product that its input is cast to float16; that is how LLM.int8 works.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Quantisation:
    """How the linear layers of a frozen base are stored; the head, embeddings and norms stay as they are."""

    kind: str
    """nf4, fp4 or int8."""
    nested: bool = False
    """The scales are quantised too."""

    @property
    def name(self) -> str:
        """The name in identities and in run.json."""
        return f"{self.kind} nested" if self.nested else self.kind

    @property
    def bytes_per_weight(self) -> float:
        """Numbers and their scales; of int8 the one scale per row is left out."""
        if self.kind == "int8":
            return 1.0
        scales = (1 + 4 / OUTER_BLOCK) / BLOCK if self.nested else 4 / BLOCK
        return 0.5 + scales

    def settings(self, compute: torch.dtype) -> BitsAndBytesConfig:
        """Return transformers' words for it; weights are put back to `compute` for each product."""
        if self.kind == "int8":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.nested,
            bnb_4bit_compute_dtype=compute,
        )


def asked_for(config: TrainConfig) -> Quantisation | None:
    """Return the quantisation a config asks for."""
    if config.load_in_8bit:
        return Quantisation("int8")
    if config.load_in_4bit:
        return Quantisation(config.bnb_4bit_quant_type, config.use_bnb_nested_quant)
    return None


def by_name(name: str) -> Quantisation | None:
    """Return the quantisation with this name, or None where it is none of ours."""
    kind, _, nested = name.partition(" ")
    known = kind in ("nf4", "fp4", "int8") and nested in ("", "nested")
    return Quantisation(kind, bool(nested)) if known else None


def quantisation_of(model: Any) -> str:
    """Return how a model's weights are stored: `none`, a name of ours, or the method its config names."""
    found: Any = getattr(getattr(plain_model(model), "config", None), "quantization_config", None)
    if found is None:
        return NONE
    settings: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    if settings.get("load_in_8bit"):
        return "int8"
    if settings.get("load_in_4bit"):
        nested = bool(settings.get("bnb_4bit_use_double_quant"))
        return Quantisation(str(settings.get("bnb_4bit_quant_type")), nested).name
    return str(settings.get("quant_method") or "unknown")


def require_package(key: str) -> None:
    """Refuse where bitsandbytes is not installed.

    Raises:
        UsageError: names the package and how to get it.

    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{key}: the bitsandbytes package is not installed; pip install 'tether[quant]'")


def settle(model: nn.Module) -> None:
    """Give every pass the same kernel: on some CPUs bitsandbytes would repack weights for evaluation only."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            object.__setattr__(module, "support_avx512bf16_for_cpu", False)


def weight_count(model: nn.Module) -> int:
    """Return how many weights a model has; several 4-bit ones share a byte."""
    return sum(_size(parameter) for parameter in model.parameters())


def _size(parameter: nn.Parameter) -> int:
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def quantised_weights(model: Any) -> Iterator[int]:
    """Yield the sizes of the weights that a quantisation would store in few bits, of a model in full."""
    plain = plain_model(model)
    head = plain.get_output_embeddings()
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head and ".lora_" not in name:
            yield module.weight.numel()
