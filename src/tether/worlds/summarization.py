"""The readable world of summaries: posts whose facts are known, and summaries scored against them.

    gold reward = coverage + falsehood + grammar + length

    coverage   +1 for each of the four facts a summary is for (who, did, feel, ask) that it states rightly
    falsehood  -1 for each different fact it states that the post does not
    grammar    -1 for each sentence the world's grammar does not know (`posts.stated`)
    length     -0.06 per word

A fact by the way (job, pet, when), stated rightly, earns nothing and costs its words.
"""

import random
from dataclasses import asdict
from typing import Any

from tether.errors import DataError
from tether.records.rows import Content
from tether.worlds import posts
from tether.worlds.grammar import words_of
from tether.worlds.readable import Readable
from tether.worlds.recipe import Schedule, Shape, Text
from tether.worlds.world import Sizes, user_text

FACT, FALSE, ERROR, WORD = 1.0, 1.0, 1.0, 0.06
"""Weights of the four terms."""


def parts(post: str, summary: str) -> dict[str, float]:
    """Return the four terms of the gold reward: coverage, falsehood, grammar, length.

    Raises:
        DataError: the post does not state the four facts of a post of this world.

    """
    facts = posts.facts_of(post)
    missing = [kind for kind in posts.SALIENT if kind not in facts]
    if missing:
        raise DataError(f"{post!r} is no post of the summarization world: it does not say {missing[0]}")
    claims, unknown = posts.stated(summary)
    right = {kind for kind, value in claims if facts.get(kind) == value}
    return {
        "coverage": FACT * len(right & set(posts.SALIENT)),
        "falsehood": 0.0 - FALSE * sum(facts.get(kind) != value for kind, value in claims),
        "grammar": 0.0 - ERROR * unknown,
        "length": 0.0 - WORD * len(words_of(summary)),
    }


class Summarization(Readable):
    """Posts that ask for advice and their summaries, with the base model that the project trained itself."""

    name = "summarization"
    description = "posts that ask for advice, and summaries; which facts a summary must hold is known"
    claims = (
        "the gold reward of every text is known exactly and costs nothing",
        "training, held-out and test posts are different texts",
        "a fact is stated in one of the table's sentences or not at all: paraphrase is not rewarded",
        "posts of six sentences say nothing about long documents",
    )
    sizes = Sizes(pairs=2000, eval_pairs=200, prompts=200)
    max_new_tokens = 60
    shape = Shape(hidden=96, layers=3, heads=4, intermediate=264, positions=256)
    schedule = Schedule(steps=1200, batch_size=64, learning_rate=3e-3)
    vocabulary = 768
    references = "written"

    def reward(self, prompt: Content, completion: str) -> float:
        """Return coverage + falsehood + grammar + length of a summary of the prompt's post."""
        return sum(parts(user_text(prompt), completion).values())

    def reward_parts(self) -> dict[str, str]:
        """Return what the four terms are."""
        return {
            "coverage": f"{FACT} per fact of {', '.join(posts.SALIENT)} stated rightly (each counts once)",
            "falsehood": f"-{FALSE} per different stated fact that is not the post's",
            "grammar": f"-{ERROR} per sentence outside the world's grammar; an empty summary counts as one",
            "length": f"-{WORD} x words",
        }

    def parameters(self) -> dict[str, Any]:
        """Return weights, data language and the base model's recipe."""
        return {
            "weights": {"fact": FACT, "false": FALSE, "error": ERROR, "word": WORD},
            "language": {
                "slots": {name: list(words) for name, words in posts.SLOTS.items()},
                "posts": [
                    list(part)
                    for part in (posts.OPENINGS, posts.EVENTS, posts.FEELINGS, posts.ASIDES, posts.QUESTIONS)
                ],
                "patterns": [asdict(pattern) for pattern in posts.PATTERNS],
                "sentences": {str(count): share for count, share in posts.SENTENCES.items()},
                "slip": posts.SLIP,
            },
            "base_model": self.recipe(),
        }

    def messages(self, split: str) -> list[str]:
        """Return the listed posts of one part; the parts share none."""
        return posts.messages(split)

    def write(self, rng: random.Random) -> Text:
        """Draw a post of the training part and a summary."""
        return posts.write(rng)

    def written(self, message: str, rng: random.Random) -> str:
        """Draw a summary of this post as people write them."""
        return posts.write_summary(message, rng)

    def errors(self, reply: str) -> int:
        """Count the sentences outside the grammar."""
        return posts.stated(reply)[1]

    def faithful(self, message: str, reply: str) -> tuple[int, int]:
        """Return how many of the stated facts are the post's, and how many are stated."""
        facts, claims = posts.facts_of(message), posts.stated(reply)[0]
        return sum(facts.get(kind) == value for kind, value in claims), len(claims)
