"""The LM head: hidden states of completion positions -> log-probs of their tokens, in fp32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from peft import PeftModel
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from tether.errors import ModelError


@dataclass(frozen=True)
class Parts:
    """A causal LM taken apart: hidden states, then logits, then what the model does to its logits."""

    backbone: nn.Module
    head: nn.Module
    transform: Callable[[Tensor], Tensor]

    @property
    def vocabulary(self) -> int:
        """V, the width of the logits."""
        weight: Any = self.head.weight
        return int(weight.shape[0])

    def logits(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n V"]:
        """Return the model's logits for these hidden states."""
        return self.transform(self.head(hidden))


def take_apart(model: Any) -> Parts:
    """Return backbone and head of a causal LM, plain or with LoRA adapters.

    Raises:
        ModelError: prompt-learning adapters, adapters on the head, a model without head or with an encoder.

    """
    if isinstance(model, PeftModel):
        model = _under_adapters(model)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"{type(model).__name__} is not a transformers model; load a causal LM")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{type(model).__name__} is an encoder-decoder; load a decoder-only causal LM")
    head = model.get_output_embeddings()
    backbone = model.get_decoder()
    if head is None or backbone is model:
        raise ModelError(f"{type(model).__name__} has no LM head; load it as a causal LM")
    return Parts(backbone, head, logit_transform(model.config))


def plain_model(model: Any) -> Any:
    """Return the model inside an adapter, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _under_adapters(model: PeftModel) -> Any:
    for name, config in model.peft_config.items():
        if config.is_prompt_learning:
            raise ModelError(
                f"adapter {name!r} is {config.peft_type}, which adds prompt vectors; use LoRA instead"
            )
    base: Any = model.get_base_model()
    head = base.get_output_embeddings()
    # A PEFT wrapper keeps the layer it adapts under one of these names.
    if hasattr(head, "base_layer") or hasattr(head, "original_module"):
        raise ModelError(
            "an adapter sits on the LM head; leave lm_head out of target_modules and modules_to_save"
        )
    return base


def logit_transform(config: Any) -> Callable[[Tensor], Tensor]:
    """Return what a model of this config does between its head and its logits (scaling, soft cap)."""
    config = config.get_text_config()
    factor = 1.0
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        factor /= divisor
    if multiplier := getattr(config, "logit_scale", None):  # Cohere
        factor *= multiplier
    if multiplier := getattr(config, "lm_head_multiplier", None):  # Falcon-H1
        factor *= multiplier
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 and later

    def transform(logits: Tensor) -> Tensor:
        if factor != 1.0:
            logits = logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return transform


class _TokenLogProbs(torch.autograd.Function):
    """log p of one token per row of logits; the backward makes the gradient of the saved table, in place.

    One buffer of the size of the logits instead of four; it can be used for one backward pass only.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        table = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(ids)
        ctx.table, ctx.dtype = table, logits.dtype
        return table.gather(1, ids[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (ids,) = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.table is None:
            raise RuntimeError("log-probs were back-propagated twice; compute them again")
        table, ctx.table = ctx.table, None
        # d log p(y) / d logits = onehot(y) - softmax
        grad = table.exp_().mul_(-gradient[:, None])
        grad[torch.arange(len(ids), device=ids.device), ids] += gradient
        return grad.to(ctx.dtype), None


def token_logprobs(
    parts: Parts, hidden: Float[Tensor, "n h"], ids: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return log p of each token under its hidden state, nats, fp32; one [n, V] buffer until backward."""
    logits = parts.logits(hidden)
    if not torch.is_grad_enabled():
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, ids[:, None]).squeeze(1)
    answer = _TokenLogProbs.apply(logits, ids)
    assert isinstance(answer, Tensor)
    return answer


def check_head(model: Any, *, positions: int = 8) -> float:
    """Compare our logits with the model's own on a few made-up tokens; return the largest relative error.

    Raises:
        ModelError: they differ, so the model does something to its logits that is not known here.

    """
    parts = take_apart(model)
    plain = plain_model(model)
    embedding = plain.get_input_embeddings().weight
    ids = (torch.arange(positions, device=embedding.device) * 7919 % embedding.shape[0])[None]
    training = plain.training
    plain.eval()
    try:
        with torch.no_grad():
            hidden = parts.backbone(input_ids=ids, use_cache=False).last_hidden_state
            ours = parts.logits(hidden[0]).float()
            theirs = plain(input_ids=ids, use_cache=False).logits[0].float()
    finally:
        plain.train(training)
    if not bool(torch.isfinite(theirs).all()):
        raise ModelError(
            f"{type(plain).__name__}: its scores are NaN or infinite on {positions} plain tokens; "
            "the weights are broken"
        )
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
    limit = 8 * torch.finfo(hidden.dtype).eps
    if not error <= limit:
        raise ModelError(
            f"{type(plain).__name__} changes its logits in a way that is not known here (relative difference "
            f"{error:.2g}, limit {limit:.1g}); use a model whose logits are the head's, scaled or soft-capped"
        )
    return error
