"""The order of the data is a pure function of seed, epoch and index, for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.errors import UsageError
from tether.tokens.loader import Updates, permutation
from tether.tokens.render import EncodedGroup

GROUPS = [EncodedGroup(f"row-{i}", [], (), 1.0, 0.0, 1.0, frozenset()) for i in range(40)]


def names(groups: list[EncodedGroup]) -> list[str]:
    return [group.row_id for group in groups]


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["random", "sequential"]),
)
def test_every_epoch_holds_every_row_once(count: int, size: int, seed: int, strategy: str):
    updates = Updates(GROUPS[:count], train_batch_size=size, seed=seed, strategy=strategy)
    for epoch in (0, 1):
        parts = [updates.update(epoch, index) for index in range(updates.updates_per_epoch)]
        assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
        assert sorted(name for part in parts for name in names(part)) == sorted(names(GROUPS[:count]))


def test_an_update_does_not_depend_on_what_was_asked_before():
    fresh = {step: Updates(GROUPS, train_batch_size=7, seed=3, strategy="random") for step in range(12)}
    walked = Updates(GROUPS, train_batch_size=7, seed=3, strategy="random")
    for step in range(12):
        assert walked.update(*walked.position(step)) == fresh[step].update(*fresh[step].position(step))
    assert walked.position(6) == (1, 0)


def test_sequential_is_file_order_in_every_epoch():
    updates = Updates(GROUPS, train_batch_size=16, seed=3, strategy="sequential")
    assert names(updates.update(1, 2)) == names(GROUPS[32:])


def test_epochs_and_seeds_differ():
    orders = [tuple(permutation(40, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_the_order_never_changes_between_versions():
    assert permutation(10, 0, 0) == ORDER_0_0
    assert permutation(10, 42, 3) == ORDER_42_3


def test_senseless_arguments_are_refused():
    with pytest.raises(UsageError, match="train_batch_size"):
        Updates(GROUPS, train_batch_size=0, seed=0, strategy="random")
    with pytest.raises(UsageError, match="seed"):
        Updates(GROUPS, train_batch_size=1, seed=-1, strategy="random")
    with pytest.raises(UsageError, match="sampling_strategy"):
        Updates(GROUPS, train_batch_size=1, seed=0, strategy="shuffled")
    with pytest.raises(IndexError):
        Updates(GROUPS, train_batch_size=40, seed=0, strategy="random").update(0, 1)


ORDER_0_0 = [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
ORDER_42_3 = [1, 6, 3, 4, 5, 9, 2, 8, 0, 7]


def test_an_epoch_of_a_mix_has_its_rows_once_each_and_resumes_anywhere():
    def rows(epoch: int) -> list[int]:
        return [0, 0, 1, 2 + epoch % 3, 5]

    def fresh() -> Updates:
        return Updates(GROUPS, train_batch_size=2, seed=3, strategy="random", epoch_rows=rows)

    walked = fresh()
    assert walked.updates_per_epoch == 3
    for epoch in range(4):
        seen = [group.row_id for index in range(3) for group in walked.update(epoch, index)]
        assert sorted(seen) == sorted(f"row-{row}" for row in rows(epoch))
    assert fresh().update(2, 1) == walked.update(2, 1)
    ordered = Updates(GROUPS, train_batch_size=5, seed=3, strategy="sequential", epoch_rows=rows)
    assert [group.row_id for group in ordered.update(1, 0)] == [f"row-{row}" for row in rows(1)]
