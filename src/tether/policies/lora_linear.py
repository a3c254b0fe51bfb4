"""LoRA in one product per linear layer: x (W + s B A)^T where PEFT has three products and two sums.

The same function of the same parameters, W frozen. Nothing of the size of the output is added up, and nothing
but the input is kept for the backward pass. It pays where a call sees at least as many tokens as the layer is
wide, so decoding and all that rounds or needs more (half precision, dropout, DoRA, a trainable bias, several
adapters) stays with PEFT. Source: LoRA, 2106.09685 Eq. 3.
"""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PRECISE = (torch.float32, torch.float64)
"""W + s B A is rounded to W's precision: too coarse for an adapter in half precision."""


class _AdaptedProduct(torch.autograd.Function):
    """x (W + s B A)^T + bias with gradients for x, A and B; W + s B A is made anew for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "... i"],
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        a: Float[Tensor, "r i"],
        b: Float[Tensor, "o r"],
        scale: float,
    ) -> Float[Tensor, "... o"]:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, a, b = ctx.saved_tensors
        (grad,) = gradients
        rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_x = grad @ torch.addmm(weight, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        grad_a = ((rows @ b).T @ inputs).mul_(ctx.scale)
        grad_b = (rows.T @ (inputs @ a.T)).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None


class AdaptedLinear(Linear):
    """PEFT's layer, in one product where that is the same and pays."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the adapted layer's output, [..., in] to [..., out]."""
        name = None if args or kwargs else self._adapter(x)
        if name is None:
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        answer = _AdaptedProduct.apply(x, base.weight, base.bias, a, b, self.scaling[name])
        assert isinstance(answer, Tensor)
        return answer

    def _adapter(self, x: Tensor) -> str | None:
        """Return the adapter to be applied in one product, or None where PEFT's own way is taken."""
        base: Any = self.base_layer
        if self.disable_adapters or self.merged or type(base) is not nn.Linear:
            return None
        if len(self.active_adapters) != 1 or x.numel() < x.shape[-1] * min(base.weight.shape):
            return None
        (name,) = self.active_adapters
        return name if name in self.lora_A and self._is_plain(name, x) else None

    def _is_plain(self, name: str, x: Tensor) -> bool:
        """Tell whether an adapter is LoRA as in the paper, with nothing rounded and nothing random."""
        base: Any = self.base_layer
        dropout: Any = self.lora_dropout[name]
        a, b = self.lora_A[name], self.lora_B[name]
        frozen = [base.weight, *([] if base.bias is None else [base.bias])]
        random = not isinstance(dropout, nn.Identity) and dropout.training and dropout.p > 0
        return (
            name not in self.lora_variant
            and b.bias is None
            and not random
            and not any(part.requires_grad for part in frozen)
            and {part.dtype for part in (x, *frozen, a.weight, b.weight)} == {x.dtype}
            and x.dtype in _PRECISE
            and not torch.is_autocast_enabled(x.device.type)
        )


def in_one_product(model: nn.Module) -> int:
    """Let every plain LoRA layer of a model take one product where it can; return how many may."""
    layers = [module for module in model.modules() if type(module) is Linear]
    for layer in layers:
        layer.__class__ = AdaptedLinear
    return len(layers)
