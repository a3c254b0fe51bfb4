"""Trained models turned by the dial, beside the model they started from: answers, scores, the time they take.

All dial values answer the same prompts with the same noise. Prompts are taken part by part while the time
allowed lasts: how many are answered depends on the clock, never on what was answered.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tether.config.train import TrainConfig
from tether.generation.measure import MeasuredSample, measure, measure_dials
from tether.judging.judges import Judge
from tether.judging.pairwise import Cache
from tether.policies.load import load_model
from tether.records.protocols import Evaluator
from tether.records.rows import Preference, canonical_json
from tether.records.study import crossed_score
from tether.study.crossed import implicit_rewards
from tether.study.judged import NOISE, judged, with_scores
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.prepare import Prepared, prepare, read, task_of
from tether.training.score import autocast_for, device_of, uses_bf16
from tether.training.track import Watcher

FEWEST, MOST = 20, 512
"""Prompts answered: fewer than 20 make intervals that cannot be trusted."""
PART = 16
"""Prompts answered at a time after the first 20."""

Samples = list[MeasuredSample]


@dataclass(frozen=True)
class Judging:
    """Who says what is better: an evaluator's score, or a judge who compares with the start's answer."""

    name: str
    evaluator: Evaluator | None = None
    judge: Judge | None = None
    cache: Cache | None = None


@dataclass
class Answers:
    """Samples prompt by prompt: of the start model, and of every trained model at every dial value."""

    start: Samples = field(default_factory=list[MeasuredSample])
    dialled: dict[tuple[str, float], Samples] = field(default_factory=dict[tuple[str, float], Samples])
    """By (name of the trained model, dial value)."""

    def add(self, more: "Answers") -> None:
        """Put the answers to further prompts behind."""
        self.start += more.start
        for key, samples in more.dialled.items():
            self.dialled.setdefault(key, []).extend(samples)


class Dialler:
    """Trained models beside their start. Of two, trained on a half each, each scores what the other wrote."""

    def __init__(
        self, config: TrainConfig, trained: Mapping[str, Path], judging: Judging | None, watcher: Watcher
    ) -> None:
        device = device_of(config.device)
        self._config, self._judging, self._watcher = config, judging, watcher
        self._autocast = autocast_for(uses_bf16(config), device)
        self._policies = {name: load_model(path, device=device).model for name, path in trained.items()}
        self._start = load_model(config.model_name_or_path, device=device).model
        self._tokenizer = load_tokenizer(config.model_name_or_path)
        self._stops = stop_ids(self._tokenizer, config.model_name_or_path)
        self._renderer = Renderer(self._tokenizer, self._stops)

    @cached_property
    def _prepared(self) -> Prepared:
        task = task_of(self._config)
        return prepare(self._config, read(self._config, None, None, task=task), self._renderer, task=task)

    def rows(self) -> tuple[list[Preference], bool]:
        """Return one row per prompt that may be answered, and whether they were held out of training."""
        held_out = self._prepared.held_out.rows
        distinct = {canonical_json(row.prompt): row for row in held_out or self._prepared.train.rows}
        return list(distinct.values()), bool(held_out)

    def tokens(self) -> tuple[int, int]:
        """Return the tokens of all rows to train on, and of those held out."""
        parts = (self._prepared.train, self._prepared.held_out)
        trained, held_out = (sum(g.tokens for g in part.groups) for part in parts)
        return trained, held_out

    def answers(self, values: Sequence[float], parts: Iterator[Sequence[Preference]]) -> Answers:
        """Return the answers to all parts, scored by the judge and by the other half."""
        found, done = Answers(), 0
        for part in parts:
            self._watcher.stage(f"answering prompts {done + 1} to {done + len(part)}")
            with self._autocast():
                found.add(self._part(values, part))
            done += len(part)
        return found

    def _part(self, values: Sequence[float], rows: Sequence[Preference]) -> Answers:
        options, judging = self._options(rows), self._judging
        judge = None if judging is None else judging.judge
        # Answers that others are judged against are drawn apart from them (see `judged.NOISE`).
        apart = 0 if judge is None else NOISE
        _, start = measure(self._start, start=self._start, **{**options, "seed": options["seed"] + apart})
        beside = [sample["completion"] for sample in start]
        if judging is not None and judge is not None:
            start = with_scores(start, judging.name, [0.5] * len(start))  # beside itself
        found = Answers(self._crossed(start, options["prompt_ids"], None))
        for name, policy in self._policies.items():
            for value, (_, samples) in zip(
                values, measure_dials(policy, values, start=self._start, **options), strict=True
            ):
                if judging is not None and judge is not None:
                    samples = judged(samples, rows, beside, judge, judging.name, judging.cache)
                found.dialled[name, value] = self._crossed(samples, options["prompt_ids"], name)
        return found

    def _options(self, rows: Sequence[Preference]) -> dict[str, Any]:
        evaluator = self._judging.evaluator if self._judging else None
        return {
            "prompts": [row.prompt for row in rows],
            "prompt_ids": [
                self._renderer.prompt_ids(row.prompt, row.tools, row.template_arguments) for row in rows
            ],
            "tokenizer": self._tokenizer,
            "stop_ids": self._stops,
            "step": 0,
            "max_new_tokens": self._config.kl_max_new_tokens,
            "seed": self._config.seed,
            "evaluators": [evaluator] if evaluator is not None else [],
        }

    def _crossed(self, samples: Samples, prompt_ids: Sequence[Sequence[int]], author: str | None) -> Samples:
        """Put beside each sample the implicit reward of the half its author was not trained on.

        The start model (`author` None) was trained on neither: it gets the mean of both.
        """
        if len(self._policies) < 2:
            return samples
        beta = self._config.beta
        rewards = [
            implicit_rewards(scorer, self._start, prompt_ids, [sample["ids"] for sample in samples], beta)
            for name, scorer in self._policies.items()
            if name != author
        ]
        return with_scores(samples, crossed_score(beta), np.mean(rewards, axis=0).tolist())


def within(
    rows: Sequence[Preference], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Sequence[Preference]]:
    """Yield prompts, 20 and then 16 at a time, while another part would end within `seconds`; 512 at most.

    A part is taken to need what the slowest before it did. The first is given whatever it takes.
    """
    began, slowest, done = clock(), 0.0, 0
    most = min(len(rows), MOST)
    while done < most and (not done or clock() - began + slowest <= seconds):
        size, before = (PART if done else FEWEST), clock()
        yield rows[done : min(done + size, most)]
        slowest, done = max(slowest, clock() - before), done + size
