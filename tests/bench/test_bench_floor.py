"""The FLOP floor equals what the packed layout's matrix products really cost."""

from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.floor import Shape, work
from tests.tiny import tiny_batch, tiny_model
from tether.policies.logprobs import forward_backward, sequence_logprobs
from tether.records.tensors import SequenceLogProbs

SHAPE = Shape(hidden=32, inner=64, layers=2, heads=4, key_value_heads=2, vocabulary=384)
ROWS = [(9, [4, 6]), (5, [3, 3])]


def total(values: SequenceLogProbs, groups: torch.Tensor) -> torch.Tensor:
    return values.sums.sum()


def products(counter: FlopCounterMode) -> int:
    """Return the FLOP of matrix products; attention is not counted at its allowed pairs by the counter."""
    return sum(
        flop
        for operator, flop in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(operator)
    )


def test_the_floor_is_what_scoring_and_training_cost() -> None:
    model, batch = tiny_model("llama"), tiny_batch(ROWS)
    with FlopCounterMode(display=False) as scored, torch.no_grad():
        sequence_logprobs(model, batch, layout="packed")
    with FlopCounterMode(display=False) as trained:
        forward_backward(model, batch, layout="packed", loss=total)
    least = work(SHAPE, ROWS)
    assert products(scored) + products(trained) == least.block + least.head
    only = work(SHAPE, ROWS, scored=False)
    assert products(trained) == only.block + only.head


def test_frozen_weights_cost_two_passes_and_the_reference_one() -> None:
    full, frozen = work(SHAPE, ROWS), work(SHAPE, ROWS, frozen=True)
    assert frozen.block == full.block * 3 / 4 and frozen.head == full.head * 3 / 4
    assert frozen.attention == full.attention


def test_attention_counts_allowed_pairs_only() -> None:
    # One prompt of 2 and completions of 1 and 2: 3 pairs inside the prompt, 2 + 1, then 4 + 3.
    least = work(SHAPE, [(2, [1, 2])])
    assert least.attention == 4 * 4 * 32 * 2 * (3 + 3 + 7)


@dataclass(frozen=True)
class Speed:
    block: float
    head: float


def test_seconds_weigh_blocks_and_head_by_their_own_rates() -> None:
    least = work(SHAPE, ROWS)
    assert least.seconds(Speed(1e9, 1e9)) * 1e9 == pytest.approx(least.total, rel=1e-12)
    halved = least.total - least.head / 2
    assert least.seconds(Speed(1e9, 2e9)) * 1e9 == pytest.approx(halved, rel=1e-12)
