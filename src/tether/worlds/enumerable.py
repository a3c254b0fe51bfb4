"""Worlds whose every completion is listed: exact reward, KL and optimum (see `language`, `exact`)."""

from dataclasses import asdict
from typing import Any

from tether.errors import DataError
from tether.records.rows import Content
from tether.worlds import recipe
from tether.worlds.dial import DialGap, dial_gap
from tether.worlds.exact import Conditionals, Exact, Optimum, conditionals, exact, optimum
from tether.worlds.language import Language
from tether.worlds.recipe import Schedule, Shape
from tether.worlds.world import Report, Sizes, World, user_text

PLACES = ("coast", "hills", "city", "desert", "forest", "lake", "island", "valley")
WEATHER = ("sun", "rain", "wind", "snow", "fog", "hail")
END = (0.05, 0.15, 0.25, 0.4, 0.6, 1.0)

SHAPE = Shape(hidden=32, layers=2, heads=4, intermediate=64, positions=64)


class Enumerable(World):
    """One parameter set of the listable language."""

    claims = (
        "reward, KL, entropy, length, win rate and the optimum are exact: every completion is listed",
        "training, held-out and test prompts are the same few: held-out means other samples of them",
        "pairs repeat and contradict each other, as noisy labels on few texts do",
        "at most a few words: nothing here shows long answers, judges or capability loss",
    )

    def __init__(
        self, name: str, description: str, language: Language, schedule: Schedule, sizes: Sizes
    ) -> None:
        self.name = name
        self.description = description
        self.language = language
        self.schedule = schedule
        self.sizes = sizes
        self.max_new_tokens = language.length + 1

    def reward(self, prompt: Content, completion: str) -> float:
        """Return the gold reward; the prompt's last user message must be one of the world's."""
        return self.language.score(self.language.prompt_index(user_text(prompt)), completion)

    def reward_parts(self) -> dict[str, str]:
        """Return what the three terms are."""
        language = self.language
        return {
            "utility": "sum over words of their utility under the prompt",
            "grammar": f"-{language.illegal_weight} for each illegal bigram",
            "length": f"-{language.length_weight} x (words - {language.best_length})^2",
        }

    def parameters(self) -> dict[str, Any]:
        """Return the language with its tables, and the base model's recipe."""
        return {
            "language": self.language.parameters(),
            "base_model": {"shape": asdict(SHAPE), "schedule": asdict(self.schedule)},
        }

    def base_model(self, report: Report | None = None) -> tuple[Any, Any]:
        """Train the base model on the data language: seconds on one core, the same seed every time."""
        tokenizer = recipe.word_tokenizer([*self.language.words, *self.language.prompts])
        model = recipe.new_model(tokenizer, SHAPE, self.schedule.seed)
        recipe.train(
            model,
            tokenizer,
            self.language.write,
            self.schedule,
            report and (lambda step, loss: report(f"base model, step {step}: {loss:.3f} nats per token")),
        )
        return model, tokenizer

    def messages(self, split: str) -> list[str]:
        """Return the world's prompts: the same in every part."""
        return list(self.language.prompts)

    def conditionals(self, model: Any, tokenizer: Any) -> Conditionals:
        """Return the model's next-token distribution after every prefix of the world.

        Raises:
            DataError: the tokenizer does not spell the world's words with one token each.

        """
        unknown = [w for w in self.language.words if len(tokenizer.encode(w, add_special_tokens=False)) != 1]
        if unknown:
            raise DataError(f"world {self.name}: the tokenizer has no single token for {', '.join(unknown)}")
        prompts = [recipe.prompt_ids(tokenizer, message) for message in self.language.prompts]
        return conditionals(model, tokenizer, self.language, prompts)

    def exact(self, policy: Conditionals, reference: Conditionals) -> Exact:
        """Return the policy's exact quantities against the reference."""
        return exact(policy, reference, self.language)

    def optimum(self, reference: Conditionals, beta: float) -> Optimum:
        """Return the exact optimum at this beta."""
        return optimum(reference, self.language, beta)

    def dial_gap(self, policy: Conditionals, reference: Conditionals, value: float) -> DialGap:
        """Return what dialling token by token gives beside the same law over whole completions."""
        return dial_gap(policy, reference, self.language, value)


def _weather(number: int, illegal: float, topic: float, utility: float, text: str) -> Enumerable:
    language = Language(
        seed=number,
        prompts=PLACES,
        words=WEATHER,
        length=6,
        illegal=illegal,
        topic_scale=topic,
        bigram_scale=0.7,
        utility_scale=utility,
        end=END,
        best_length=4,
    )
    schedule = Schedule(steps=1000, batch_size=128, learning_rate=5e-3, seed=number)
    return Enumerable(f"enumerable-{number}", text, language, schedule, Sizes(2000, 500, len(PLACES)))


def worlds() -> tuple[Enumerable, ...]:
    """Return the enumerable worlds: three of 55,987 sequences per prompt, and a tiny one for tests."""
    tiny = Language(
        seed=4,
        prompts=PLACES[:2],
        words=WEATHER[:3],
        length=3,
        illegal=0.45,
        topic_scale=0.7,
        bigram_scale=0.7,
        utility_scale=0.8,
        end=(0.2, 0.4, 1.0),
        best_length=2,
    )
    return (
        _weather(1, 0.40, 0.7, 0.7, "55,987 completions per prompt, 40 % illegal bigrams"),
        _weather(2, 0.25, 0.5, 1.0, "55,987 completions per prompt, 25 % illegal bigrams, words matter more"),
        _weather(3, 0.55, 1.2, 0.5, "55,987 completions per prompt, 55 % illegal bigrams, words matter less"),
        Enumerable(
            "enumerable-tiny",
            "40 completions for each of 2 prompts: for tests",
            tiny,
            Schedule(steps=150, batch_size=64, learning_rate=1e-2, seed=4),
            Sizes(100, 40, 2),
        ),
    )
