"""The variable-length kernel's layout, on a CPU: the kernel is stood in for by plain attention."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.policies.families import FAMILIES, apart, gradients, same_sums, uneven_batch
from tests.policies.test_layouts import Shapes, causal, shapes
from tests.tiny import tiny_batch, tiny_model
from tether.errors import ModelError
from tether.policies import attention
from tether.policies.attention import layout_attention
from tether.policies.layout_check import choose_layout
from tether.policies.layouts import Layout, lay_out
from tether.policies.logprobs import forward_backward, sequence_logprobs
from tether.policies.packed import Segments
from tether.records.tensors import GroupBatch, SequenceLogProbs

WITHOUT_CAP = [name for name in FAMILIES if name != "gemma2"]


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    aligned_at_end: bool = True,
) -> Tensor:
    """What torch.nn.attention.varlen.varlen_attn (torch 2.13) computes, one row after the other."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.dtype == key.dtype == value.dtype
    assert (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max())) == (max_q, max_k)
    assert (len(query), len(key)) == (int(cu_seq_q[-1]), int(cu_seq_k[-1]))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    repeats = query.shape[1] // key.shape[1]
    answers: list[Tensor] = []
    for row in range(len(cu_seq_q) - 1):
        asks, gives = slice(*cu_seq_q[row : row + 2].tolist()), slice(*cu_seq_k[row : row + 2].tolist())
        q = query[asks].transpose(0, 1)
        k, v = (x[gives].transpose(0, 1).repeat_interleave(repeats, 0) for x in (key, value))
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        at = torch.arange(q.shape[1])[:, None] + (k.shape[1] - q.shape[1] if aligned_at_end else 0)
        ahead = torch.arange(k.shape[1]) - at
        left, right = window_size
        seen = (ahead <= right) if left < 0 else (ahead <= right) & (ahead >= -left)
        answers.append((scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(answers)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", kernel)


def total(values: SequenceLogProbs, groups: Tensor) -> Tensor:
    return (values.sums * torch.arange(1, len(values.sums) + 1)).sum()


def run(model: Any, batch: GroupBatch, layout: Layout) -> SequenceLogProbs:
    return forward_backward(model, batch, layout=layout, loss=total, head_chunk=10**6)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("family", WITHOUT_CAP)
def test_every_family_gets_the_padded_sums_and_gradients(family: str) -> None:
    name, options = FAMILIES[family]
    model, batch = tiny_model(name, **options), uneven_batch()
    oracle, expected = run(model, batch, "padded"), gradients(model)
    values, found = run(model, batch, "varlen"), gradients(model)
    same_sums(values, oracle)
    assert apart(found, expected) < 1e-5
    run(model, batch, "varlen")
    model.config.attn_pdrop = 0.0  # GPT-2's; refused below
    choice = choose_layout(model, "varlen", batch)
    assert (choice.name, choice.reason) == ("varlen", None)
    assert torch.equal(gradients(model), found), "the check leaves gradients alone"


@pytest.mark.usefixtures("emulated")
def test_a_kernel_without_grouped_heads_gets_repeated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(*tensors: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
        return kernel(*tensors, scale=scale, window_size=window_size)

    model = tiny_model("llama")
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    with_groups = run(model, uneven_batch(), "varlen")
    monkeypatch.setattr(attention, "varlen_attn", older)
    without = run(model, uneven_batch(), "varlen")
    same_sums(without, with_groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_kernel_sees_half_precision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        assert query.dtype == torch.bfloat16
        return kernel(query, *rest, **options)

    monkeypatch.setattr(attention, "varlen_attn", half)
    model = tiny_model("llama").to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        oracle = sequence_logprobs(model, uneven_batch(), layout="padded")
        found = sequence_logprobs(model, uneven_batch(), layout="varlen")
    assert torch.allclose(found.sums, oracle.sums, rtol=0.02, atol=0.1)


def test_a_soft_cap_is_left_to_the_other_layouts() -> None:
    name, options = FAMILIES["gemma2"]
    choice = choose_layout(tiny_model(name, **options), "varlen", uneven_batch())
    assert choice.name == "padded" and "soft cap" in str(choice.reason)


@pytest.mark.usefixtures("emulated")
def test_dropout_of_attention_which_only_training_would_show_is_refused_before() -> None:
    choice = choose_layout(tiny_model("gpt2"), "varlen", uneven_batch())
    assert choice.name == "padded" and "attn_pdrop is 0.1" in str(choice.reason)


def test_where_the_kernel_does_not_run_one_line_says_so() -> None:
    """On a CPU torch's own kernel does not exist; the run goes on, padded, and `auto` never asks for it."""
    choice = choose_layout(tiny_model(), "varlen", uneven_batch())
    assert choice.name == "padded" and str(choice.reason).startswith("varlen: ")
    assert "\n" not in str(choice.reason)
    assert choose_layout(tiny_model().to(torch.bfloat16), "auto", uneven_batch()).name == "packed"


def test_a_kernel_that_aligns_rows_at_their_beginning_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(*tensors: Any, **options: Any) -> Tensor:
        return kernel(*tensors, **options, aligned_at_end=False)

    monkeypatch.setattr(attention, "varlen_attn", early)
    choice = choose_layout(tiny_model(), "varlen", uneven_batch())
    assert choice.name == "padded" and "log-probs differ from padded" in str(choice.reason)


def test_a_kernel_whose_backward_pass_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        return kernel(query, key.detach(), *rest, **options)

    monkeypatch.setattr(attention, "varlen_attn", forgetful)
    model = tiny_model()
    choice = choose_layout(model, "varlen", uneven_batch())
    assert choice.name == "padded" and "gradients differ from padded" in str(choice.reason)
    assert all(p.grad is None for p in model.parameters())


@given(shapes=shapes)
@settings(max_examples=60)
def test_a_row_sees_exactly_prompt_and_own_completion(shapes: Shapes) -> None:
    batch = tiny_batch(shapes)
    plan = lay_out(batch, "varlen").plan
    assert isinstance(plan, Segments)
    packed = lay_out(batch, "packed")
    group = torch.repeat_interleave(torch.arange(len(batch)), batch.group_lengths)
    segment, position = packed.segments.flatten(), packed.position_ids.flatten()
    expected = (group[:, None] == group) & ((segment == 0) | (segment == segment[:, None]))
    expected &= position <= position[:, None]
    seen = torch.zeros_like(expected)
    for row in range(len(plan.query_ends) - 1):
        asks = torch.arange(*plan.query_ends[row : row + 2].tolist())
        gives = plan.key_index[slice(*plan.key_ends[row : row + 2].tolist())]
        late = len(gives) - len(asks)
        seen[asks[:, None], gives] = torch.arange(len(gives)) <= torch.arange(len(asks))[:, None] + late
    assert torch.equal(seen, expected)
    assert torch.equal(torch.arange(len(group)), torch.arange(int(plan.query_ends[-1])))


def test_a_rule_that_is_no_window_is_refused() -> None:
    inputs = lay_out(tiny_batch([(9, [5, 12])]), "varlen")

    def chunked(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return causal(query, key) & (query // 4 == key // 4)

    def windowed(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return causal(query, key) & (key > query - 4)

    with layout_attention(tiny_model().model, inputs):
        assert attention._varlen_mask_of(mask_function=windowed).window == 4
        with pytest.raises(ModelError, match="neither causal nor a sliding window"):
            attention._varlen_mask_of(mask_function=chunked)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch's variable-length kernel exists on CUDA only"
)
@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral-window", "gemma3"])
def test_on_a_gpu_auto_takes_the_kernel_and_it_agrees(family: str) -> None:
    name, options = FAMILIES[family]
    model = tiny_model(name, **options).to("cuda", torch.bfloat16)
    choice = choose_layout(model, "auto", uneven_batch())
    assert (choice.name, choice.reason) == ("varlen", None)
