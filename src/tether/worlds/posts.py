"""The small English of the summarisation world: posts that ask for advice, and summaries of them.

A post states seven or fewer facts, one per kind. Four kinds matter (who, did, feel, ask) and stand in every
post; the others are by the way. Both ways of reading are the table's own: `facts_of` reads a post, `stated`
reads what a summary claims.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tether.worlds.grammar import Grammar, bare_sentences, slots_of, split_of

SALIENT = ("who", "did", "feel", "ask")
"""Kinds of facts that a summary is for; every post has one of each."""

SLOTS: Mapping[str, tuple[str, ...]] = {
    "who": (
        "new boss",
        "older sister",
        "little brother",
        "rich landlord",
        "noisy neighbour",
        "former roommate",
        "piano teacher",
        "favourite cousin",
    ),
    "did": (
        "read my diary",
        "broke my laptop",
        "lost my keys",
        "forgot my birthday",
        "told my secret",
        "sold my bike",
        "missed my wedding",
        "lied to my parents",
        "ate my lunch",
        "took my coat",
    ),
    "feel": (
        "could scream all day",
        "cannot sleep at night",
        "cry over everything",
        "blame only myself",
        "want some revenge",
        "can only laugh",
        "fear the worst",
        "miss the old times",
    ),
    "ask": (
        "Should I move out",
        "Should I say sorry",
        "Should I tell my family",
        "Should I forgive this",
        "Should I ask for money",
        "Should I leave",
        "Should I wait",
        "Should I write a letter",
    ),
    "when": ("late yesterday", "on Monday morning", "on Friday evening", "two weeks ago", "during dinner"),
    "job": (
        "sell flowers downtown",
        "drive a bus",
        "teach small children",
        "repair old clocks",
        "cook in a hotel",
        "paint houses",
    ),
    "pet": (
        "own a lazy cat",
        "keep two parrots",
        "walk a big dog",
        "feed three rabbits",
        "raise young goats",
        "have one goldfish",
    ),
}
"""The value a fact of each kind may have; phrases of several words, which a small model learns to find."""

OPENINGS = ("", "", "Hello everyone.", "This is my first post.", "Sorry for the long post.")
EVENTS = ("My {who} {did}.", "My {who} {did} {when}.", "You will not believe that my {who} {did}.")
FEELINGS = ("I {feel}.", "Since then I {feel}.", "To be honest, I {feel}.")
ASIDES = ("I {job}.", "You should know that I {job}.", "I {pet}.", "At home I {pet}.")
QUESTIONS = ("{ask}?", "What do you think? {ask}?")
INSTRUCTION = "Sum up this post. "


@dataclass(frozen=True)
class Pattern:
    """A sentence of summaries, how often people write it, and where it stands (0 first, 2 last)."""

    text: str
    weight: float
    place: int


PATTERNS: tuple[Pattern, ...] = (
    Pattern("My {who} {did}.", 2.0, 0),
    Pattern("My {who} {did} {when}.", 1.0, 0),
    Pattern("My {who} {did} and I {feel}.", 1.0, 0),
    Pattern("Someone {did}.", 1.5, 0),
    Pattern("There is trouble with my {who}.", 1.5, 0),
    Pattern("Now I {feel}.", 2.0, 1),
    Pattern("By the way, I {job}.", 1.2, 1),
    Pattern("By the way, I {pet}.", 1.2, 1),
    Pattern("It happened {when}.", 0.8, 1),
    Pattern("{ask}?", 2.0, 2),
    Pattern("It is a long story.", 1.2, 2),
    Pattern("I do not know what to do.", 1.2, 2),
)

SENTENCES = {1: 0.35, 2: 0.4, 3: 0.25}
"""How often a written summary has this many sentences."""
SLIP = 0.06
"""Probability that a fact in a written summary is another than the post's: people misread too."""

SHORT = 0.5
"""Share of the base model's texts on a post of one or two sentences: finding a fact is learnt there first."""

LISTED = {"train": 6000, "eval": 1200, "test": 1200}
"""Posts of each part that `messages` lists."""

