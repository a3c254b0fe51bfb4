"""The head's log-probs are the model's own, in fp32; what is not understood is refused."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn

from tests.tiny import tiny_batch, tiny_model
from tether.errors import ModelError
from tether.policies.head import check_head, take_apart, token_logprobs
from tether.policies.logprobs import sequence_logprobs

SCALED = {
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.3},
    "gemma2": {"final_logit_softcapping": 4.0},
    "gemma3_text": {"final_logit_softcapping": 4.0},
    "gpt2": {"tie_word_embeddings": True},
    "phi": {},
}


@pytest.mark.parametrize("family", SCALED)
def test_scaling_soft_caps_bias_and_tied_weights_are_the_models(family: str) -> None:
    model = tiny_model(family, **SCALED[family])
    assert check_head(model) < 1e-6
    batch = tiny_batch([(7, [5])])
    ids = torch.cat([batch.prompt_ids, batch.completion_ids])[None]
    with torch.no_grad():
        table = torch.log_softmax(model(input_ids=ids).logits[0], -1)
        ours = sequence_logprobs(model, batch).tokens
    expected = table[6:-1].gather(1, batch.completion_ids[:, None]).squeeze(1)
    assert ours is not None and torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_models_unknown_scaling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    forward = type(model).forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 1.01
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ModelError, match="not known here"):
        check_head(model)


def test_check_head_leaves_the_mode_as_it_was() -> None:
    model = tiny_model().train()
    check_head(model)
    assert model.training and not any(p.grad is not None for p in model.parameters())


def test_the_gradient_is_onehot_minus_softmax_and_used_once() -> None:
    parts = take_apart(tiny_model(tie_word_embeddings=False))
    hidden = torch.randn(6, 32).requires_grad_()
    ids = torch.tensor([1, 5, 5, 380, 0, 7])
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.0])
    values = token_logprobs(parts, hidden, ids)
    (values * weights).sum().backward(retain_graph=True)
    ours, weight = hidden.grad, parts.head.weight.grad
    assert ours is not None and weight is not None
    hidden.grad, parts.head.weight.grad = None, None
    table = torch.log_softmax(parts.head(hidden), -1)
    (table[torch.arange(6), ids] * weights).sum().backward()
    assert torch.allclose(ours, hidden.grad, rtol=1e-5, atol=1e-6)
    assert torch.allclose(weight, parts.head.weight.grad, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="twice"):
        (values * weights).sum().backward()


def test_half_precision_logits_are_normalised_in_fp32() -> None:
    parts = take_apart(tiny_model().to(torch.bfloat16))
    hidden = torch.randn(4, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        values = token_logprobs(parts, hidden, torch.arange(4))
        table = torch.log_softmax(parts.head(hidden).float(), -1)
    assert values.dtype == torch.float32
    assert torch.equal(values, table[torch.arange(4), torch.arange(4)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"), "sits on the LM head"),
        (
            LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
            "sits on the LM head",
        ),
        (PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "adds prompt vectors"),
    ],
)
def test_adapters_that_change_head_or_prompt_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        take_apart(get_peft_model(tiny_model(), config))


def test_what_is_no_causal_lm_is_refused() -> None:
    with pytest.raises(ModelError, match="not a transformers model"):
        take_apart(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no LM head"):
        take_apart(tiny_model().model)
