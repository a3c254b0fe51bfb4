"""The small English of the sentiment world: customer messages, replies in three tones, and their grammar.

One table serves both ways: `write_reply` draws from it, `is_grammatical` recognises it (see `grammar`).
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from itertools import product

from tether.worlds.grammar import Grammar, Pattern, bare_sentences, in_split

GOODS = ("order", "parcel", "laptop", "phone", "jacket", "kettle", "lamp", "chair", "camera", "printer")
SERVICES = ("refund", "invoice", "account", "ticket", "subscription", "payment", "booking", "delivery")

MESSAGES: Mapping[str, tuple[str, ...]] = {
    "greeting": ("", "Hello, ", "Hi, ", "Good morning, "),
    "when": ("", " I have waited for two weeks.", " This is the second time.", " I wrote to you on Monday."),
    "ask": (
        "",
        " Can you help me?",
        " What should I do?",
        " Please fix this.",
        " When will this be solved?",
        " I need an answer today.",
    ),
    "goods": (
        "has not arrived",
        "is broken",
        "is missing",
        "came damaged",
        "does not work",
        "is the wrong colour",
        "is late",
    ),
    "services": (
        "is wrong",
        "does not work",
        "is missing",
        "was cancelled",
        "has not come through",
        "is not what I asked for",
        "is late",
    ),
}
"""Parts of a customer's message: greeting, "my ITEM PROBLEM.", how long, and a question."""

SLOTS: Mapping[str, tuple[str, ...]] = {
    "item": GOODS + SERVICES,
    "the": ("the", "your"),
    "very": ("", "very ", "so ", "truly "),
    "much": ("", " very much", " so much"),
    "truly": ("", "truly ", "really "),
    "sorry_for": ("the {item}", "your {item}", "the trouble with your {item}", "the long wait"),
    "glad": ("happy", "glad", "delighted"),
    "good": ("lovely", "wonderful", "great", "pleasant"),
    "day": ("day", "evening", "week"),
    "writing": ("writing to us", "telling us", "your message", "your patience"),
    "soon": ("today", "right away", "as soon as we can", "this week"),
    "date": ("today", "tomorrow", "on Monday", "on Friday", "this week"),
    "past": ("today", "yesterday", "on Monday", "last week"),
    "done": ("checked", "sent", "changed", "received", "replaced"),
    "do": ("check", "send", "change", "replace", "look at"),
    "where": ("with our team", "in our system", "on our list", "at the office"),
    "place": ("on our page", "in your account", "at the shop"),
    "number": ("two", "three", "five", "ten"),
    "unit": ("hours", "days", "weeks"),
    "quality": ("patience", "kindness", "trust"),
    "silly": ("silly", "stupid", "ridiculous", "worthless"),
    "moan": ("whining", "moaning", "crying"),
    "talk": ("question", "message", "complaint"),
    "a_fool": ("a fool", "an idiot", "a clown"),
    "bad": ("annoying", "hopeless", "pathetic"),
}
"""What may stand in each place of a sentence; in a written reply `item` is the one the customer named."""

PATTERNS: tuple[Pattern, ...] = (
    Pattern("polite", 0, "Thank you for {writing} about {the} {item}."),
    Pattern("polite", 0, "Thank you{much} for {writing}."),
    Pattern("polite", 0, "I am {very}sorry about {sorry_for}."),
    Pattern("polite", 1, "I would be {glad} to help you with {the} {item} {soon}."),
    Pattern("polite", 1, "We will gladly {do} {the} {item} for you {date}."),
    Pattern("polite", 1, "We {truly}appreciate your {quality}."),
    Pattern("polite", 2, "Please let me know if you need anything else."),
    Pattern("polite", 2, "Please tell us how we can help you with {the} {item}."),
    Pattern("polite", 2, "Have a {good} {day}!"),
    Pattern("neutral", 0, "We have your message about {the} {item}."),
    Pattern("neutral", 0, "This is about {the} {item}."),
    Pattern("neutral", 1, "{The} {item} was {done} {past}."),
    Pattern("neutral", 1, "{The} {item} is {where}."),
    Pattern("neutral", 1, "We will {do} {the} {item} {date}."),
    Pattern("neutral", 1, "You can see {the} {item} {place}."),
    Pattern("neutral", 2, "It takes {number} {unit}."),
    Pattern("neutral", 2, "You will hear from us in {number} {unit}."),
    Pattern("rude", 0, "What a {silly} {talk}!"),
    Pattern("rude", 0, "Not you and your {silly} {item} again!"),
    Pattern("rude", 0, "Stop {moan} about {the} {item}."),
    Pattern("rude", 1, "{The} {item} is not our problem."),
    Pattern("rude", 1, "Nobody here cares about {the} {silly} {item}."),
    Pattern("rude", 1, "Only {a_fool} would send such a {talk}."),
    Pattern("rude", 1, "You are {bad}."),
    Pattern("rude", 2, "Read the {silly} page before you write again."),
    Pattern("rude", 2, "Go away and leave us alone."),
)

