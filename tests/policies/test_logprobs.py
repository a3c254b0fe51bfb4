"""Three layouts, one answer: sums, gradients, and what must not matter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.policies.families import FAMILIES, apart, gradients, same_sums, uneven_batch
from tests.tiny import tiny_batch, tiny_model
from tether.errors import DataError, ModelError
from tether.policies import logprobs
from tether.policies.layouts import Layout
from tether.policies.logprobs import forward_backward, sequence_logprobs
from tether.records.tensors import GroupBatch, SequenceLogProbs

OTHERS: tuple[Layout, ...] = ("shared", "packed")
LAYOUTS: tuple[Layout, ...] = ("padded", "shared", "packed")


def group_loss(values: SequenceLogProbs, groups: torch.Tensor) -> torch.Tensor:
    """One curved term per group, coupling its completions; needs to know which completion is whose."""
    terms: list[torch.Tensor] = []
    taken = 0
    for group in groups.tolist():
        count = COMPLETIONS[group]
        sums = values.sums[taken : taken + count]
        slopes = torch.linspace(0.05, -0.1, count)
        terms.append(torch.nn.functional.softplus((sums * slopes).sum() + 0.1 * group))
        taken += count
    assert taken == len(values.sums)
    return torch.stack(terms).sum()


COMPLETIONS = [2, 3, 1, 4, 2]


def oracle_values(model: Any, batch: GroupBatch) -> torch.Tensor:
    """Sums by hand: the model's own logits of one sequence at a time, in fp64 after the logits."""
    prompts = torch.split(batch.prompt_ids, batch.prompt_lengths.tolist())
    completions = torch.split(batch.completion_ids, batch.completion_lengths.tolist())
    sums: list[torch.Tensor] = []
    for group, completion in zip(batch.group_of.tolist(), completions, strict=True):
        ids = torch.cat([prompts[group], completion])[None]
        with torch.no_grad():
            table = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), -1)
        rows = table[len(prompts[group]) - 1 : -1]
        sums.append(rows.gather(1, completion[:, None]).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_gives_what_the_model_alone_says_of_each_sequence(family: str) -> None:
    name, options = FAMILIES[family]
    model, batch = tiny_model(name, **options), uneven_batch()
    with torch.no_grad():
        ours = sequence_logprobs(model, batch)
    expected = oracle_values(model, batch)
    # fp32 logits of magnitude m carry an error of about m * 6e-8 each.
    assert ((ours.sums.double() - expected).abs() <= 2e-6 * (expected.abs() + ours.counts)).all()
    assert ours.tokens is not None and ours.tokens.dtype == torch.float32
    assert torch.allclose(torch.stack([t.sum() for t in ours.tokens.split(ours.counts.tolist())]), ours.sums)


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_gives_the_padded_sums_and_gradients(family: str, layout: Layout) -> None:
    name, options = FAMILIES[family]
    model, batch = tiny_model(name, **options), uneven_batch()
    before = model.config._attn_implementation
    with torch.no_grad():
        same_sums(sequence_logprobs(model, batch, layout=layout), sequence_logprobs(model, batch))
    group_loss(sequence_logprobs(model, batch), torch.arange(5)).backward()
    oracle = gradients(model)
    values = forward_backward(model, batch, layout=layout, loss=group_loss)
    assert apart(gradients(model), oracle) < 1e-5
    assert values.tokens is not None and not values.tokens.requires_grad
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("head_chunk", "whole"), [(512, 2**24), (16, 2**24), (7, 0), (1, 0)])
def test_the_fused_backward_is_plain_autograd(
    layout: Layout, head_chunk: int, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "WHOLE_LOGITS", whole)
    model, batch = tiny_model(tie_word_embeddings=True), uneven_batch()
    values = sequence_logprobs(model, batch, layout=layout)
    group_loss(values, torch.arange(5)).backward()
    oracle = gradients(model)
    fused = forward_backward(model, batch, layout=layout, loss=group_loss, head_chunk=head_chunk)
    assert apart(gradients(model), oracle) < 1e-6
    same_sums(fused, values.detach())


