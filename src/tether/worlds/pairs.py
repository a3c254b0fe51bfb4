"""Preference pairs drawn from a world's base model and labelled by Bradley-Terry on the gold reward.

Both completions of a pair are the model's own samples, so the reference is the model that produced the pairs;
which one is chosen is drawn once, with probability sigmoid(reward difference): noise of a known amount.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from tether.errors import DataError
from tether.worlds import recipe
from tether.worlds.files import PairsRecord
from tether.worlds.sampler import Drawn, draw

ROUNDS = 50
"""How often a pair is drawn again before giving up: a model that always repeats itself."""


@dataclass(frozen=True)
class Pair:
    """A labelled pair: texts, and the gold rewards (chosen, rejected) that no file holds."""

    message: str
    chosen: str
    rejected: str
    rewards: tuple[float, float]

    def row(self) -> dict[str, Any]:
        """Return the row as it is written."""
        return {
            "prompt": turn("user", self.message),
            "chosen": turn("assistant", self.chosen),
            "rejected": turn("assistant", self.rejected),
        }


@dataclass(frozen=True)
class DrawnPairs:
    """Pairs of one file, in order, and the draws thrown away by reason."""

    pairs: list[Pair]
    drawn_again: Counter[str]

    def record(self) -> PairsRecord:
        """Return how these pairs came about."""
        differences = [chosen - rejected for chosen, rejected in (pair.rewards for pair in self.pairs)]
        return PairsRecord(
            rows=len(self.pairs),
            distinct=len({(p.message, p.chosen, p.rejected) for p in self.pairs}),
            label_agreement=fmean(0.5 if same(d) else float(d > 0) for d in differences),
            expected_agreement=fmean(sigmoid(abs(d)) for d in differences),
            equal_reward=sum(map(same, differences)),
            drawn_again=dict(sorted(self.drawn_again.items())),
        )


def draw_pairs(
    model: Any,
    tokenizer: Any,
    messages: Sequence[str],
    reward: Callable[[str, str], float],
    *,
    count: int,
    max_new_tokens: int,
    seeds: tuple[int, int],
) -> DrawnPairs:
    """Draw `count` labelled pairs; `reward` takes a message and a reply, `seeds` are of labels and samples.

    Messages are taken in shuffled order, again from the start where there are fewer than pairs. A pair is
    drawn again as a whole where its completions are identical, empty, cut, or do not survive decoding.

    Raises:
        DataError: the model does not give enough different completions.

    """
    rng = random.Random(seeds[0])
    generator = torch.Generator().manual_seed(seeds[1])
    order = list(messages)
    rng.shuffle(order)
    rows = [order[row % len(order)] for row in range(count)]
    texts: dict[int, tuple[str, str]] = {}
    again: Counter[str] = Counter()
    for _ in range(ROUNDS):
        waiting = [row for row in range(count) if row not in texts]
        if not waiting:
            break
        drawn = draw(
            model,
            [recipe.prompt_ids(tokenizer, rows[row]) for row in waiting for _ in range(2)],
            end=tokenizer.eos_token_id,
            max_new_tokens=max_new_tokens,
            generator=generator,
        )
        for index, row in enumerate(waiting):
            both = drawn[2 * index : 2 * index + 2]
            first, second = (tokenizer.decode(one.ids) for one in both)
            reason = _unusable(tokenizer, both, (first, second))
            if reason is None:
                texts[row] = first, second
            else:
                again[reason] += 1
    if len(texts) < count:
        raise DataError(
            f"the model gave no two different whole completions for {count - len(texts)} of {count} prompts "
            f"in {ROUNDS} rounds"
        )
    return DrawnPairs([label(reward, rows[row], texts[row], rng) for row in range(count)], again)


def _unusable(tokenizer: Any, both: Sequence[Drawn], texts: tuple[str, str]) -> str | None:
    if not all(one.ended for one in both):
        return "cut"
    if not all(texts):
        return "empty"
    if texts[0] == texts[1]:
        return "identical"
    special = set(tokenizer.all_special_ids)
    for one, text in zip(both, texts, strict=True):
        spelt = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        if special & set(one.ids) or "\ufffd" in text or spelt != text:
            return "unspellable"
    return None


def label(
    reward: Callable[[str, str], float], message: str, texts: tuple[str, str], rng: random.Random
) -> Pair:
    """Draw which of two texts is chosen: the first with probability sigmoid(its reward - the other's)."""
    first, second = texts
    a, b = reward(message, first), reward(message, second)
    if rng.random() < sigmoid(a - b):
        return Pair(message, first, second, (a, b))
    return Pair(message, second, first, (b, a))


def same(difference: float) -> bool:
    """Say whether two rewards are equal: sums of the same terms in another order differ by less than 1e-9."""
    return abs(difference) < 1e-9


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * value))


def turn(role: str, text: str) -> list[dict[str, str]]:
    """Return a chat of one message."""
    return [{"role": role, "content": text}]
