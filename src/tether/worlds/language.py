"""A language small enough to list: every sequence of up to `length` words, with its true reward.

    gold reward r(x, y) = sum over words w of utility[x, w]
                          - length_weight x (words - best_length)^2
                          - illegal_weight x (illegal bigrams)

The words follow a random bigram grammar in which a share of all bigrams (every repetition among them) is
illegal; each prompt prefers its own words (topics). Sequences are numbered level by level: the sequences of k
words are 0 ... W^k - 1 in base W, first word most significant, so the children of i are i*W ... i*W + W - 1.

Shape letters here: P prompts, W words, N listed sequences.
"""

import random
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Language:
    """Parameters of a listable language; the tables below follow from them and the seed."""

    seed: int
    prompts: tuple[str, ...]
    words: tuple[str, ...]
    length: int
    illegal: float
    """Share of the W x W bigrams that are illegal, repetitions included."""
    topic_scale: float
    """Standard deviation of a prompt's preference for a word, in log-odds."""
    bigram_scale: float
    """Standard deviation of a legal bigram's log-odds."""
    utility_scale: float
    """Standard deviation of a word's utility under a prompt."""
    end: tuple[float, ...]
    """Probability that the data language ends after 1, 2, ... `length` words; the last is 1."""
    best_length: int
    length_weight: float = 0.12
    illegal_weight: float = 2.0

    @cached_property
    def _tables(self) -> tuple[NDArray[np.bool_], Array, Array, Array]:
        rng = np.random.default_rng(self.seed)
        size = len(self.words)
        while True:
            legal = ~np.eye(size, dtype=bool)
            others = np.flatnonzero(legal)
            count = max(0, round(self.illegal * size * size) - size)
            legal.flat[rng.permutation(others)[:count]] = False
            if legal.any(axis=1).all():
                break
        bigrams = rng.normal(0.0, self.bigram_scale, (size, size))
        topics = rng.normal(0.0, self.topic_scale, (len(self.prompts), size))
        utility = rng.normal(0.0, self.utility_scale, (len(self.prompts), size))
        return legal, bigrams, topics, utility

    @property
    def legal(self) -> NDArray[np.bool_]:
        """[W, W]: whether the second word may follow the first."""
        return self._tables[0]

    @property
    def utility(self) -> Array:
        """[P, W]: what a word is worth under a prompt."""
        return self._tables[3]

    def parameters(self) -> dict[str, Any]:
        """Return every number of the language, tables included, ready for JSON."""
        legal, bigrams, topics, utility = self._tables
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()},
            "legal": legal.astype(int).tolist(),
            "bigrams": bigrams.round(6).tolist(),
            "topics": topics.round(6).tolist(),
            "utility": utility.round(6).tolist(),
        }

    def write(self, rng: random.Random) -> tuple[str, str]:
        """Draw a prompt and a sequence of the data language: legal bigrams only, at least one word."""
        legal, bigrams, topics, _ = self._tables
        prompt = rng.randrange(len(self.prompts))
        said: list[int] = []
        for stop in self.end:
            weights = np.exp(topics[prompt] + (bigrams[said[-1]] if said else 0.0))
            if said:
                weights = weights * legal[said[-1]]
            said.append(rng.choices(range(len(self.words)), weights.tolist())[0])
            if rng.random() < stop:
                break
        return self.prompts[prompt], " ".join(self.words[w] for w in said)

    def prompt_index(self, message: str) -> int:
        """Return the index of a prompt.

        Raises:
            DataError: this is not a prompt of the language.

        """
        if message not in self.prompts:
            raise DataError(
                f"{message!r} is no prompt of this world; its prompts are: {', '.join(self.prompts)}"
            )
        return self.prompts.index(message)

    def score(self, prompt: int, text: str) -> float:
        """Return the gold reward of a text.

        A word outside the language counts as one word of no utility and one illegal bigram, and ends the
        reading there: what follows it changes nothing.
        """
        utility, illegal, count, last = 0.0, 0, 0, None
        for word in text.split():
            count += 1
            if word not in self.words:
                illegal += 1
                break
            index = self.words.index(word)
            utility += float(self.utility[prompt, index])
            illegal += last is not None and not self.legal[last, index]
            last = index
        return utility - self.illegal_weight * illegal - self.length_penalty(count)

    def length_penalty(self, count: int) -> float:
        """Return length_weight x (words - best_length)^2."""
        return self.length_weight * (count - self.best_length) ** 2

    def level(self, count: int) -> tuple[Array, NDArray[np.int64]]:
        """Return what the sequences of `count` words earn by their words, and their illegal bigrams.

        Shapes [P, W^count] (utilities alone, without penalties) and [W^count].
        """
        size = len(self.words)
        worth = np.zeros((len(self.prompts), 1))
        illegal = np.zeros(1, dtype=np.int64)
        for k in range(count):
            step = np.zeros((1, size), dtype=np.int64) if k == 0 else 1 - self.legal.astype(np.int64)
            last = np.arange(size**k) % size if k else np.zeros(1, dtype=np.int64)
            worth = (worth[:, :, None] + self.utility[:, None, :]).reshape(len(self.prompts), -1)
            illegal = (illegal[:, None] + step[last]).reshape(-1)
        return worth, illegal

    @cached_property
    def rewards(self) -> Array:
        """[P, N]: gold reward of every listed sequence, level by level from the empty one."""
        found: list[Array] = []
        for count in range(self.length + 1):
            worth, illegal = self.level(count)
            found.append(worth - self.illegal_weight * illegal - self.length_penalty(count))
        return np.concatenate(found, axis=1)

    @cached_property
    def fluent(self) -> NDArray[np.bool_]:
        """[N]: whether the sequence has words and no illegal bigram."""
        found = [self.level(count)[1] == 0 for count in range(self.length + 1)]
        found[0][:] = False
        return np.concatenate(found)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """[N]: number of words of every listed sequence."""
        size = len(self.words)
        return np.concatenate([np.full(size**k, k) for k in range(self.length + 1)])

    def sequence(self, index: int) -> str:
        """Return the text of a listed sequence."""
        size, count = len(self.words), 0
        while index >= size**count:
            index -= size**count
            count += 1
        digits = [(index // size**k) % size for k in reversed(range(count))]
        return " ".join(self.words[d] for d in digits)
