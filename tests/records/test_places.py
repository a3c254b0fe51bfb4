"""Cutting ragged tensors: the same pieces as split and cat, in any order, empty ones and repeats too."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.records.tensors import places


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_places_are_those_of_split_and_cat(lengths: list[int], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    values = torch.arange(sum(lengths)) * 10
    pieces = values.split(lengths)
    expected = torch.cat([pieces[i] for i in index] or [values[:0]])
    found = values[places(torch.tensor(lengths), torch.tensor(index, dtype=torch.int64))]
    assert torch.equal(found, expected)
