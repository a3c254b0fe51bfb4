"""Small Englishes as tables: sentence patterns with slots, which write sentences, recognise and read them.

Nothing here is recursive, so every pattern is also a regular expression; nothing is learnt or fuzzy.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")
_WORD = re.compile(r"[A-Za-z]+")

SPLITS = {"train": range(70), "eval": range(70, 85), "test": range(85, 100)}
"""Shares of the prompts: base model and pairs, held-out, prompts."""


@dataclass(frozen=True)
class Pattern:
    """A sentence with slots, its kind, and where in an answer it may stand (0 first)."""

    kind: str
    place: int
    text: str


class Grammar:
    """Slots by name, and what may stand in each; a slot named with a capital begins with one."""

    def __init__(self, slots: Mapping[str, Sequence[str]]) -> None:
        self.slots = slots

    def fill(self, text: str, rng: random.Random, given: Mapping[str, str] | None = None) -> str:
        """Return a pattern's text with every slot filled: as `given` says, else at random."""
        known = given or {}

        def one(match: re.Match[str]) -> str:
            name = match.group(1)
            words = known.get(name.lower())
            if words is None:
                words = self.fill(rng.choice(self.slots[name.lower()]), rng, known)
            return words if name.islower() else words.capitalize()

        return _SLOT.sub(one, text)

    def expression(self, text: str, *, named: bool = False) -> str:
        """Return the regular expression of a pattern; `named` gives its own slots a group each."""
        pieces: list[str] = []
        for index, piece in enumerate(_SLOT.split(text)):
            if index % 2 == 0:
                pieces.append(re.escape(piece))
                continue
            words = [self.expression(word) for word in self.slots[piece.lower()]]
            group = f"?P<{piece.lower()}>" if named else "?:"
            pieces.append(
                f"({group}" + "|".join(words if piece.islower() else map(str.capitalize, words)) + ")"
            )
        return "".join(pieces)

    def any_of(self, patterns: Iterable[str]) -> re.Pattern[str]:
        """Return one expression that knows every sentence of these patterns."""
        return re.compile("|".join(f"(?:{self.expression(text)})" for text in patterns))

    def reader(self, text: str) -> re.Pattern[str]:
        """Return the expression that reads the slots of one pattern into named groups."""
        return re.compile(self.expression(text, named=True))


def slots_of(text: str) -> tuple[str, ...]:
    """Return the names of a pattern's slots, in order, lower case."""
    return tuple(name.lower() for name in _SLOT.findall(text))


def sentences(text: str) -> list[str]:
    """Split a text after each full stop, exclamation or question mark; the space between stays in front."""
    return _SENTENCE.findall(text)


def bare_sentences(text: str) -> list[str | None]:
    """Return the sentences without the one space that parts them; None where there is none or no sentence.

    The first sentence starts at once, every later one after exactly one space. An empty text is one None.
    """
    found = sentences(text)
    if not found:
        return [None]
    return [found[0], *(s[1:] if s.startswith(" ") else None for s in found[1:])]


def split_of(prompt: str) -> str:
    """Return the part a prompt belongs to (`train`, `eval`, `test`): for ever, by a hash of its text."""
    share = int(_digest(prompt)[:8], 16) % 100
    return next(name for name, shares in SPLITS.items() if share in shares)


def in_split(prompts: Iterable[str], split: str) -> tuple[str, ...]:
    """Return the prompts of one part, in an order fixed by their hashes."""
    return tuple(sorted((prompt for prompt in prompts if split_of(prompt) == split), key=_digest))


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return [word.lower() for word in _WORD.findall(text)]
