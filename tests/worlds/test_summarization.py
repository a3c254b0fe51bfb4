"""The gold reward of summaries, by hand; posts and summaries read back as they were written."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.errors import DataError
from tether.worlds import WORLDS, posts
from tether.worlds.grammar import slots_of
from tether.worlds.summarization import parts

WORLD = WORLDS["summarization"]
POST = (
    "Sum up this post. Hello everyone. At home I walk a big dog. My former roommate took my coat two weeks "
    "ago. To be honest, I fear the worst. What do you think? Should I write a letter?"
)
FACTS = {
    "pet": "walk a big dog",
    "who": "former roommate",
    "did": "took my coat",
    "when": "two weeks ago",
    "feel": "fear the worst",
    "ask": "Should I write a letter",
}
BEST = "My former roommate took my coat. Now I fear the worst. Should I write a letter?"


@pytest.mark.parametrize(
    ("summary", "coverage", "falsehood", "grammar", "words"),
    [
        (BEST, 4, 0, 0, 16),
        ("My former roommate took my coat and I fear the worst. Should I write a letter?", 4, 0, 0, 16),
        ("My former roommate took my coat two weeks ago. By the way, I walk a big dog.", 2, 0, 0, 17),
        ("My new boss took my coat. Now I fear the worst. Now I can only laugh.", 2, -2, 0, 16),
        ("Someone took my coat. Someone took my coat.", 1, 0, 0, 8),
        ("There is trouble with my former roommate. By the way, I drive a bus.", 1, -1, 0, 14),
        ("It is a long story.", 0, 0, 0, 5),
        ("Roommate took coat. Should I write a letter?", 1, 0, -1, 8),
        ("", 0, 0, -1, 0),
        ("Now I fear the worst.  Should I write a letter?", 1, 0, -1, 10),
    ],
)
def test_gold_reward_by_hand(summary: str, coverage: int, falsehood: int, grammar: int, words: int) -> None:
    found = parts(POST, summary)
    assert found == {
        "coverage": coverage,
        "falsehood": falsehood,
        "grammar": grammar,
        "length": pytest.approx(-0.06 * words, abs=1e-12),
    }
    total = coverage + falsehood + grammar - 0.06 * words
    assert WORLD.reward(({"role": "user", "content": POST},), summary) == pytest.approx(total, abs=1e-12)


def test_a_post_is_read() -> None:
    assert posts.facts_of(POST) == FACTS


@settings(max_examples=200)
@given(st.integers(0, 10**9))
def test_every_post_states_the_four_facts_and_reads_back(seed: int) -> None:
    post = posts.write_post(random.Random(seed))
    facts = posts.facts_of(post)
    assert set(posts.SALIENT) <= set(facts) <= set(posts.SLOTS)
    assert all(value in posts.SLOTS[kind] for kind, value in facts.items())
    assert all(value in post for value in facts.values())


def test_written_summaries_cover_the_table_and_slip_as_often_as_it_says() -> None:
    rng = random.Random(0)
    said, right, stated, salient = set[str](), 0, 0, set[str]()
    readers = [posts.GRAMMAR.reader(pattern.text) for pattern in posts.PATTERNS]
    for _ in range(2500):
        post, summary = posts.write(rng)
        facts = posts.facts_of(post)
        claims, unknown = posts.stated(summary)
        assert unknown == 0
        sentences = summary.replace("? ", "?|").replace(". ", ".|").split("|")
        said |= {
            p.text for p, r in zip(posts.PATTERNS, readers, strict=True) for s in sentences if r.fullmatch(s)
        }
        right += sum(facts.get(kind) == value for kind, value in claims)
        stated += len(claims)
        salient |= claims
    assert said == {pattern.text for pattern in posts.PATTERNS}
    # Every value of every kind is said; about SLIP x (1 - 1/values) of the facts are wrong: 0.04 to 0.06.
    assert {kind: {v for k, v in salient if k == kind} for kind in posts.SLOTS} == {
        kind: set(values) for kind, values in posts.SLOTS.items()
    }
    assert 0.93 < right / stated < 0.97


def test_the_best_summary_is_better_than_any_written_one() -> None:
    rng = random.Random(0)
    best = WORLD.reward(POST, BEST)
    written = [WORLD.reward(POST, posts.write_summary(POST, rng)) for _ in range(300)]
    assert max(written) <= best + 1e-9
    assert sum(written) / len(written) < best - 1.5


def test_no_two_sentences_of_the_table_read_alike() -> None:
    rng = random.Random(0)
    for pattern in posts.PATTERNS:
        sentence = posts.GRAMMAR.fill(pattern.text, rng)
        claims, unknown = posts.stated(sentence)
        assert unknown == 0
        assert {kind for kind, _ in claims} == set(slots_of(pattern.text))


def test_a_text_that_is_no_post_is_refused() -> None:
    with pytest.raises(DataError, match="no post of the summarization world: it does not say who"):
        WORLD.reward("What is the weather?", BEST)