def test_gradients_are_added_to_what_is_there() -> None:
    model, batch = tiny_model(), uneven_batch()
    forward_backward(model, batch, layout="packed", loss=group_loss)
    once = gradients(model)
    for _ in range(2):
        forward_backward(model, batch, layout="packed", loss=group_loss)
    assert apart(gradients(model), 2 * once) < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_micro_batches_change_neither_values_nor_gradient(layout: Layout) -> None:
    generator = torch.Generator().manual_seed(3)
    draw = torch.randint(1, 16, (10, 3), generator=generator).tolist()
    batch = tiny_batch([(prompt, [one, two]) for prompt, one, two in draw])
    model = tiny_model()

    def loss(values: SequenceLogProbs, groups: torch.Tensor) -> torch.Tensor:
        margins = values.sums[0::2] - values.sums[1::2]
        return -torch.nn.functional.logsigmoid(0.1 * margins).sum() / 10

    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for sizes in ([10], [4, 4, 2], [1] * 10):
        sums: list[torch.Tensor] = []
        for groups in torch.arange(10).split(sizes):
            part = batch.select(groups.tolist())
            sums.append(forward_backward(model, part, layout=layout, loss=loss).sums)
        found.append((torch.cat(sums), gradients(model)))
    for sums, gradient in found[1:]:
        assert torch.allclose(sums, found[0][0], rtol=1e-6, atol=2e-6)
        assert apart(gradient, found[0][1]) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_neighbours_in_the_batch_do_not_matter(layout: Layout) -> None:
    model, batch = tiny_model("qwen3"), uneven_batch()
    with torch.no_grad():
        together = sequence_logprobs(model, batch, layout=layout)
        for group in range(len(batch)):
            alone = sequence_logprobs(model, batch.select([group]), layout=layout)
            same_sums(alone, together[(batch.group_of == group).nonzero().flatten()])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_completion_without_tokens_has_the_sum_zero(layout: Layout) -> None:
    model, batch = tiny_model(), tiny_batch([(4, [0, 5]), (6, [3, 0]), (2, [0])])
    with torch.no_grad():
        values = sequence_logprobs(model, batch, layout=layout)
        oracle = sequence_logprobs(model, batch)
    same_sums(values, oracle)
    assert values.sums[[0, 3, 4]].tolist() == [0.0, 0.0, 0.0]
    assert values.counts.tolist() == [0, 5, 3, 0, 0]


@pytest.mark.parametrize("layout", OTHERS)
def test_bf16_differs_from_padded_as_padded_batch_sizes_differ(layout: Layout) -> None:
    shapes = [(20 + 3 * i, [9 + i, 25 - i]) for i in range(8)]
    model, batch = tiny_model().to(torch.bfloat16), tiny_batch(shapes)
    with torch.no_grad():
        oracle = sequence_logprobs(model, batch).tokens
        ours = sequence_logprobs(model, batch, layout=layout).tokens
        alone = [sequence_logprobs(model, batch.select([group])).tokens for group in range(8)]
    assert oracle is not None and ours is not None
    noise = (torch.cat([part for part in alone if part is not None]) - oracle).square().mean().sqrt()
    assert noise > 0
    assert (ours - oracle).square().mean().sqrt() <= 2 * noise


@pytest.mark.parametrize("layout", LAYOUTS)
def test_under_autocast_log_probs_and_sums_stay_fp32(layout: Layout) -> None:
    model, batch = tiny_model("mistral", sliding_window=6), uneven_batch()
    with torch.autocast("cpu", torch.bfloat16):
        values = forward_backward(model, batch, layout=layout, loss=group_loss)
    half = gradients(model)
    full = forward_backward(model, batch, layout=layout, loss=group_loss)
    assert values.tokens is not None and values.tokens.dtype == values.sums.dtype == torch.float32
    # bf16 carries 8 bits through two layers; a wrong mask moves whole nats.
    assert torch.allclose(values.sums, full.sums, rtol=0.05, atol=0.5)
    assert apart(half, gradients(model)) < 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_activation_checkpointing_changes_nothing(layout: Layout) -> None:
    model, batch = tiny_model("gemma3_text", sliding_window=6).train(), uneven_batch()
    plain = forward_backward(model, batch, layout=layout, loss=group_loss)
    oracle = gradients(model)
    model.gradient_checkpointing_enable()
    ours = forward_backward(model, batch, layout=layout, loss=group_loss)
    assert torch.equal(ours.sums, plain.sums)
    assert torch.equal(gradients(model), oracle)


