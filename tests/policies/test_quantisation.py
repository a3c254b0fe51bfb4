"""A base in few bits: named for what it is, counted in full, loaded as asked, the same in any batch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from tests.policies.configs import config
from tests.tiny import gentle_model, tiny_batch, tiny_model
from tether.errors import ModelError, UsageError
from tether.policies import quantisation as module
from tether.policies.adapters import add_lora, start_copy, trainable
from tether.policies.load import load_model
from tether.policies.logprobs import sequence_logprobs
from tether.policies.quantisation import (
    Quantisation,
    asked_for,
    by_name,
    quantisation_of,
    quantised_weights,
    require_package,
    weight_count,
)

ALL = [Quantisation(kind, nested) for kind in ("nf4", "fp4") for nested in (False, True)]
ALL += [Quantisation("int8")]
BATCH = tiny_batch([(5, [7, 9]), (11, [3, 4]), (2, [1, 6])])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True}, "choose one"),
        ({"load_in_4bit": True, "init_lora_weights": "pissa"}, "whole weights"),
        ({"load_in_8bit": True, "use_dora": True}, "use load_in_4bit"),
        ({"use_bnb_nested_quant": True}, "add load_in_4bit"),
        ({"bnb_4bit_quant_type": "fp4", "load_in_8bit": True}, "add load_in_4bit"),
        ({"use_dora": True, "use_peft": False}, "add use_peft"),
        ({"init_lora_weights": "gaussian", "use_peft": False}, "add use_peft"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        config(**options)


@pytest.mark.parametrize("stored", ALL)
def test_a_name_is_the_quantisation_it_names(stored: Quantisation) -> None:
    assert by_name(stored.name) == stored
    # The name comes from what transformers loaded, as an object or as a folder's config has it.
    settings = stored.settings(torch.float32)
    for found in (settings, settings.to_dict()):
        assert (
            quantisation_of(SimpleNamespace(config=SimpleNamespace(quantization_config=found))) == stored.name
        )


def test_what_is_not_ours_is_not_taken_for_none() -> None:
    assert quantisation_of(tiny_model()) == "none"
    gptq = SimpleNamespace(config=SimpleNamespace(quantization_config={"quant_method": "gptq", "bits": 4}))
    assert quantisation_of(gptq) == "gptq"
    assert by_name("gptq") is None and by_name("none") is None and by_name("nf4 twice") is None


def test_the_config_says_which() -> None:
    assert asked_for(config()) is None
    assert asked_for(config(load_in_8bit=True)) == Quantisation("int8")
    fp4 = config(load_in_4bit=True, bnb_4bit_quant_type="fp4", use_bnb_nested_quant=True)
    assert asked_for(fp4) == Quantisation("fp4", nested=True)


def test_8_bits_keep_no_columns_that_depend_on_the_batch() -> None:
    settings: BitsAndBytesConfig = Quantisation("int8").settings(torch.float32)
    assert settings.llm_int8_threshold == 0.0


def test_bytes_per_weight_are_numbers_and_scales() -> None:
    # 64 weights: 32 bytes and a 4-byte scale; nested, a 1-byte scale and 4 bytes for 256 of those.
    assert Quantisation("nf4").bytes_per_weight * 64 == pytest.approx(36)
    assert Quantisation("nf4", nested=True).bytes_per_weight * 64 * 256 == pytest.approx((32 + 1) * 256 + 4)
    assert Quantisation("int8").bytes_per_weight == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_embeddings_head_and_adapter_stay_in_full(family: str) -> None:
    plain = tiny_model(family)
    layers = sum(
        p.numel() for n, p in plain.named_parameters() if (p.dim() == 2 and "layers" in n) or ".h." in n
    )
    vectors = sum(p.numel() for n, p in plain.named_parameters() if ".h." in n and p.dim() == 1)
    assert sum(quantised_weights(plain)) == layers - vectors
    assert sum(quantised_weights(add_lora(tiny_model(family), config(), seed=0))) == layers - vectors


def test_packed_weights_are_counted_one_by_one() -> None:
    packed = nn.Linear(4, 2, bias=False)
    packed.weight = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    packed.weight.quant_state = SimpleNamespace(shape=torch.Size([2, 4]))
    assert weight_count(nn.Sequential(packed, nn.Linear(3, 1))) == 8 + 4


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"load_in_4bit: .*pip install 'tether\[quant\]'"):
        require_package("load_in_4bit")


def test_a_folder_that_is_quantised_already_is_not_quantised_again(tmp_path: Path) -> None:
    model = tiny_model()
    model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    model.config.save_pretrained(tmp_path)
    del model.config.quantization_config
    model.save_pretrained(tmp_path / "weights")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "weights" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="already stored as gptq"):
        load_model(tmp_path, quantisation=Quantisation("nf4"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    model = gentle_model("llama", hidden_size=64, intermediate_size=128)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return sequence_logprobs(model, BATCH).sums


@pytest.mark.parametrize("stored", ALL)
def test_a_quantised_model_is_itself_in_any_batch(stored: Quantisation, folder: Path) -> None:
    full, small = load_model(folder), load_model(folder, quantisation=stored)
    assert quantisation_of(small.model) == stored.name
    assert small.weights == full.weights and weight_count(small.model) == weight_count(full.model)
    together, whole = scores(small.model), scores(full.model)
    with torch.no_grad():
        alone = [sequence_logprobs(small.model, BATCH.select([row])).sums for row in range(len(BATCH))]
    error = float((together - whole).abs().max())
    assert 1e-3 < error < 0.2 * float(whole.abs().max())  # quantised indeed, and the same model still
    # 8-bit activations may be rounded the other way when attention's last bit moves: one step of 127.
    limit = error if stored.kind == "int8" else 64 * torch.finfo(torch.float32).eps * float(whole.abs().max())
    assert float((torch.cat(alone) - together).abs().max()) <= limit


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (Quantisation("nf4", nested=True), {}),
        (Quantisation("nf4", nested=True), {"use_dora": True}),
        (Quantisation("int8"), {}),
    ],
)
def test_the_start_of_a_quantised_policy_is_the_quantised_base(
    stored: Quantisation, options: dict[str, Any], folder: Path
) -> None:
    base = scores(load_model(folder, quantisation=stored).model)
    model = add_lora(load_model(folder, quantisation=stored).model, config(**options), seed=0).eval()
    assert torch.allclose(scores(model), base, atol=1e-4, rtol=0)
    start = start_copy(model)
    assert (start is None) == (not options)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05)
    assert float((scores(model) - base).abs().max()) > 0.1
    shaken = start_copy(model)  # as of an adapter that was loaded: base and adapter
    assert shaken is not None and torch.equal(scores(shaken), scores(model))
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05)
    assert not torch.equal(scores(model), scores(shaken))  # equal to the last bit before this step
    if start is not None:
        assert torch.allclose(scores(start), base, atol=1e-4, rtol=0)
    with model.disable_adapter():
        assert torch.equal(scores(model), base)
