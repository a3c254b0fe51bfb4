"""Activation checkpointing: the same gradient, and only the inputs of each block kept for the way back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_batch, tiny_model, tiny_tokenizer
from tether.config.train import TrainConfig
from tether.policies.adapters import add_lora
from tether.policies.layouts import Layout
from tether.policies.logprobs import forward_backward
from tether.records.tensors import SequenceLogProbs
from tether.training.policy import InMemory, checkpoint_blocks, load_policy

LAYOUTS: list[Layout] = ["padded", "shared", "packed"]
BATCH = tiny_batch([(40, [30, 50]), (25, [60, 20]), (50, [10, 45])])


def pair_loss(values: SequenceLogProbs, groups: Tensor) -> Tensor:
    chosen, rejected = values.sums.view(-1, 2).unbind(1)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected) + 0.3).sum()


def lora(model: Any) -> Any:
    config = TrainConfig(model_name_or_path="-", dataset_name="-", output_dir="-", use_peft=True)
    wrapped: Any = add_lora(model, config, seed=1)
    for name, parameter in wrapped.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.02)
    return wrapped


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tiny_model("llama"),
    "two layer types": lambda: tiny_model("gemma3_text", sliding_window=16),
    "tied, with dropout": lambda: tiny_model("gpt2"),
    "lora": lambda: lora(tiny_model("llama")),
}


def gradients(model: Any, layout: Layout) -> dict[str, Tensor]:
    torch.manual_seed(0)  # gpt2 drops out: the second computation must draw the same
    model.train().zero_grad(set_to_none=True)
    forward_backward(model, BATCH, layout=layout, loss=pair_loss, head_chunk=64)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_the_same(name: str, layout: Layout) -> None:
    model = MODELS[name]()
    plain = gradients(model, layout)
    checkpoint_blocks(model)
    again = gradients(model, layout)
    assert plain.keys() == again.keys() and len(plain) > 4
    for key, value in plain.items():
        assert float((again[key] - value).norm()) <= 1e-6 * float(value.norm()), key


class Kept:
    """Bytes of activations that autograd holds: now, and at most."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.now = self.most = 0
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._counts: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._weights:
            return tensor, None
        self._counts[place] = self._counts.get(place, 0) + 1
        size = storage.nbytes()
        if self._counts[place] == 1:
            self.now += size
            self.most = max(self.most, self.now)
        return tensor, _Held(self, place, size)

    def unpack(self, packed: Any) -> Tensor:
        return packed[0]


class _Held:
    def __init__(self, kept: Kept, place: int, size: int) -> None:
        self._kept, self._place, self._size = kept, place, size

    def __del__(self) -> None:
        counts = self._kept._counts
        counts[self._place] -= 1
        if counts[self._place] == 0:
            self._kept.now -= self._size


def kept(layers: int, layout: Layout, *, checkpointing: bool) -> int:
    model = tiny_model("llama", num_hidden_layers=layers)
    if checkpointing:
        checkpoint_blocks(model)
    counter = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
        gradients(model, layout)
    return counter.most


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_keeps_its_input_only_and_one_block_is_alive_at_a_time(layout: Layout) -> None:
    few, many = (kept(layers, layout, checkpointing=False) for layers in (2, 8))
    few_again, many_again = (kept(layers, layout, checkpointing=True) for layers in (2, 8))
    block, block_again = (many - few) / 6, (many_again - few_again) / 6
    rows = {"padded": 6 * 100, "shared": 3 * 120, "packed": 330}[layout]
    assert block_again <= 1.05 * rows * 32 * 4  # its input: width 32, four bytes
    # What the counter does not see is the one block that is computed again.
    assert many_again + block < 0.35 * many


def test_the_option_reaches_the_model() -> None:
    config = TrainConfig(
        model_name_or_path="-", dataset_name="-", output_dir="-", gradient_checkpointing=True, use_peft=True
    )
    memory = InMemory(tiny_model("llama"), tiny_tokenizer())
    model = load_policy(config, memory, torch.device("cpu")).model
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
