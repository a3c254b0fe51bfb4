"""The dial's two laws agree with brute force over every outcome, and with sampling."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worlds.conftest import Both
from tether.errors import UsageError
from tether.generation.measure import MeasuredSample, measure_dials
from tether.worlds import Conditionals, Enumerable
from tether.worlds.dial import dialled, realigned
from tether.worlds.recipe import prompt_ids


def outcomes(table: Conditionals, prompt: int) -> Tensor:
    """Log-prob of everything a sample can be: its words, then its end, a stray, or a word too many."""
    found: list[float] = []
    waiting: list[tuple[int, int, float]] = [(0, 0, 0.0)]
    words = table.words.tolist()
    while waiting:
        depth, index, so_far = waiting.pop()
        for token, log_prob in enumerate(table.levels[depth][prompt, index].tolist()):
            if token in words and depth + 1 < len(table.levels):
                child = index * len(words) + words.index(token)
                waiting.append((depth + 1, child, so_far + log_prob))
            else:
                found.append(so_far + log_prob)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("value", [-0.5, 0.5, 2.0, 5.0])
def test_the_realigned_law_is_the_tilted_one_over_every_outcome(tables: Both, value: float) -> None:
    made = realigned(*tables, value)
    for level in made.levels:
        assert torch.allclose(level.logsumexp(-1), torch.zeros_like(level[..., 0]), atol=1e-12)
    for prompt in range(len(made.levels[0])):
        mine, theirs = outcomes(tables[0], prompt), outcomes(tables[1], prompt)
        expected = (value * mine + (1 - value) * theirs).log_softmax(0)
        assert torch.allclose(outcomes(made, prompt), expected, atol=1e-10)


@pytest.mark.parametrize("value", [0.5, 3.0])
def test_the_gap_is_the_kl_between_the_two_laws(tiny: Enumerable, tables: Both, value: float) -> None:
    gap = tiny.dial_gap(*tables, value)
    forth, back, spent = [], [], []
    for prompt in range(2):
        token, sequence = (outcomes(law(*tables, value), prompt) for law in (dialled, realigned))
        forth.append(float((token.exp() * (token - sequence)).sum()))
        back.append(float((sequence.exp() * (sequence - token)).sum()))
        spent.append(float((sequence.exp() * (sequence - outcomes(tables[1], prompt))).sum()))
    assert gap.gap == pytest.approx(np.mean(forth), abs=1e-10)
    assert gap.gap_back == pytest.approx(np.mean(back), abs=1e-10)
    assert gap.sequence_kl == pytest.approx(np.mean(spent), abs=1e-10)
    assert gap.gap > 1e-4


def test_zero_is_the_reference_one_the_policy_and_there_the_laws_are_one(
    tiny: Enumerable, tables: Both
) -> None:
    for value, table in ((0.0, tables[1]), (1.0, tables[0])):
        for law in (dialled, realigned):
            for made, given in zip(law(*tables, value).levels, table.levels, strict=True):
                assert torch.allclose(made, given, atol=1e-12)
        assert tiny.dial_gap(*tables, value).gap == pytest.approx(0, abs=1e-12)
    assert tiny.dial_gap(*tables, 0).token_kl == pytest.approx(0, abs=1e-12)


def test_samples_of_a_dial_agree_with_the_token_level_law(
    tiny: Enumerable, tiny_base: tuple[Any, Any], policy: Any, tables: Both
) -> None:
    """100 repetitions: KL, entropy, reward and lengths within 3 standard errors of the exact values."""
    base, tokenizer = tiny_base
    words = dict(zip(tables[0].words.tolist(), tiny.language.words, strict=True))
    values = (0.5, 2.5)
    found: dict[tuple[float, str], list[float]] = {}
    for repetition in range(100):
        measured = measure_dials(
            policy,
            values,
            start=base,
            prompts=tiny.language.prompts,
            prompt_ids=[prompt_ids(tokenizer, message) for message in tiny.language.prompts],
            tokenizer=tokenizer,
            # A stray token ends the reading, as in the exact law.
            stop_ids=frozenset(range(len(tokenizer))) - frozenset(words),
            step=0,
            max_new_tokens=tiny.max_new_tokens,
            samples_per_prompt=24,
            batch_size=48,
            seed=repetition,
        )
        for value, (result, samples) in zip(values, measured, strict=True):
            rewards = [_reward(tiny, words, tables[0].end, sample) for sample in samples]
            for name, number in (
                ("kl", result.kl_start),
                ("entropy", result.entropy * result.tokens),
                ("tokens", result.tokens),
                ("reward", float(np.mean(rewards))),
            ):
                assert number is not None
                found.setdefault((value, name), []).append(number)
    for value in values:
        truth = tiny.exact(dialled(*tables, value), tables[1])
        for name in ("kl", "entropy", "tokens", "reward"):
            numbers = found[value, name]
            error = float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
            assert abs(np.mean(numbers) - getattr(truth, name)) < 3 * error, (value, name)
        law = realigned(*tables, value)
        other = tiny.exact(law, tables[1]).kl
        error = float(np.std(found[value, "kl"], ddof=1)) / math.sqrt(100)
        assert abs(np.mean(found[value, "kl"]) - other) > 3 * error, "the two laws are told apart"


def _reward(world: Enumerable, words: dict[int, str], end: int, sample: MeasuredSample) -> float:
    said = " ".join(words.get(token, "stray") for token in sample["ids"] if token != end)
    return world.reward(world.language.prompts[sample["prompt"]], said)


def test_the_reference_of_a_dial_may_be_another_context_of_the_policy(
    tiny: Enumerable, tiny_base: tuple[Any, Any]
) -> None:
    tokenizer = tiny_base[1]
    options: dict[str, Any] = {
        "prompts": ["a"],
        "prompt_ids": [[3, 4]],
        "tokenizer": tokenizer,
        "stop_ids": frozenset({tokenizer.eos_token_id}),
        "step": 0,
        "max_new_tokens": 3,
    }
    with pytest.raises(UsageError, match="start or start_context"):
        measure_dials(tiny_base[0], [1.0], **options)
    with pytest.raises(UsageError, match="between -100 and 100"):
        measure_dials(tiny_base[0], [1000.0], start=tiny_base[0], **options)
    ((result, _),) = measure_dials(tiny_base[0], [0.0], start=tiny_base[0], **options)
    assert result.kl_start == 0.0


def test_tables_of_two_languages_are_refused(tables: Both) -> None:
    policy, reference = tables
    other = Conditionals(reference.levels, reference.words.flip(0), reference.end)
    with pytest.raises(UsageError, match="one language"):
        dialled(policy, other, 2.0)
