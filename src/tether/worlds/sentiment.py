"""The readable world: customer-service replies whose tone has a known score.

    gold reward = tone + grammar + length

    tone     0.75 x the sum of `LEXICON` scores of the different lexicon words in the reply
    grammar  -1 for each sentence the world's grammar does not know (`replies.errors`)
    length   -0.004 x (words - 16)^2

The text of the reply decides alone; what the customer wrote does not enter.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tether.records.rows import Content
from tether.worlds import replies
from tether.worlds.grammar import words_of
from tether.worlds.readable import Readable
from tether.worlds.recipe import Schedule, Shape, Text
from tether.worlds.world import Sizes

LEXICON: Mapping[str, float] = {
    "thank": 1.0,
    "sorry": 1.0,
    "please": 0.5,
    "help": 0.5,
    "happy": 1.0,
    "glad": 1.0,
    "gladly": 1.0,
    "delighted": 1.5,
    "appreciate": 1.0,
    "kindness": 1.0,
    "trust": 0.5,
    "patience": 0.5,
    "lovely": 1.5,
    "wonderful": 1.5,
    "great": 1.0,
    "pleasant": 1.0,
    "truly": 0.5,
    "really": 0.25,
    "stop": -0.5,
    "problem": -0.5,
    "nobody": -1.0,
    "alone": -1.0,
    "silly": -1.0,
    "ridiculous": -1.5,
    "worthless": -1.5,
    "stupid": -2.0,
    "whining": -1.0,
    "moaning": -1.0,
    "crying": -1.0,
    "clown": -1.0,
    "fool": -1.5,
    "idiot": -2.0,
    "annoying": -1.0,
    "hopeless": -1.0,
    "pathetic": -2.0,
}
"""Tone words and their scores, lower case; every other word scores 0."""

TONE, ERROR, LENGTH, WORDS = 0.75, 1.0, 0.004, 16
"""Weights of the three terms, and the number of words with no length penalty."""


def parts(reply: str) -> dict[str, float]:
    """Return the three terms of the gold reward: tone, grammar, length."""
    words = words_of(reply)
    return {
        "tone": TONE * sum(score for word, score in LEXICON.items() if word in set(words)),
        "grammar": 0.0 - ERROR * replies.errors(reply),
        "length": 0.0 - LENGTH * (len(words) - WORDS) ** 2,
    }


class Sentiment(Readable):
    """Customer-service replies, with the base model that the project trained itself."""

    name = "sentiment"
    description = "customer-service replies in polite, neutral and rude tones; the tone's score is known"
    claims = (
        "the gold reward of every text is known exactly and costs nothing",
        "training, held-out and test prompts are different messages",
        "the reply's relation to the customer's message is not scored",
        "a grammar of this size says nothing about long answers, facts or capability loss",
    )
    sizes = Sizes(pairs=1000, eval_pairs=200, prompts=200)
    max_new_tokens = 80
    shape = Shape(hidden=96, layers=3, heads=4, intermediate=264, positions=256)
    schedule = Schedule(steps=1000, batch_size=64, learning_rate=3e-3)
    vocabulary = 1024
    references = "chosen"

    def reward(self, prompt: Content, completion: str) -> float:
        """Return tone + grammar + length of the reply; the prompt does not enter."""
        return sum(parts(completion).values())

    def reward_parts(self) -> dict[str, str]:
        """Return what the three terms are."""
        return {
            "tone": f"{TONE} x sum of the scores of the different tone words in the reply (each counts once)",
            "grammar": f"-{ERROR} per sentence outside the world's grammar; an empty reply counts as one",
            "length": f"-{LENGTH} x (words - {WORDS})^2",
        }

    def parameters(self) -> dict[str, Any]:
        """Return lexicon, weights, data language and the base model's recipe."""
        return {
            "lexicon": dict(LEXICON),
            "weights": {"tone": TONE, "error": ERROR, "length": LENGTH, "words": WORDS},
            "language": {
                "patterns": [asdict(pattern) for pattern in replies.PATTERNS],
                "slots": {name: list(words) for name, words in replies.SLOTS.items()},
                "tones": dict(replies.TONES),
                "sentences": {str(count): share for count, share in replies.SENTENCES.items()},
            },
            "base_model": self.recipe(),
        }

    def messages(self, split: str) -> list[str]:
        """Return the customer messages of one part; the parts share none."""
        return replies.messages(split)

    def write(self, rng: random.Random) -> Text:
        """Draw a customer's message of the training part and a reply."""
        message = rng.choice(replies.listed("train"))
        return message, replies.write_reply(message, rng)

    def written(self, message: str, rng: random.Random) -> str:
        """Draw a reply in the data language."""
        return replies.write_reply(message, rng)

    def errors(self, reply: str) -> int:
        """Count the sentences outside the grammar."""
        return replies.errors(reply)

    def faithful(self, message: str, reply: str) -> tuple[int, int]:
        """Return whether the reply names the customer's item, and whether it names one."""
        item = replies.item_of(reply)
        return int(item is not None and item == replies.item_of(message)), int(item is not None)
