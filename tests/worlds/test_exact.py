"""Exact quantities agree with brute force, with Monte-Carlo, and with what they must be."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.conftest import Both
from tether.worlds import WORLDS, Enumerable
from tether.worlds.exact import Exact, listed_log_probs, win_rate
from tether.worlds.recipe import prompt_ids
from tether.worlds.sampler import draw


@pytest.fixture(scope="module")
def measured(tiny: Enumerable, tables: Both) -> Exact:
    return tiny.exact(*tables)


def texts(world: Enumerable) -> list[str]:
    words = world.language.words
    return [
        " ".join(some)
        for k in range(world.language.length + 1)
        for some in itertools.product(words, repeat=k)
    ]


def plain_log_prob(model: Any, tokenizer: Any, message: str, text: str) -> float:
    """Sum of log-probs by one ordinary forward pass, end token included: no cache, no tree."""
    prompt = prompt_ids(tokenizer, message)
    completion = [*tokenizer.convert_tokens_to_ids(text.split()), tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0].double()
    picked = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    return float(picked[torch.arange(len(completion)), torch.tensor(completion)].sum())


def test_a_big_world_lists_55987_sequences_per_prompt() -> None:
    for number in (1, 2, 3):
        world = WORLDS[f"enumerable-{number}"]
        assert isinstance(world, Enumerable)
        assert world.language.rewards.shape == (8, 55_987)
        illegal = 36 - int(world.language.legal.sum())
        assert illegal == round(world.language.illegal * 36)
        assert not world.language.legal.diagonal().any()


def test_listing_order_is_that_of_the_texts(tiny: Enumerable) -> None:
    assert [tiny.language.sequence(i) for i in range(40)] == texts(tiny)


@pytest.mark.parametrize("name", ["enumerable-tiny", "enumerable-1"])
def test_reward_table_agrees_with_the_reward_of_the_text(name: str) -> None:
    world = WORLDS[name]
    assert isinstance(world, Enumerable)
    count = world.language.rewards.shape[1]
    for index in range(0, count, max(1, count // 300)):
        for prompt, message in enumerate(world.language.prompts):
            expected = world.reward(message, world.language.sequence(index))
            assert world.language.rewards[prompt, index] == pytest.approx(expected, abs=1e-12)


def test_reward_by_hand(tiny: Enumerable) -> None:
    language = tiny.language
    worth = dict(zip(language.words, language.utility[1], strict=True))
    a, b, _ = language.words
    chat = ({"role": "user", "content": language.prompts[1]},)
    illegal = 2.0 * (1 - int(language.legal[0, 1]))
    assert tiny.reward(chat, f"{a} {b}") == pytest.approx(worth[a] + worth[b] - illegal)
    assert tiny.reward(chat, "") == pytest.approx(-0.12 * 4)
    assert tiny.reward(chat, f"{a} {a}") == pytest.approx(2 * worth[a] - 2.0)
    assert tiny.reward(chat, f"{a} moon {a} {a}") == pytest.approx(worth[a] - 2.0), "reading ends at a stray"


def test_listed_log_probs_agree_with_plain_forward_passes(
    tiny: Enumerable, tiny_base: tuple[Any, Any], policy: Any, tables: Both
) -> None:
    # fp32 sums of at most four tokens: rounding of each logit is below 1e-6.
    listed = listed_log_probs(tables[0])
    for prompt, message in enumerate(tiny.language.prompts):
        for index, text in enumerate(texts(tiny)):
            expected = plain_log_prob(policy, tiny_base[1], message, text)
            assert float(listed[prompt, index]) == pytest.approx(expected, abs=2e-5)


def brute(tiny: Enumerable, tables: Both) -> dict[str, float]:
    """Every outcome of sampling at most four tokens, one by one, in plain Python."""
    mine, theirs = tables
    words, end = mine.words.tolist(), mine.end
    total = dict.fromkeys(("reward", "kl", "entropy", "words", "tokens", "end_rate", "cut", "stray"), 0.0)
    for prompt in range(len(tiny.language.prompts)):
        waiting: list[tuple[tuple[int, ...], float, float]] = [((), 0.0, 0.0)]
        while waiting:
            said, log_p, log_q = waiting.pop()
            index = sum(w * 3**k for k, w in enumerate(reversed(said)))
            for token in range(mine.levels[0].shape[-1]):
                p = log_p + float(mine.levels[len(said)][prompt, index, token])
                q = log_q + float(theirs.levels[len(said)][prompt, index, token])
                text = [tiny.language.words[w] for w in said]
                if token in words and len(said) < 3:
                    waiting.append(((*said, words.index(token)), p, q))
                    continue
                kind = "end_rate" if token == end else "cut" if token in words else "stray"
                if kind != "end_rate":
                    text.append(tiny.language.words[words.index(token)] if kind == "cut" else "stray")
                share = math.exp(p) / len(tiny.language.prompts)
                total[kind] += share
                total["reward"] += share * tiny.reward(tiny.language.prompts[prompt], " ".join(text))
                total["kl"] += share * (p - q)
                total["entropy"] -= share * p
                total["words"] += share * len(text)
                total["tokens"] += share * (len(said) + 1)
    return total


def test_every_expectation_agrees_with_brute_force(tiny: Enumerable, tables: Both, measured: Exact) -> None:
    for name, expected in brute(tiny, tables).items():
        assert getattr(measured, name) == pytest.approx(expected, abs=1e-9), name


def test_shares_sum_to_one_and_strays_are_not_forgotten(measured: Exact) -> None:
    assert measured.end_rate + measured.cut + measured.stray == pytest.approx(1.0, abs=1e-12)
    assert measured.stray > 1e-3


def test_kl_is_positive_and_zero_to_itself(tiny: Enumerable, tables: Both, measured: Exact) -> None:
    assert measured.kl > 0.05
    assert min(measured.kl_by_prompt) > 0
    assert np.mean(measured.kl_by_prompt) == pytest.approx(measured.kl)
    itself = tiny.exact(tables[0], tables[0])
    assert itself.kl == 0.0
    assert itself.win_rate == pytest.approx(0.5, abs=1e-12)


def test_win_rate_agrees_with_all_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    mine, theirs = torch.randn(2, 2, 12, generator=generator, dtype=torch.float64)
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 1.0, -1.0] * 3, list(range(12))], dtype=torch.float64)
    for row in range(2):
        p, q = torch.softmax(mine[row], 0), torch.softmax(theirs[row], 0)
        by_hand = 0.0
        for i, j in itertools.product(range(12), repeat=2):
            gap = float(rewards[row, i] - rewards[row, j])
            by_hand += float(p[i] * q[j]) * (0.5 if abs(gap) < 1e-9 else float(gap > 0))
        assert float(win_rate(mine, theirs, rewards)[row]) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("beta", [3.0, 0.3, 0.01])
def test_optimum_is_normalised_and_its_objective_is_beta_log_z(
    tiny: Enumerable, tables: Both, beta: float
) -> None:
    best = tiny.optimum(tables[1], beta)
    assert torch.allclose(best.log_probs.exp().sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert best.objective == pytest.approx(beta * float(np.mean(best.log_z)), abs=1e-9)
    start = torch.log_softmax(listed_log_probs(tables[1]), 1)
    log_z = torch.logsumexp(start + torch.from_numpy(tiny.language.rewards) / beta, 1)
    assert best.log_z == pytest.approx(log_z.tolist())


@settings(max_examples=60)
@given(
    beta=st.floats(0.05, 5),
    other=st.floats(0.05, 20),
    seed=st.integers(0, 1000),
    push=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_no_other_distribution_beats_the_optimum(
    tiny: Enumerable, tables: Both, beta: float, other: float, seed: int, push: float
) -> None:
    rewards = torch.from_numpy(tiny.language.rewards)
    start = torch.log_softmax(listed_log_probs(tables[1]), 1)
    noise = torch.randn(rewards.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rival = torch.log_softmax(start + rewards / other + push * noise, 1)
    value = (rival.exp() * (rewards - beta * (rival - start))).sum(1).mean()
    assert float(value) <= tiny.optimum(tables[1], beta).objective + 1e-9


def test_monte_carlo_agrees_within_three_standard_errors(
    tiny: Enumerable, tiny_base: tuple[Any, Any], policy: Any, tables: Both, measured: Exact
) -> None:
    tokenizer, count = tiny_base[1], 3000
    messages = [tiny.language.prompts[row % 2] for row in range(count)]
    drawn = draw(
        policy,
        [prompt_ids(tokenizer, message) for message in messages],
        end=tokenizer.eos_token_id,
        max_new_tokens=4,
        generator=torch.Generator().manual_seed(11),
        batch_size=1000,
    )
    word_of = dict(zip(tables[0].words.tolist(), tiny.language.words, strict=True))
    rewards, ends, ratios = [], [], []
    for row, one in enumerate(drawn):
        text = " ".join(word_of.get(token, "stray") for token in one.ids)
        rewards.append(tiny.reward(messages[row], text))
        clean = one.ended and all(token in word_of for token in one.ids)
        ends.append(float(clean))
        ratios.append(_log_ratio(tables, row % 2, one.ids, one.ended))
    for name, values in (("reward", rewards), ("end_rate", ends), ("kl", ratios)):
        error = float(np.std(values)) / math.sqrt(count)
        assert abs(float(np.mean(values)) - getattr(measured, name)) < 3 * error, name


def _log_ratio(tables: Both, prompt: int, ids: tuple[int, ...], ended: bool) -> float:
    """log p - log q of one sample, up to and with its first stray token."""
    mine, theirs = tables
    words, index, total = mine.words.tolist(), 0, 0.0
    for level, token in enumerate([*ids, mine.end] if ended else ids):
        total += float((mine.levels[level] - theirs.levels[level])[prompt, index, token])
        if token not in words:
            break
        index = 3 * index + words.index(token)
    return total
