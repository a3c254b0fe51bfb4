"""Splits never part a prompt, mixes use rows evenly, and both are functions of rows and seed alone."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data.mix import first_of_each, halve, mix, shuffle_labels, split, take
from tether.errors import DataError, UsageError
from tether.records.rows import Completion, Origin, Preference


def rows(prompts: list[str]) -> list[Preference]:
    return [
        Preference(Origin("f", i), prompt, (Completion("chosen", f"a{i}"), Completion("rejected", "b")))
        for i, prompt in enumerate(prompts)
    ]


@settings(max_examples=150)
@given(
    prompts=st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40).filter(
        lambda p: len(set(p)) > 1
    ),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_a_prompt_is_on_one_side_and_every_row_on_one(prompts: list[str], fraction: float, seed: int) -> None:
    everything = rows(prompts)
    train, held = split(everything, fraction, seed)
    assert train and held
    assert not {r.prompt for r in train} & {r.prompt for r in held}
    assert sorted(r.origin.row for r in train + held) == list(range(len(everything)))
    assert [r.origin.row for r in train] == sorted(r.origin.row for r in train)
    largest = max(prompts.count(p) for p in prompts)
    assert len(held) <= fraction * len(everything) + largest


def test_a_split_does_not_depend_on_the_order_of_the_rows_but_on_the_seed() -> None:
    everything = rows([f"p{i // 2}" for i in range(200)])
    shuffled = random.Random(1).sample(everything, len(everything))
    held = split(everything, 0.1, 7)[1]
    assert len(held) == 20
    assert {r.row_id for r in split(shuffled, 0.1, 7)[1]} == {r.row_id for r in held}
    assert {r.row_id for r in split(everything, 0.1, 8)[1]} != {r.row_id for r in held}
    assert split(everything, 0, 7) == (everything, [])


def test_the_first_rows_of_each_source_are_kept_and_a_pair_taken_apart_counts_once() -> None:
    def row(source: int, number: int, role: str = "chosen") -> Preference:
        return Preference(Origin(f"f{source}", number, source=source), "p", (Completion(role, "a"),))

    everything = [row(0, 0), row(0, 1, "desirable"), row(0, 1, "undesirable"), row(0, 2), row(1, 0)]
    kept, unused = first_of_each(everything, 2)
    assert (kept, unused) == ([*everything[:3], everything[4]], [everything[3]])
    assert first_of_each(everything, 9) == (everything, [])


def test_splits_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(DataError, match="share 1 prompt"):
        split(rows(["a", "a"]), 0.5, 0)
    with pytest.raises(UsageError, match=r"1\.5, must lie in"):
        split(rows(["a", "b"]), 1.5, 0)
    with pytest.raises(UsageError, match=r"data fraction is 0, must lie in"):
        take(rows(["a", "b"]), 0, 0)


@settings(max_examples=100)
@given(
    prompts=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40),
    fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seed=st.integers(0, 5),
)
def test_a_smaller_share_of_the_prompts_is_a_part_of_a_larger_one(
    prompts: list[str], fractions: list[float], seed: int
) -> None:
    everything = rows(prompts)
    (few, rest), (many, _) = (take(everything, fraction, seed) for fraction in fractions)
    assert {r.origin.row for r in few} <= {r.origin.row for r in many}
    assert not {r.prompt for r in few} & {r.prompt for r in rest}
    assert sorted(r.origin.row for r in few + rest) == list(range(len(everything)))
    assert len(few) >= fractions[0] * len(everything)
    assert len(few) - max(prompts.count(p) for p in prompts) < fractions[0] * len(everything)
    assert take(everything, 1.0, seed) == (everything, [])


def test_shuffled_labels_are_coins_that_know_nothing_of_the_labels_given() -> None:
    given = [
        Preference(
            Origin("f", i), f"p{i}", (Completion("chosen", f"a{i}", 1.0), Completion("rejected", f"b{i}"))
        )
        for i in range(1000)
    ]
    mirrored = [
        Preference(r.origin, r.prompt, (Completion("chosen", f"b{i}"), Completion("rejected", f"a{i}", 1.0)))
        for i, r in enumerate(given)
    ]
    shuffled, swapped = shuffle_labels(given, 3)
    # 1,000 coins: within 5 standard deviations of one half.
    assert 420 < len(swapped) < 580
    assert [r.completions[0].role for r in shuffled] == ["chosen"] * 1000
    for row, before in zip(shuffled, given, strict=True):
        first = row.role("chosen")
        assert first is not None and (first.content != before.completions[0].content) == (
            row.row_id in swapped
        )
        assert first.score == (1.0 if first.content.startswith("a") else None)  # type: ignore[union-attr]
    # The other way round gives the same texts the same labels: nothing of the given ones is left.
    again = [[c.content for c in r.completions] for r in shuffle_labels(mirrored, 3)[0]]
    assert again == [[c.content for c in r.completions] for r in shuffled]
    assert shuffle_labels(given, 4)[1] != swapped
    single = rows(["a"])[0]
    assert shuffle_labels([Preference(single.origin, "a", single.completions[:1])], 0)[1] == []


def test_a_mix_counts_rows_by_weight_and_uses_all_before_repeating() -> None:
    sources = [0] * 12 + [1] * 8
    mixed = mix(sources, [2, 0.25], seed=3)
    assert len(mixed) == 24 + 2
    assert all(mixed.count(row) == 2 for row in range(12))
    seen = [row for epoch in range(4) for row in mix(sources, [0, 0.25], seed=3, epoch=epoch)]
    assert sorted(seen) == list(range(12, 20))
    assert mix(sources, [2, 0.25], seed=3) == mixed
    assert mix([0] * 60, [0.5], seed=3) != mix([0] * 60, [0.5], seed=4)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 0.0])
def test_weights_that_say_nothing_are_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="mix weights"):
        mix([0], [weight], seed=0)
    with pytest.raises(UsageError, match="1 given for 2 sources"):
        mix([0, 1], [1.0], seed=0)


@settings(max_examples=100)
@given(drawn=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=30), seed=st.integers(0, 5))
def test_halves_are_a_partition_by_pair_whatever_label_or_order(
    drawn: list[tuple[int, int, int]], seed: int
) -> None:
    def made(order: tuple[str, str]) -> list[Preference]:
        return [
            Preference(
                Origin("f", i),
                f"prompt {p}",
                (Completion(order[0], f"a{a}"), Completion(order[1], f"b{b}")),
            )
            for i, (p, a, b) in enumerate(drawn)
        ]

    first, second = (halve(made(("chosen", "rejected")), half, seed) for half in ("first", "second"))
    assert first == (second[1], second[0])
    assert sorted(r.origin.row for r in [*first[0], *second[0]]) == list(range(len(drawn)))
    assert abs(len(first[0]) - len(second[0])) <= max(Counter(drawn).values())
    mirrored = halve(made(("rejected", "chosen"))[::-1], "first", seed)[0]
    assert {r.origin.row for r in mirrored} == {r.origin.row for r in first[0]}


def test_another_name_of_a_half_is_refused() -> None:
    with pytest.raises(UsageError, match="first or second"):
        halve([], "third", 0)
