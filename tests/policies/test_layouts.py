"""Where tokens are put, who sees whom, and that a mistake in either would be noticed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.families import FAMILIES, uneven_batch
from tests.tiny import tiny_batch, tiny_model
from tether.errors import ModelError
from tether.policies import attention, logprobs
from tether.policies.attention import layout_attention, shared_mask
from tether.policies.layouts import Layout, LayoutInputs, lay_out
from tether.policies.logprobs import sequence_logprobs
from tether.policies.packed import ACCELERATOR_COSTS, CPU_COSTS, CallCosts, PackedPlan
from tether.records.tensors import GroupBatch, SequenceLogProbs
from tether.tokens.collate import plan_microbatches

LAYOUTS: tuple[Layout, ...] = ("padded", "shared", "packed")
Shapes = list[tuple[int, list[int]]]

shapes = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=1, max_size=6
)


def causal(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key <= query


# -- placement -----------------------------------------------------------------------------------------------


@given(shapes=shapes, layout=st.sampled_from((*LAYOUTS, "varlen")))
@settings(max_examples=60)
def test_every_token_has_its_place_position_and_predecessor(shapes: Shapes, layout: Layout) -> None:
    batch = tiny_batch(shapes)
    inputs = lay_out(batch, layout)
    ids, positions, segments = (t.flatten() for t in (inputs.input_ids, inputs.position_ids, inputs.segments))
    prompts = torch.split(batch.prompt_ids, batch.prompt_lengths.tolist())
    completions = torch.split(batch.completion_ids, batch.completion_lengths.tolist())
    sources = torch.split(inputs.sources, batch.completion_lengths.tolist())
    for group, completion, source in zip(batch.group_of.tolist(), completions, sources, strict=True):
        prompt = prompts[group]
        text = torch.cat([prompt[-1:], completion[:-1]])[: len(completion)]
        assert torch.equal(ids[source], text)
        assert torch.equal(positions[source], torch.arange(len(completion)) + len(prompt) - 1)
    copies = torch.bincount(batch.group_of) if layout == "padded" else torch.ones(len(batch))
    assert int((segments >= 0).sum()) == int((batch.prompt_lengths * copies).sum()) + len(
        batch.completion_ids
    )
    assert len(plan_microbatches(batch, ids.numel(), layout)) == 1, "the token budget counts what is computed"
    if len(batch) > 1:
        assert len(plan_microbatches(batch, ids.numel() - 1, layout)) > 1, "and no less"


# -- who sees whom -------------------------------------------------------------------------------------------


def seen_by_plan(plan: PackedPlan, total: int, rule: Any) -> torch.Tensor:
    """Return the T x T table of what each token sees, read from the calls of a plan."""
    table = torch.zeros(total, total, dtype=torch.int64)
    answer = {slot: token for token, slot in enumerate(plan.output_index.tolist())}
    slot, first_key = 0, 0
    for bucket in plan.buckets:
        mask = bucket.mask(rule)[:, 0]
        for row in range(bucket.rows):
            keys = plan.key_index[first_key + row * bucket.keys :][: bucket.keys]
            for query in range(bucket.queries):
                token = answer.get(slot)
                slot += 1
                if token is not None:
                    assert plan.query_index[slot - 1] == token
                    table[token].index_add_(0, keys, mask[row, query].to(torch.int64))
                assert mask[row, query].any(), "a query that sees nothing gives NaN"
        first_key += bucket.rows * bucket.keys
    return table


@given(
    shapes=shapes,
    window=st.sampled_from([2, 5, 100]),
    costs=st.sampled_from([CPU_COSTS, ACCELERATOR_COSTS, CallCosts(0, 1, 1.0), CallCosts(10, 1, 9.0)]),
)
@settings(max_examples=60)
def test_a_packed_plan_sees_exactly_prompt_and_own_completion(
    shapes: Shapes, window: int, costs: CallCosts
) -> None:
    batch = tiny_batch(shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tether.policies.layouts.CPU_COSTS", costs)
        inputs = lay_out(batch, "packed")
    plan = inputs.plan
    assert plan is not None

    def rule(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key > query - window)

    total = inputs.input_ids.shape[1]
    group = torch.tensor(
        [i for i, (prompt, lengths) in enumerate(shapes) for _ in range(prompt + sum(lengths))]
    )
    segment, position = inputs.segments[0], inputs.position_ids[0]
    expected = (
        (group[:, None] == group)
        & ((segment == 0) | (segment[:, None] == segment))
        & rule(position[:, None], position)
    )
    assert torch.equal(seen_by_plan(plan, total, rule), expected.to(torch.int64))
    for bucket in plan.buckets:
        if bucket.causal:
            real = bucket.key_valid
            lower = torch.ones(bucket.keys, bucket.keys, dtype=torch.bool).tril()
            flag, mask = lower & real[:, :, None], bucket.mask(causal)[:, 0]
            assert torch.equal(flag, mask & real[:, :, None]), "the causal flag must say what the mask says"


def test_short_rows_share_a_call_and_long_ones_do_not_pay_for_padding() -> None:
    few = lay_out(tiny_batch([(9, [5, 6])] * 20), "packed").plan
    assert few is not None and len(few.buckets) == 2
    long = lay_out(tiny_batch([(100, [300, 20]), (40, [10, 200]), (900, [50, 50])]), "packed").plan
    assert long is not None
    padded = sum(bucket.rows * bucket.queries * bucket.keys for bucket in long.buckets)
    real = 400**2 + 20 * 120 + 50**2 + 200 * 240 + 950**2 + 50 * 950
    assert padded <= 1.1 * real


# -- negative controls: each mistake moves a sum by more than 1e-2 ------------------------------------------


def moved(family: str, layout: Layout) -> float:
    name, options = FAMILIES[family]
    model, batch = tiny_model(name, **options), uneven_batch()
    with torch.no_grad():
        oracle: SequenceLogProbs = sequence_logprobs(model, batch)
        wrong = sequence_logprobs(model, batch, layout=layout)
    return float((wrong.sums - oracle.sums).abs().max())


def with_positions(change: Any) -> Any:
    def changed(batch: GroupBatch, layout: Layout, device: torch.device) -> LayoutInputs:
        inputs = lay_out(batch, layout, device)
        return inputs if layout == "padded" else change(inputs)

    return changed


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_do_not_restart_would_be_noticed(
    family: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(inputs: LayoutInputs) -> LayoutInputs:
        columns = torch.arange(inputs.input_ids.shape[1]).expand_as(inputs.input_ids)
        return replace(inputs, position_ids=columns)

    monkeypatch.setattr(logprobs, "lay_out", with_positions(running))
    assert moved(family, layout) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sibling_that_leaks_would_be_noticed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(inputs: LayoutInputs, rule: Any) -> torch.Tensor:
        itself = torch.eye(inputs.segments.shape[1], dtype=torch.bool)
        allowed = rule(inputs.position_ids[:, :, None], inputs.position_ids[:, None, :]) | itself
        return allowed[:, None]

    monkeypatch.setattr(attention, "shared_mask", leaking)
    assert moved(family, "shared") > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sibling_that_leaks_into_a_packed_call_would_be_noticed(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(inputs: LayoutInputs) -> LayoutInputs:
        plan, segments = inputs.plan, inputs.segments[0]
        assert plan is not None
        # The second completion reads the first one's keys where its own should be.
        keys = plan.key_index.clone()
        keys[segments[keys] == 2] -= 1
        return replace(inputs, plan=replace(plan, key_index=keys))

    monkeypatch.setattr(logprobs, "lay_out", with_positions(leaking))
    assert moved(family, "packed") > 1e-2


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_that_is_dropped_would_be_noticed(
    family: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    additive = attention._additive
    monkeypatch.setattr(attention, "_additive", lambda mask, dtype: torch.zeros_like(additive(mask, dtype)))
    assert moved(family, layout) > 1e-2


def test_a_window_that_is_forgotten_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_rule", lambda *_, **__: causal)
    for layout in LAYOUTS[1:]:
        assert moved("mistral-window", layout) > 1e-2
        assert moved("gemma3", layout) > 1e-2


# -- the attention stays where it belongs -------------------------------------------------------------------


def test_the_models_attention_is_restored_also_after_an_error() -> None:
    model = tiny_model()
    inputs = lay_out(uneven_batch(), "packed")
    with pytest.raises(KeyboardInterrupt), layout_attention(model.model, inputs):
        assert model.config._attn_implementation == "tether_packed"
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "sdpa"


def test_a_packed_row_outside_its_layout_is_refused_not_computed_wrongly() -> None:
    model = tiny_model()
    model.config._attn_implementation = "tether_packed"
    ids = torch.arange(5)[None]
    with pytest.raises(ModelError, match="outside"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_padding_in_a_shared_row_sees_itself_only() -> None:
    inputs = lay_out(tiny_batch([(2, [1]), (3, [4])]), "shared")
    mask = shared_mask(inputs, causal)[0, 0]
    assert torch.equal(mask[3:], torch.eye(7, dtype=torch.bool)[3:])
    assert not mask[:3, 3:].any()
