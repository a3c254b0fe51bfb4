"""Sampling follows the model's distribution and does not depend on the batch."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.worlds import Enumerable
from tether.worlds.recipe import prompt_ids
from tether.worlds.sampler import draw, inverse_cdf


@settings(max_examples=100)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    st.floats(0, 1, exclude_max=True),
)
def test_inverse_cdf_picks_the_interval_the_number_falls_in(logits: list[float], uniform: float) -> None:
    row = torch.tensor([logits], dtype=torch.float64)
    picked = int(inverse_cdf(row, torch.tensor([uniform], dtype=torch.float64)))
    edges = torch.softmax(row[0], 0).cumsum(0)
    low = float(edges[picked - 1]) if picked else 0.0
    # The edges are fp64 sums of at most 12 terms: 1e-12 covers their rounding.
    assert low - 1e-12 <= uniform * float(edges[-1]) <= float(edges[picked]) + 1e-12


def test_a_row_is_the_same_in_any_batch(tiny: Enumerable, tiny_base: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_base
    prompts = [prompt_ids(tokenizer, m) for m in (*tiny.language.prompts, None) for _ in range(20)]
    found = [
        draw(
            model,
            prompts,
            end=tokenizer.eos_token_id,
            max_new_tokens=6,
            generator=torch.Generator().manual_seed(3),
            batch_size=size,
        )
        for size in (60, 7, 1)
    ]
    assert found[0] == found[1] == found[2]


def test_a_sample_stops_at_the_end_token_or_is_marked_cut(
    tiny: Enumerable, tiny_base: tuple[Any, Any]
) -> None:
    model, tokenizer = tiny_base
    drawn = draw(
        model,
        [prompt_ids(tokenizer, tiny.language.prompts[0])] * 200,
        end=tokenizer.eos_token_id,
        max_new_tokens=2,
        generator=torch.Generator().manual_seed(3),
    )
    assert all(len(one.ids) == 2 for one in drawn if not one.ended)
    assert all(len(one.ids) < 2 for one in drawn if one.ended)
    assert 0 < sum(one.ended for one in drawn) < 200
