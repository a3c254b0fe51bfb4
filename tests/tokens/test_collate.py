"""Batches hold every id once and in order; micro-batches keep order and budget."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.errors import UsageError
from tether.tokens.collate import Layout, collate, plan_microbatches
from tether.tokens.render import EncodedCompletion, EncodedGroup

LAYOUTS: list[Layout] = ["padded", "shared", "packed"]


def group(index: int, prompt: list[int], *completions: list[int], **options: Any) -> EncodedGroup:
    made = tuple(
        EncodedCompletion(f"rank-{n}", ids, f"key-{index}-{n}", False, None)
        for n, ids in enumerate(completions)
    )
    values = {"weight": 1.0, "margin": 0.0, "probability": 1.0, "notes": frozenset[str](), **options}
    return EncodedGroup(f"row-{index}", prompt, made, **values)


def rows_of(batch: Any) -> list[tuple[str, list[int], list[tuple[str, str, list[int]]]]]:
    """Read a batch back, row by row, by plain counting."""
    rows, at, prompt_at = [], 0, 0
    for index, row_id in enumerate(batch.row_ids):
        length = int(batch.prompt_lengths[index])
        members = [s for s in range(batch.sequences) if int(batch.group_of[s]) == index]
        completions = []
        for sequence in members:
            end = at + int(batch.completion_lengths[sequence])
            completions.append(
                (batch.roles[sequence], batch.keys[sequence], batch.completion_ids[at:end].tolist())
            )
            at = end
        rows.append((row_id, batch.prompt_ids[prompt_at : prompt_at + length].tolist(), completions))
        prompt_at += length
    return rows


IDS = st.lists(st.integers(0, 9), max_size=9)
GROUPS = st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3)), min_size=1, max_size=8).map(
    lambda parts: [group(i, prompt, *completions) for i, (prompt, completions) in enumerate(parts)]
)


@settings(max_examples=80)
@given(GROUPS, st.data())
def test_collating_and_selecting_give_back_the_rows(groups: list[EncodedGroup], data: st.DataObject):
    expected = [(g.row_id, g.prompt_ids, [(c.role, c.key, c.ids) for c in g.completions]) for g in groups]
    batch = collate(groups)
    assert rows_of(batch) == expected
    chosen = data.draw(st.lists(st.integers(0, len(groups) - 1), unique=True))
    assert rows_of(batch.select(chosen)) == [expected[index] for index in chosen]
    assert rows_of(collate([groups[index] for index in chosen])) == [expected[index] for index in chosen]


def test_weights_margins_and_probabilities_follow_their_rows():
    batch = collate(
        [group(0, [1], [2], weight=0.5, margin=2.0), group(1, [3], [4], [5], probability=0.75)]
    ).select([1, 0])
    assert batch.weights.tolist() == [1.0, 0.5]
    assert batch.margins.tolist() == [0.0, 2.0]
    assert batch.probabilities.tolist() == [0.75, 1.0]


def test_no_rows_make_an_empty_batch():
    batch = collate([])
    assert len(batch) == batch.sequences == 0
    assert plan_microbatches(batch, 10, "padded") == []


@pytest.mark.parametrize(
    ("layout", "size"), [("padded", 4 * 7), ("shared", 2 * 9), ("packed", 3 + 6 + 5 + 2)]
)
def test_a_budget_is_of_the_tensors_positions(layout: Layout, size: int):
    batch = collate([group(0, [0] * 3, [0] * 2, [0] * 4), group(1, [0] * 5, [0], [0])])
    assert plan_microbatches(batch, size, layout) == [[0, 1]]
    assert plan_microbatches(batch, size - 1, layout) == [[0], [1]]


def positions(groups: list[EncodedGroup], layout: Layout) -> int:
    """Positions of one tensor of this layout, padding included."""
    padded = [len(g.prompt_ids) + len(c.ids) for g in groups for c in g.completions]
    whole = [len(g.prompt_ids) + sum(len(c.ids) for c in g.completions) for g in groups]
    if layout == "packed":
        return sum(whole)
    rows = padded if layout == "padded" else whole
    return len(rows) * max(rows, default=0)


@settings(max_examples=120)
@given(GROUPS, st.integers(1, 80), st.sampled_from(LAYOUTS))
def test_micro_batches_hold_every_group_once_in_order_within_the_budget(
    groups: list[EncodedGroup], budget: int, layout: Layout
):
    batch = collate(groups)
    plan = plan_microbatches(batch, budget, layout)
    assert [index for part in plan for index in part] == list(range(len(groups)))
    for part in plan:
        assert part
        assert len(part) == 1 or positions([groups[i] for i in part], layout) <= budget
    for part, following in itertools.pairwise(plan):
        longer = [groups[i] for i in (*part, following[0])]
        assert positions(longer, layout) > budget  # no micro-batch is cut short


def test_a_group_over_the_budget_is_alone():
    batch = collate([group(0, [0], [0]), group(1, [0] * 50, [0]), group(2, [0], [0])])
    for layout in LAYOUTS:
        assert plan_microbatches(batch, 10, layout) == [[0], [1], [2]]


def test_senseless_budgets_and_layouts_are_refused():
    batch = collate([group(0, [0], [0])])
    with pytest.raises(UsageError, match="max_tokens_per_microbatch"):
        plan_microbatches(batch, 0, "padded")
    with pytest.raises(UsageError, match="layout"):
        plan_microbatches(batch, 10, "folded")
