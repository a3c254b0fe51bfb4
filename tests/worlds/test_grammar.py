"""A table writes, recognises and reads the same sentences; texts split into sentences and lose nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.worlds.grammar import Grammar, bare_sentences, sentences, slots_of, words_of

GRAMMAR = Grammar({"colour": ("red", "light blue"), "thing": ("cup", "{colour} hat"), "the": ("the", "a")})
PATTERNS = ("{The} {thing} is {colour}.", "It is {colour}!")


def test_every_written_sentence_is_recognised_and_read() -> None:
    known, rng = GRAMMAR.any_of(PATTERNS), random.Random(0)
    written = {GRAMMAR.fill(text, rng) for text in PATTERNS for _ in range(400)}
    # 2 articles x (1 cup + 2 hats) x 2 colours, and 2 of the second pattern.
    assert len(written) == 14
    assert all(known.fullmatch(sentence) for sentence in written)
    reader = GRAMMAR.reader("It is {colour}!")
    found = reader.fullmatch("It is light blue!")
    assert found is not None and found.groupdict() == {"colour": "light blue"}


@pytest.mark.parametrize("sentence", ["it is red!", "It is red", "It is red! ", "It is green!", ""])
def test_nothing_else_is_recognised(sentence: str) -> None:
    assert GRAMMAR.any_of(PATTERNS).fullmatch(sentence) is None


def test_what_is_given_is_said() -> None:
    rng = random.Random(0)
    assert (
        GRAMMAR.fill(PATTERNS[0], rng, {"the": "the", "thing": "cup", "colour": "red"}) == "The cup is red."
    )
    assert slots_of(PATTERNS[0]) == ("the", "thing", "colour")


@settings(max_examples=200)
@given(st.text())
def test_splitting_loses_nothing(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert len(bare_sentences(text)) == max(1, len(sentences(text)))


def test_sentences_are_parted_by_exactly_one_space() -> None:
    assert bare_sentences("One. Two!Three?  Four") == ["One.", "Two!", None, " Four"]
    assert bare_sentences("") == [None]
    assert words_of("Don't stop, 3 Cats!") == ["don", "t", "stop", "cats"]
