"""Adapters: each starts as the model it is put on, and a split base is put together again on disk."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.policies.configs import config
from tests.tiny import tiny_batch, tiny_model
from tether.errors import UsageError
from tether.policies.adapters import (
    ADAPTER,
    adapter_tensors,
    add_lora,
    on_plain_base,
    split_base,
    start_copy,
    trainable,
)
from tether.policies.logprobs import sequence_logprobs

BATCH = tiny_batch([(5, [7, 9]), (11, [3, 4])])
EPS = torch.finfo(torch.float32).eps


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return sequence_logprobs(model, BATCH).sums


def rounding(*values: torch.Tensor) -> float:
    """A few hundred roundings of the size of the sums: two layers, width 32, up to 9 tokens."""
    return 512 * EPS * max(1.0, max(float(v.abs().max()) for v in values))


def shake(model: Any) -> None:
    """Move what learns, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa-dora": {"init_lora_weights": "pissa", "use_dora": True},
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_adapter_computes_what_the_model_did(variant: str, family: str) -> None:
    plain = tiny_model(family)
    before = scores(plain)
    model = add_lora(plain, config(**VARIANTS[variant]), seed=0).eval()
    after = scores(model)
    if "pissa" in variant:
        assert float((after - before).abs().max()) <= rounding(before)
    else:
        assert torch.equal(after, before)


def test_doras_magnitudes_are_exact_on_a_bf16_base() -> None:
    plain = tiny_model().to(torch.bfloat16)
    before = scores(plain)
    model = add_lora(plain, config(use_dora=True), seed=0).eval()
    layer = next(
        m for m in model.modules() if hasattr(m, "lora_magnitude_vector") and m.lora_magnitude_vector
    )
    norms = layer.get_base_layer().weight.float().norm(dim=1)
    assert torch.equal(layer.lora_magnitude_vector[ADAPTER].weight, norms)
    assert torch.equal(scores(model), before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_is_pefts(family: str, rslora: bool) -> None:
    theirs = get_peft_model(
        tiny_model(family),
        LoraConfig(
            r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights="pissa", use_rslora=rslora,
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    ours = add_lora(tiny_model(family), config(init_lora_weights="pissa", use_rslora=rslora), seed=0)
    known = {name: parameter.detach() for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        size = float(known[name].abs().max())
        assert float((parameter.detach() - known[name]).abs().max()) <= 64 * EPS * max(size, 1.0), name


def test_a_split_taken_over_has_the_same_bits() -> None:
    options = config(init_lora_weights="pissa")
    first = add_lora(tiny_model(), options, seed=0)
    start = adapter_tensors(first)
    torch.manual_seed(99)
    # Signs of singular vectors are free: a library that turns them round must not change the frozen part.
    turned = {name: -tensor for name, tensor in start.items()}
    again = add_lora(tiny_model(), options, seed=0, start=turned)
    mine, theirs = dict(first.named_parameters()), dict(again.named_parameters())
    for name, parameter in mine.items():
        expected = -parameter if ".lora_" in name else parameter
        assert torch.equal(theirs[name], expected), name


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "pissa" in name])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_split_bases_adapter_fits_the_plain_base(family: str, variant: str) -> None:
    model = add_lora(tiny_model(family), config(**VARIANTS[variant]), seed=0).eval()
    start = adapter_tensors(model)
    shake(model)
    tuned = scores(model)
    tensors, settings = on_plain_base(dict(trainable(model)), start, model.peft_config[ADAPTER].to_dict())
    plain = tiny_model(family)
    assert float((scores(plain) - tuned).abs().max()) > 1  # the shake is no rounding
    options = config(
        lora_r=settings["r"], lora_alpha=settings["lora_alpha"],
        **{k: v for k, v in VARIANTS[variant].items() if k != "init_lora_weights"},
    )  # fmt: skip
    fitted = add_lora(plain, options, seed=1).eval()
    with torch.no_grad():
        for name, parameter in trainable(fitted).items():
            parameter.copy_(tensors[name])
    assert float((scores(fitted) - tuned).abs().max()) <= 8 * rounding(tuned)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_is_kept_while_the_adapter_learns(variant: str) -> None:
    model = add_lora(tiny_model(), config(**VARIANTS[variant]), seed=0).eval()
    before = scores(model)
    start = start_copy(model)
    assert (start is None) == (variant in ("lora", "gaussian", "rslora"))
    shake(model)
    if start is None:
        with model.disable_adapter():
            assert torch.equal(scores(model), before)
        return
    assert torch.equal(scores(start), before)
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    own = [p for p in start.parameters() if id(p) not in frozen]
    assert sum(p.numel() for p in own) == sum(p.numel() for p in trainable(model).values())


def test_a_loaded_adapter_of_zero_and_a_changed_magnitude_is_no_start() -> None:
    model = add_lora(tiny_model(), config(use_dora=True), seed=0).eval()
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if "magnitude" in name:
                parameter.mul_(1.5)
    assert start_copy(model) is not None


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lora_r": 33}, "rank at most"),
        ({"lora_target_modules": ["embed_tokens"]}, "no linear layer"),
    ],
)
def test_what_pissa_cannot_split_is_refused(options: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        add_lora(tiny_model(), config(init_lora_weights="pissa", **options), seed=0)


def test_a_rounded_base_is_not_split() -> None:
    with pytest.raises(UsageError, match="float32"):
        add_lora(tiny_model().to(torch.bfloat16), config(init_lora_weights="pissa"), seed=0)


def test_a_split_starts_from_nothing_that_does_not_fit() -> None:
    model = add_lora(tiny_model(), config(), seed=0)
    wrong = {name: tensor[:1] for name, tensor in adapter_tensors(model).items()}
    split_base(model, wrong)
    assert all(bool(tensor.count_nonzero()) for tensor in adapter_tensors(model).values())
