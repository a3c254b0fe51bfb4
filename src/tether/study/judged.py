"""Win rates in a study: a judge's verdict of every answer against an answer of the start model."""

import math
from collections.abc import Sequence

from tether.generation.measure import MeasuredSample
from tether.judging.judges import Judge
from tether.judging.pairwise import Cache, Pair, judge_pairs
from tether.records.rows import Preference

NOISE = 1_000_003
"""Added to the seed of the start model's answers that others are judged against.

All models of a study answer with the same noise, which makes differences of their scores precise. A win rate
is about answers drawn apart: with the same noise, answers of like models are the same text and tie.
"""


def judged(
    samples: Sequence[MeasuredSample],
    asked: Sequence[Preference],
    opponents: Sequence[str],
    judge: Judge,
    name: str,
    cache: Cache | None,
) -> list[MeasuredSample]:
    """Add the share every answer gets of `judge` beside its opponent; NaN where there was no verdict.

    Args:
        samples: a model's answers, all samples of a prompt together.
        asked: the prompts' rows.
        opponents: one answer of the start model for each sample.
        judge: asked in both orders.
        name: of the score.
        cache: opinions already given; nothing is asked twice.

    """
    pairs = [
        Pair(asked[s["prompt"]].row_id, asked[s["prompt"]].prompt, s["completion"], text)
        for s, text in zip(samples, opponents, strict=True)
    ]
    verdicts = judge_pairs(pairs, judge, ("cell", "start"), cache=cache)
    return with_scores(samples, name, [math.nan if v.share is None else v.share for v in verdicts])


def with_scores(
    samples: Sequence[MeasuredSample], name: str, values: Sequence[float]
) -> list[MeasuredSample]:
    """Add one more score to every sample."""
    return [
        {**sample, "scores": {**sample["scores"], name: value}}
        for sample, value in zip(samples, values, strict=True)
    ]
