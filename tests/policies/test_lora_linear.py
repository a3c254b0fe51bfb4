"""LoRA in one product: PEFT's numbers and gradients where it is taken, PEFT's own way everywhere else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.policies.families import apart
from tether.policies import lora_linear
from tether.policies.lora_linear import AdaptedLinear, in_one_product

Change = Callable[[Any], object]


def layer(*, bias: bool = True, base: nn.Module | None = None, **options: Any) -> Any:
    """Return a linear layer of 6 to 5 with a learnt adapter of rank 2, PEFT's own."""
    torch.manual_seed(3)
    outer = nn.Sequential(base or nn.Linear(6, 5, bias=bias))
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 7, "target_modules": ["0"], **options}
    made: Any = get_peft_model(outer, LoraConfig(**settings)).base_model.model[0]
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    return made


def switched(made: Any) -> Any:
    """Return the same layer taken in one product."""
    assert in_one_product(made) == 1 and type(made) is AdaptedLinear
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Note the shape of everything that goes through one product."""
    shapes: list[tuple[int, ...]] = []
    original = lora_linear._AdaptedProduct.apply

    def apply(x: Tensor, *rest: Any) -> Any:
        shapes.append(tuple(x.shape))
        return original(x, *rest)

    monkeypatch.setattr(lora_linear._AdaptedProduct, "apply", apply)
    return shapes


@pytest.mark.parametrize("shape", [(9, 6), (3, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_one_product_gives_pefts_values_and_gradients(
    bias: bool, shape: tuple[int, ...], taken: list[tuple[int, ...]]
) -> None:
    made = layer(bias=bias).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    learnt = [x, *(p for p in made.parameters() if p.requires_grad)]
    weights = torch.randn(*shape[:-1], 5, dtype=torch.float64)
    assert len(learnt) == 3

    def found() -> tuple[Tensor, Tensor]:
        out = made(x)
        return out, torch.cat([g.flatten() for g in torch.autograd.grad((out * weights).sum(), learnt)])

    expected, gradients = found()
    assert taken == []
    switched(made)
    values, ours = found()
    assert taken == [shape]
    assert torch.allclose(values, expected, rtol=1e-13, atol=1e-13) and apart(ours, gradients) < 1e-13


def test_the_gradient_is_that_of_finite_differences(taken: list[tuple[int, ...]]) -> None:
    made = switched(layer().double())
    a, b = made.lora_A["default"].weight, made.lora_B["default"].weight
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)

    def value(x: Tensor, a: Tensor, b: Tensor) -> Any:
        weight, bias = made.base_layer.weight, made.base_layer.bias
        return lora_linear._AdaptedProduct.apply(x, weight, bias, a, b, 3.5)

    assert torch.autograd.gradcheck(value, (x, a, b)) and taken


def test_an_input_that_needs_no_gradient_gets_none(taken: list[tuple[int, ...]]) -> None:
    made = switched(layer())
    x = torch.randn(9, 6)
    made(x).square().sum().backward()
    assert x.grad is None and taken == [(9, 6)]
    assert made.lora_A["default"].weight.grad is not None and made.base_layer.weight.grad is None


def _half(made: Any) -> None:
    made.base_layer.to(torch.bfloat16)


def _bias(made: Any) -> None:
    made.base_layer.bias.requires_grad_(True)


def _merge(made: Any) -> None:
    made.merge()


def _off(made: Any) -> None:
    made.enable_adapters(False)


ELSEWHERE: dict[str, tuple[dict[str, Any], Change, int]] = {
    "few tokens": ({}, lambda made: None, 4),
    "dropout": ({"lora_dropout": 0.5}, lambda made: None, 9),
    "dora": ({"use_dora": True}, lambda made: None, 9),
    "base in half precision": ({}, _half, 9),
    "a bias that learns": ({}, _bias, 9),
    "an adapter with a bias": ({"lora_bias": True}, lambda made: None, 9),
    "merged": ({}, _merge, 9),
    "switched off": ({}, _off, 9),
    "no linear layer": ({"base": Conv1D(5, 6), "fan_in_fan_out": True}, lambda made: None, 9),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_everything_else_stays_pefts_to_the_bit(case: str, taken: list[tuple[int, ...]]) -> None:
    options, change, rows = ELSEWHERE[case]
    made = layer(**options)
    change(made)
    x = torch.randn(rows, 6, dtype=torch.bfloat16 if case == "base in half precision" else torch.float32)
    results: list[Tensor] = []
    for turn in range(2):
        torch.manual_seed(8)
        if turn:
            in_one_product(made)
        results.append(made(x))
    assert taken == [] and torch.equal(*results)


def test_autocast_and_other_adapters_stay_pefts(taken: list[tuple[int, ...]]) -> None:
    made = switched(layer())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made(torch.randn(9, 6))
    made.set_adapter([])
    made(torch.randn(9, 6))
    assert taken == []


def test_dropout_that_is_off_does_not_matter(taken: list[tuple[int, ...]]) -> None:
    made = switched(layer(lora_dropout=0.5)).eval()
    made(torch.randn(9, 6))
    assert taken == [(9, 6)]


def test_only_plain_lora_layers_are_switched() -> None:
    outer = nn.Sequential(nn.Linear(6, 5), nn.Embedding(7, 5))
    config = LoraConfig(r=2, target_modules=["0", "1"])
    model: Any = get_peft_model(outer, config)
    assert in_one_product(model) == 1
    assert in_one_product(model) == 0  # once
    assert isinstance(model.base_model.model[0], Linear)
