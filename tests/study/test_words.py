"""Phrases of answers read as they are meant."""

from tether.study.words import named


def test_beta_begins_a_sentence_as_beta() -> None:
    assert named("β 0.03", capital=True) == "β 0.03"
    assert named("self", capital=True) == "Self" and named("self") == "self"