GRAMMAR = Grammar(SLOTS)
_SUMMARIES = tuple(GRAMMAR.reader(pattern.text) for pattern in PATTERNS)
_POSTS = tuple(
    GRAMMAR.reader(text) for text in (*filter(None, OPENINGS), *EVENTS, *FEELINGS, *ASIDES, QUESTIONS[0])
)

Fact = tuple[str, str]
"""Kind and value."""


def write_post(rng: random.Random) -> str:
    """Draw one post, with the instruction in front: an event, a feeling, asides between them, a question."""
    facts = {kind: rng.choice(values) for kind, values in SLOTS.items()}
    aside = [rng.choice(ASIDES)]
    more = [text for text in ASIDES if not set(slots_of(text)) & set(slots_of(aside[0]))]
    if more and rng.random() < 0.6:
        aside.append(rng.choice(more))
    body = [rng.choice(EVENTS), rng.choice(FEELINGS), *aside]
    rng.shuffle(body)
    parts = [rng.choice(OPENINGS), *body, rng.choice(QUESTIONS)]
    return INSTRUCTION + " ".join(GRAMMAR.fill(text, rng, facts) for text in parts if text)


def write_short_post(rng: random.Random) -> str:
    """Draw a post of one or two sentences, with the instruction in front."""
    facts = {kind: rng.choice(values) for kind, values in SLOTS.items()}
    kinds = rng.sample((EVENTS, FEELINGS, ASIDES, QUESTIONS), rng.choice((1, 2)))
    return INSTRUCTION + " ".join(GRAMMAR.fill(rng.choice(texts), rng, facts) for texts in kinds)


@cache
def _messages(split: str) -> tuple[str, ...]:
    rng = random.Random(f"posts of {split}")
    found: dict[str, None] = {}
    while len(found) < LISTED[split]:
        post = write_post(rng)
        if split_of(post) == split:
            found[post] = None
    return tuple(found)


def messages(split: str) -> list[str]:
    """Return the listed posts of one part (`train`, `eval`, `test`), all different, in a fixed order."""
    return list(_messages(split))


def write(rng: random.Random) -> tuple[str, str]:
    """Draw a post of the training part, short or whole, and a summary of it as people write them."""
    if rng.random() < SHORT:
        post = write_short_post(rng)
        return post, write_summary(post, rng)
    while split_of(post := write_post(rng)) != "train":
        pass
    return post, write_summary(post, rng)


def write_summary(post: str, rng: random.Random) -> str:
    """Draw a summary as people write them: some of the facts, in order, now and then a wrong one."""
    facts = facts_of(post)
    count = rng.choices(list(SENTENCES), list(SENTENCES.values()))[0]
    usable = [p for p in PATTERNS if set(slots_of(p.text)) <= set(facts)]
    chosen: list[Pattern] = []
    while len(chosen) < count:
        pattern = rng.choices(usable, [p.weight for p in usable])[0]
        kinds = {kind for p in chosen for kind in slots_of(p.text)}
        if pattern not in chosen and not kinds & set(slots_of(pattern.text)):
            chosen.append(pattern)
    chosen.sort(key=lambda pattern: pattern.place)
    claimed = {k: rng.choice(SLOTS[k]) if rng.random() < SLIP else value for k, value in facts.items()}
    return " ".join(GRAMMAR.fill(pattern.text, rng, claimed) for pattern in chosen)


def facts_of(post: str) -> dict[str, str]:
    """Return the facts a post states, by kind; empty where it states none that the table knows."""
    facts: dict[str, str] = {}
    for sentence in bare_sentences(post):
        found = (reader.fullmatch(sentence or "") for reader in _POSTS)
        facts |= next((match.groupdict() for match in found if match), {})
    return facts


def stated(summary: str) -> tuple[set[Fact], int]:
    """Return the different facts a summary states, and how many of its sentences the grammar does not know.

    An empty summary is one unknown sentence.
    """
    claims: set[Fact] = set()
    unknown = 0
    for sentence in bare_sentences(summary):
        match = next((m for reader in _SUMMARIES if (m := reader.fullmatch(sentence or ""))), None)
        if match is None:
            unknown += 1
        else:
            claims |= set(match.groupdict().items())
    return claims, unknown
