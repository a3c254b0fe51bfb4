"""What a study measures on samples agrees with the exact values of a world that can be listed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tether.generation.measure import MeasuredSample, measure
from tether.judging.judges import Opinion, Question
from tether.records.rows import Completion, Origin, Preference
from tether.study.judged import NOISE, judged
from tether.worlds import Enumerable
from tether.worlds.recipe import prompt_ids

REPETITIONS, SAMPLES = 100, 24


class Truth:
    """Prefers the answer of more reward; rewards within rounding of one another are equal."""

    name = identity = "truth"
    free, at_once = True, 1000

    def __init__(self, world: Enumerable) -> None:
        self.world = world

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        gaps = [
            self.world.reward(str(q.prompt), q.first) - self.world.reward(str(q.prompt), q.second)
            for q in questions
        ]
        return [Opinion(0.5 if abs(gap) < 1e-9 else float(gap > 0)) for gap in gaps]


@pytest.mark.timeout(900)
def test_measures_and_win_rates_agree_with_enumeration(
    tiny: Enumerable, tiny_base: tuple[Any, Any], policy: Any, tmp_path: Path
) -> None:
    """100 repetitions: KL, reward, entropy, length, ends, wins: within 3 standard errors of exact values."""
    base, tokenizer = tiny_base
    messages = tiny.language.prompts
    words = set(tokenizer.convert_tokens_to_ids(list(tiny.language.words)))
    rows = [
        Preference(Origin("world", row), message, (Completion("chosen", ""),))
        for row, message in enumerate(messages)
    ]

    def answers(model: Any, seed: int) -> tuple[Any, list[MeasuredSample]]:
        return measure(
            model,
            start=base,
            prompts=list(messages),
            prompt_ids=[prompt_ids(tokenizer, message) for message in messages],
            tokenizer=tokenizer,
            # A stray token ends the reading, as in the exact law.
            stop_ids=frozenset(range(len(tokenizer))) - words,
            step=0,
            max_new_tokens=tiny.max_new_tokens,
            samples_per_prompt=SAMPLES,
            batch_size=48,
            seed=seed,
        )

    def reward(seed: int) -> float:
        """The mean true reward, measured as users do: a stray token is read on, and counted by the world."""
        result, _ = measure(
            policy,
            prompts=list(messages),
            prompt_ids=[prompt_ids(tokenizer, message) for message in messages],
            tokenizer=tokenizer,
            stop_ids=frozenset({tokenizer.eos_token_id}),
            step=0,
            max_new_tokens=tiny.max_new_tokens,
            samples_per_prompt=SAMPLES,
            batch_size=48,
            seed=seed,
            evaluators=[tiny.evaluator()],
        )
        return result.scores["gold_reward"]

    def clean(sample: MeasuredSample) -> bool:
        *said, last = sample["ids"]
        return words.issuperset(said) and last == tokenizer.eos_token_id

    def win_rate(mine: Sequence[MeasuredSample], theirs: Sequence[MeasuredSample]) -> float:
        own = [{**s, "scores": {}} for s in mine]
        texts = [sample["completion"] for sample in theirs]
        shares = judged(own, rows, texts, Truth(tiny), "truth", None)
        kept: dict[int, list[float]] = {}
        for share, a, b in zip(shares, mine, theirs, strict=True):
            if clean(a) and clean(b):  # the exact value is of answers that are listed
                kept.setdefault(a["prompt"], []).append(share["scores"]["truth"])
        return float(np.mean([np.mean(values) for values in kept.values()]))

    found: dict[str, list[float]] = {}
    for repetition in range(REPETITIONS):
        result, samples = answers(policy, repetition)
        apart, alike = (answers(base, repetition + noise)[1] for noise in (NOISE, 0))
        for name, value in (
            ("kl", result.kl_start),
            ("entropy", result.entropy * result.tokens),
            ("tokens", result.tokens),
            ("end_rate", float(np.mean([clean(sample) for sample in samples]))),
            ("reward", reward(repetition)),
            ("win_rate", win_rate(samples, apart)),
            ("coupled", win_rate(samples, alike)),
        ):
            assert value is not None
            found.setdefault(name, []).append(value)
    truth = tiny.exact(tiny.conditionals(policy, tokenizer), tiny.conditionals(base, tokenizer))
    away = {
        name: (np.mean(values) - getattr(truth, "win_rate" if name == "coupled" else name))
        / (np.std(values, ddof=1) / math.sqrt(REPETITIONS))
        for name, values in found.items()
    }
    for name in ("kl", "reward", "entropy", "tokens", "end_rate", "win_rate"):
        assert abs(away[name]) < 3, (name, away)
    # Answers drawn with the policy's own noise are no independent opponents: that is another number.
    assert abs(away["coupled"]) > 3, away
