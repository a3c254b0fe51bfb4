"""Worlds in small English, each with a base model that the project trained itself and ships.

The data language (`write`) is what the base model was trained on; `references` says what an answer of such a
world is compared with, as the public task of the same name does it.
"""

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from tether.worlds import recipe
from tether.worlds.pairs import label
from tether.worlds.sampler import draw
from tether.worlds.world import Report, World

TOKENIZER_TEXTS = 4000
"""Texts a tokenizer is trained on."""


class Readable(World):
    """A world one can read, with its bundled base model and the recipe that makes it again."""

    shape: recipe.Shape
    schedule: recipe.Schedule
    vocabulary: int
    """Upper limit for the tokenizer; its training stops earlier when every word is one token."""
    references: Literal["written", "chosen"]
    """What answers are compared with: a text of the data language, or the chosen one of a labelled pair."""

    @abstractmethod
    def write(self, rng: random.Random) -> recipe.Text:
        """Draw a message of the training part and a text people wrote to it."""

    @abstractmethod
    def written(self, message: str, rng: random.Random) -> str:
        """Draw a text people wrote to this message."""

    @abstractmethod
    def errors(self, reply: str) -> int:
        """Count the sentences of a reply that the world's grammar does not know."""

    @abstractmethod
    def faithful(self, message: str, reply: str) -> tuple[int, int]:
        """Return how many things a reply says about its message rightly, and how many it says."""

    @property
    def assets(self) -> Path:
        """The folder of the bundled base model."""
        return Path(__file__).parent / "assets" / self.name

    def recipe(self) -> dict[str, Any]:
        """Return the base model's recipe, ready for JSON."""
        return {
            "shape": asdict(self.shape),
            "schedule": asdict(self.schedule),
            "vocabulary": self.vocabulary,
        }

    def base_model(self, report: Report | None = None) -> tuple[Any, Any]:
        """Return the bundled base model (made by `tools/train_base_model.py`)."""
        model = AutoModelForCausalLM.from_pretrained(self.assets, local_files_only=True, dtype="float32")
        return model.eval(), AutoTokenizer.from_pretrained(self.assets, local_files_only=True)

    def train_base(self, report: Callable[[int, float], None] | None = None) -> tuple[Any, Any]:
        """Make the base model again, from random weights; minutes on one core, same bits on one machine."""
        rng = random.Random(1)
        texts = (text for _ in range(TOKENIZER_TEXTS) for text in self.write(rng))
        tokenizer = recipe.text_tokenizer(texts, self.vocabulary)
        model = recipe.new_model(tokenizer, self.shape, self.schedule.seed)
        recipe.train(model, tokenizer, self.write, self.schedule, report)
        return model, tokenizer

    def reference_completions(
        self, model: Any, tokenizer: Any, messages: Sequence[str], seed: int
    ) -> list[str]:
        """Return what answers to these messages are compared with: see `references`.

        `chosen`: two samples of the model per message, one of them drawn by Bradley-Terry on the gold reward;
        a sample cut at the world's limit stays as it is.
        """
        rng = random.Random(self._stream(seed, "references/labels"))
        if self.references == "written":
            return [self.written(message, rng) for message in messages]
        drawn = draw(
            model,
            [recipe.prompt_ids(tokenizer, message) for message in messages for _ in range(2)],
            end=tokenizer.eos_token_id,
            max_new_tokens=self.max_new_tokens,
            generator=torch.Generator().manual_seed(self._stream(seed, "references/samples")),
        )
        texts = [tokenizer.decode(one.ids) for one in drawn]
        pairs = [(message, (texts[2 * i], texts[2 * i + 1])) for i, message in enumerate(messages)]
        return [label(self.reward_of, message, both, rng).chosen for message, both in pairs]
