"""What every world offers, and how it becomes a folder of ordinary files (listed in `files`)."""

import hashlib
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from tether.errors import UsageError
from tether.records.protocols import Evaluator
from tether.records.results import write_json, write_lines
from tether.records.rows import Content
from tether.worlds import recipe
from tether.worlds.files import BaseRecord, WorldFiles, WorldRecord, digests, existing, world_files
from tether.worlds.pairs import DrawnPairs, draw_pairs, turn

Report = Callable[[str], None]
"""Gets one short line whenever a stage begins."""


@dataclass(frozen=True)
class Sizes:
    """Default numbers of rows of a world's files."""

    pairs: int
    eval_pairs: int
    prompts: int


class GoldReward:
    """The world's true reward as an `Evaluator`."""

    name: str = "gold_reward"

    def __init__(self, world: "World") -> None:
        self.world = world

    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        """Return the gold reward of each completion."""
        return [self.world.reward(p, c) for p, c in zip(prompts, completions, strict=True)]


class World(ABC):
    """A task whose true reward is known for every text."""

    name: str
    version: int = 1
    """Raised when anything about the world's numbers changes."""
    description: str
    claims: tuple[str, ...]
    sizes: Sizes
    max_new_tokens: int

    @abstractmethod
    def reward(self, prompt: Content, completion: str) -> float:
        """Return the gold reward of a completion: deterministic, a function of the text alone."""

    @abstractmethod
    def reward_parts(self) -> dict[str, str]:
        """Return the reward's parts in words, by name."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return every number the world is made of, ready for JSON."""

    @abstractmethod
    def base_model(self, report: Report | None = None) -> tuple[Any, Any]:
        """Return the base model in eval mode and its tokenizer."""

    @abstractmethod
    def messages(self, split: str) -> list[str]:
        """Return all user messages of `train`, `eval` or `test`, in a fixed order."""

    def reward_of(self, message: str, reply: str) -> float:
        """Return the gold reward of a reply to one user message."""
        return self.reward(({"role": "user", "content": message},), reply)

    def evaluator(self) -> Evaluator:
        """Return the gold reward as an evaluator named `gold_reward`."""
        return GoldReward(self)

    def make(
        self,
        out: Path,
        *,
        pairs: int | None = None,
        eval_pairs: int | None = None,
        prompts: int | None = None,
        seed: int = 0,
        report: Report | None = None,
    ) -> WorldFiles:
        """Write the world's files into a new folder; all of them or none.

        Args:
            out: the folder; must be absent, empty, or hold exactly what would be written.
            pairs: rows of train.jsonl, the world's default if None; `eval_pairs` and `prompts` likewise.
            eval_pairs: rows of eval.jsonl.
            prompts: rows of prompts.jsonl.
            seed: decides prompts, samples and labels; the base model and the reward never depend on it.
            report: called with one line per stage.

        Raises:
            RunFolderError: the folder holds something else.
            UsageError: a number is out of range.

        """
        made = {
            "pairs": self.sizes.pairs if pairs is None else pairs,
            "eval_pairs": self.sizes.eval_pairs if eval_pairs is None else eval_pairs,
            "prompts": self.sizes.prompts if prompts is None else prompts,
            "seed": seed,
        }
        self._check(made)
        there = existing(self.name, self.version, out, made)
        if there is not None:
            return there
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            draft = Path(work) / "world"
            draft.mkdir()
            record = self._write(draft, made, report or _silent)
            if out.exists():
                out.rmdir()
            draft.rename(out)
        return world_files(out, record, made_now=True)

    def _check(self, made: dict[str, int]) -> None:
        for key, low in (("pairs", 1), ("eval_pairs", 1), ("prompts", 1), ("seed", 0)):
            if made[key] < low:
                raise UsageError(f"world {self.name}: {key} is {made[key]}; it must be at least {low}")
        available = len(self.messages("test"))
        if made["prompts"] > available:
            raise UsageError(
                f"world {self.name}: prompts is {made['prompts']}; this world has {available} test prompts"
            )

    def _write(self, folder: Path, made: dict[str, int], report: Report) -> WorldRecord:
        report("base model")
        model, tokenizer = self.base_model(report)
        recipe.save(model, tokenizer, folder / "model")
        report(f"{made['pairs'] + made['eval_pairs']} pairs from the base model's own samples")
        train = self._draw(model, tokenizer, "train", made["pairs"], made["seed"])
        held_out = self._draw(model, tokenizer, "eval", made["eval_pairs"], made["seed"])
        write_lines(folder / "train.jsonl", (pair.row() for pair in train.pairs))
        write_lines(folder / "eval.jsonl", (pair.row() for pair in held_out.pairs))
        prompts = self.messages("test")
        random.Random(self._stream(made["seed"], "prompts")).shuffle(prompts)
        write_lines(
            folder / "prompts.jsonl", ({"prompt": turn("user", m)} for m in prompts[: made["prompts"]])
        )
        rewards = [reward for drawn in (train, held_out) for pair in drawn.pairs for reward in pair.rewards]
        record = WorldRecord(
            name=self.name,
            version=self.version,
            description=self.description,
            reward=self.reward_parts(),
            labels=LABELS,
            claims=self.claims,
            parameters=self.parameters(),
            made=made,
            max_new_tokens=self.max_new_tokens,
            train=train.record(),
            eval=held_out.record(),
            base=BaseRecord(
                completions=len(rewards), gold_reward=fmean(rewards), gold_reward_sd=pstdev(rewards)
            ),
            files=digests(folder),
        )
        write_json(folder / "world.json", record)
        return record

    def _draw(self, model: Any, tokenizer: Any, part: str, count: int, seed: int) -> DrawnPairs:
        return draw_pairs(
            model,
            tokenizer,
            self.messages(part),
            self.reward_of,
            count=count,
            max_new_tokens=self.max_new_tokens,
            seeds=(self._stream(seed, f"{part}/labels"), self._stream(seed, f"{part}/samples")),
        )

    def _stream(self, seed: int, purpose: str) -> int:
        """Return the seed of one random stream: another purpose, world or version is unrelated to it."""
        digest = hashlib.sha256(f"{self.name}/{self.version}/{seed}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:7], "big")


LABELS = (
    "both completions are samples of the base model; the one of reward a is chosen over the one of reward b "
    "with probability sigmoid(a - b), drawn once per pair (Bradley-Terry)"
)


def user_text(prompt: Content) -> str:
    """Return the last user message of a prompt, or the whole of a plain text."""
    if isinstance(prompt, str):
        return prompt
    return next((str(m["content"]) for m in reversed(prompt) if m["role"] == "user"), "")


def _silent(_: str) -> None:
    return