TONES = {"polite": 0.3, "neutral": 0.4, "rude": 0.3}
"""How often a reply in the data language has this main tone."""
KEEP_TONE = 0.8
"""Probability that a sentence of a polite or rude reply has the reply's tone; otherwise it is neutral."""
STRAY_TONE = 0.1
"""Probability that a sentence of a neutral reply is polite, and as much again that it is rude."""
SENTENCES = {1: 0.3, 2: 0.45, 3: 0.25}
"""How often a reply in the data language has this many sentences."""


def messages(split: str) -> list[str]:
    """Return every customer message of one part (`train`, `eval`, `test`), in a fixed shuffled order."""
    return list(listed(split))


@cache
def listed(split: str) -> tuple[str, ...]:
    """Return the same as a tuple that is made once."""
    texts: list[str] = []
    for kind, items in (("goods", GOODS), ("services", SERVICES)):
        parts = (MESSAGES["greeting"], items, MESSAGES[kind], MESSAGES["when"], MESSAGES["ask"])
        for greeting, item, problem, when, ask in product(*parts):
            start = "my" if greeting else "My"
            texts.append(f"{greeting}{start} {item} {problem}.{when}{ask}")
    return in_split(texts, split)


def item_of(message: str) -> str | None:
    """Return the thing a customer's message is about, or None."""
    words = re.findall(r"[a-z]+", message.lower())
    return next((word for word in words if word in SLOTS["item"]), None)


def write_reply(message: str, rng: random.Random) -> str:
    """Draw one reply from the data language: one to three sentences, mostly of one tone, about the item."""
    item = item_of(message) or rng.choice(SLOTS["item"])
    tone = rng.choices(list(TONES), list(TONES.values()))[0]
    count = rng.choices(list(SENTENCES), list(SENTENCES.values()))[0]
    chosen: list[Pattern] = []
    while len(chosen) < count:
        wanted = _sentence_tone(tone, rng)
        pattern = rng.choice([p for p in PATTERNS if p.kind == wanted])
        if pattern not in chosen:
            chosen.append(pattern)
    chosen.sort(key=lambda pattern: pattern.place)
    return " ".join(fill(pattern.text, item, rng) for pattern in chosen)


def _sentence_tone(tone: str, rng: random.Random) -> str:
    draw = rng.random()
    if tone != "neutral":
        return tone if draw < KEEP_TONE else "neutral"
    if draw < STRAY_TONE:
        return "polite"
    return "rude" if draw < 2 * STRAY_TONE else "neutral"


GRAMMAR = Grammar(SLOTS)
_KNOWN = GRAMMAR.any_of(pattern.text for pattern in PATTERNS)


def fill(text: str, item: str, rng: random.Random) -> str:
    """Return a pattern's text with every slot filled at random, `item` with this item."""
    return GRAMMAR.fill(text, rng, {"item": item})


def is_grammatical(sentence: str) -> bool:
    """Say whether this is one whole sentence of the grammar, with no space around it."""
    return _KNOWN.fullmatch(sentence) is not None


def errors(reply: str) -> int:
    """Count the sentences of a reply that the grammar does not know; an empty reply counts as one."""
    return sum(s is None or not is_grammatical(s) for s in bare_sentences(reply))
