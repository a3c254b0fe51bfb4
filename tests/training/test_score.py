"""Scoring rows: what a layout is compared on."""

from contextlib import nullcontext
from typing import Any

import pytest

from tether.tokens.render import FEW, EncodedCompletion, EncodedGroup
from tether.training import score


def group(name: str, prompt: int, *completions: int) -> EncodedGroup:
    """Return a group of so many tokens."""
    encoded = tuple(
        EncodedCompletion("chosen" if not k else "rejected", [7 + k] * length, f"{name}{k}", False, None)
        for k, length in enumerate(completions)
    )
    return EncodedGroup(name, [5] * prompt, encoded, 1.0, 0.0, 1.0, frozenset())


def test_layouts_are_compared_on_the_longest_row_whole_and_on_cut_short_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows show on the longest row; a leak shows on a few tokens as well as on all."""
    seen: list[Any] = []
    monkeypatch.setattr(score, "choose_layout", lambda model, requested, batch, **_: seen.append(batch))
    groups = [group("mean", 150, 90, 80), group("long", 700, 100, 200), group("short", 100, 70, 66)]
    score.layout_for(None, "auto", [*groups, group("mean2", 300, 65, 90)], nullcontext)
    (batch,) = seen
    assert batch.row_ids == ("short", "mean", "long")
    assert batch.prompt_lengths.tolist() == [FEW] * 2 + [700]
    assert batch.completion_lengths.tolist() == [FEW] * 4 + [100, 200]
