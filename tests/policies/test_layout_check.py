"""A run uses the layout it asked for only where that layout gives padded's numbers."""

from typing import Any

import pytest
import torch

from tests.policies.families import FAMILIES, uneven_batch
from tests.tiny import tiny_model
from tether.errors import UsageError
from tether.policies import attention
from tether.policies.layout_check import choose_layout


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_takes_packed_where_it_agrees(family: str) -> None:
    name, options = FAMILIES[family]
    model = tiny_model(name, **options).train()
    choice = choose_layout(model, "auto", uneven_batch())
    assert (choice.name, choice.requested, choice.reason) == ("packed", "auto", None)
    assert choice.error < 1e-6
    assert model.training, "the mode is given back"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("requested", ["padded", "shared", "packed"])
def test_a_layout_that_agrees_is_used(requested: str, dtype: torch.dtype) -> None:
    choice = choose_layout(tiny_model("qwen3").to(dtype), requested, uneven_batch())
    assert (choice.name, choice.reason) == (requested, None)


def test_auto_falls_back_to_shared_and_then_to_padded_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # Falcon adds a mask itself, which only shared's tensor survives; Bloom adds its position bias to it.
    falcon = choose_layout(tiny_model("falcon"), "auto", uneven_batch())
    assert falcon.name == "shared" and str(falcon.reason).startswith("packed: ")
    bloom = choose_layout(tiny_model("bloom"), "auto", uneven_batch())
    assert bloom.name == "padded" and "shared: log-probs differ from padded by" in str(bloom.reason)
    assert "\n" not in str(bloom.reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("requested", ["shared", "packed"])
def test_a_broken_mask_is_found(requested: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    additive = attention._additive
    monkeypatch.setattr(attention, "_additive", lambda mask, kind: torch.zeros_like(additive(mask, kind)))
    choice = choose_layout(tiny_model().to(dtype), requested, uneven_batch())
    assert choice.name == "padded" and "differ from padded" in str(choice.reason)


@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        ("mamba", {}, "linear_attention layers"),
        ("qwen3_next", {}, "linear_attention layers"),
        ("gpt_oss", {}, "'s_aux', which only the padded layout computes"),
    ],
)
def test_models_that_cannot_share_run_padded(family: str, options: dict[str, Any], why: str) -> None:
    choice = choose_layout(tiny_model(family, **options), "packed", uneven_batch())
    assert choice.name == "padded" and why in str(choice.reason)


def test_an_unknown_layout_is_refused() -> None:
    known = "padded, shared, packed, varlen, auto"
    with pytest.raises(UsageError, match=f"'flat' does not exist; use one of {known}"):
        choose_layout(tiny_model(), "flat", uneven_batch())