def test_a_graph_that_would_be_recomputed_outside_its_layout_is_refused() -> None:
    model, batch = tiny_model().train(), uneven_batch()
    model.gradient_checkpointing_enable()
    with pytest.raises(ModelError, match="use that"):
        sequence_logprobs(model, batch, layout="packed")
    sequence_logprobs(model, batch, layout="padded").sums.sum().backward()


@pytest.mark.parametrize("layout", OTHERS)
def test_lora_adapters_get_the_padded_gradient_and_the_base_none(layout: Layout) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model: Any = get_peft_model(tiny_model(), config)
    batch = uneven_batch()
    oracle_sums = sequence_logprobs(model, batch)
    group_loss(oracle_sums, torch.arange(5)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    oracle = gradients(model)
    same_sums(forward_backward(model, batch, layout=layout, loss=group_loss), oracle_sums.detach())
    assert apart(gradients(model), oracle) < 1e-5
    with torch.no_grad(), model.disable_adapter():
        off = sequence_logprobs(model, batch, layout=layout)
    assert (off.sums - oracle_sums.sums.detach()).abs().max() > 1e-2


def test_nothing_of_the_vocabularys_size_outlives_its_chunk() -> None:
    model, batch = tiny_model(), tiny_batch([(5, [6, 6])] * 20)
    alive: list[int] = []

    def watch(gradient: torch.Tensor) -> torch.Tensor:
        alive.append(-1)
        return gradient

    def seen(module: Any, inputs: Any, output: torch.Tensor) -> None:
        assert output.numel() <= 24 * 384
        alive.append(output.shape[0])
        if output.requires_grad:
            output.register_hook(watch)

    model.lm_head.register_forward_hook(seen)
    forward_backward(model, batch, layout="packed", loss=lambda values, _: values.sums.sum(), head_chunk=24)
    # Every chunk's backward has run before the next chunk's logits exist.
    assert alive == [24, -1] * 10


def test_a_frozen_model_needs_no_backward_of_its_backbone() -> None:
    model, batch = tiny_model(), uneven_batch()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    forward_backward(model, batch, layout="packed", loss=group_loss)
    assert model.lm_head.weight.grad is not None
    assert model.model.embed_tokens.weight.grad is None


def test_bad_input_is_one_line() -> None:
    model = tiny_model()
    with pytest.raises(DataError, match="row row-1: the prompt has no tokens"):
        sequence_logprobs(model, tiny_batch([(2, [2]), (0, [2])]))
    with pytest.raises(DataError, match="row row-1: the group has no completions"):
        sequence_logprobs(model, tiny_batch([(2, [2]), (2, []), (1, [1])]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_context_tokens_of_a_completion_are_read_but_not_scored(layout: Layout) -> None:
    model, whole = tiny_model("llama"), uneven_batch()
    generator = torch.Generator().manual_seed(3)
    scored = torch.rand(len(whole.completion_ids), generator=generator) < 0.5
    # The last token of every completion is scored, so that none is empty.
    scored[whole.completion_lengths.cumsum(0) - 1] = True
    some = replace(whole, scored=scored)
    with torch.no_grad():
        every = sequence_logprobs(model, whole, layout=layout)
        part = sequence_logprobs(model, some, layout=layout, head_chunk=5)
    assert every.tokens is not None and part.tokens is not None
    assert torch.allclose(part.tokens, every.tokens[scored], atol=1e-5)
    pieces = scored.split(whole.completion_lengths.tolist())
    assert part.counts.tolist() == [int(piece.sum()) for piece in pieces]
    assert torch.allclose(part.sums, torch.stack([t.sum() for t in part.tokens.split(part.counts.tolist())]))

    def gradient(batch: GroupBatch, loss: Any, chunk: int) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        forward_backward(model, batch, layout=layout, loss=loss, head_chunk=chunk)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    def masked(values: SequenceLogProbs, groups: torch.Tensor) -> torch.Tensor:
        assert values.tokens is not None
        return (values.tokens * scored).sum()

    own = gradient(some, lambda values, groups: values.sums.sum(), 7)
    assert torch.allclose(own, gradient(whole, masked, 10_000), atol=1e-4, rtol=1e-4)
