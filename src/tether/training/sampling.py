"""On-policy measuring while a run runs: KL from the start model, and the answers of every measured step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.train import TrainConfig
from tether.generation.measure import measure, summarise
from tether.objectives import needs_reference
from tether.policies.adapters import has_adapter
from tether.policies.sharding import in_shards, start_of, within
from tether.records.protocols import Evaluator
from tether.records.results import SAMPLES, Answer, Measurement, Sample, answer_files, read_lines, write_lines
from tether.records.rows import Content, Preference, canonical_json
from tether.tokens.render import Renderer
from tether.training.prepare import Prepared
from tether.training.steps import Engine


class Sampler:
    """Measures the policy on held-out prompts against the model it started from."""

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        stops: frozenset[int],
        rows: Sequence[Preference],
        evaluators: Sequence[Evaluator],
        folder: Path,
        reference: Any = None,
    ) -> None:
        self._folder = folder
        self._config, self._engine, self._tokenizer, self._stops = config, engine, tokenizer, stops
        self._evaluators = evaluators
        self._reference = reference
        self._is_start = needs_reference(config) and config.reference == "self"
        renderer = Renderer(tokenizer, stops)
        self._prompts: list[Content] = [row.prompt for row in rows]
        self._ids = [renderer.prompt_ids(row.prompt, row.tools, row.template_arguments) for row in rows]
        # A second copy of what learns: the price of an honest KL. A whole model waits on the CPU.
        self._start: Any = start_of(engine.model)
        self._moves = (
            self._start is not None and not has_adapter(engine.model) and not in_shards(engine.model)
        )
        self._first: list[Answer] = []
        self._last: list[Answer] = []

    def __call__(self, step: int) -> Measurement:
        """Measure the policy as it is; the same prompts and seeds at every step."""
        device = next(self._engine.model.parameters()).device
        model: Any = self._engine.model
        sharded = in_shards(model)
        if self._moves:
            self._start.to(device)
        mine = self._mine()

        def measured() -> tuple[Measurement, list[dict[str, Any]]]:
            return measure(
                model,
                start=self._start,
                start_context=model.disable_adapter if self._start is None else None,
                reference=self._reference,
                prompts=[self._prompts[i] for i in mine],
                prompt_ids=[self._ids[i] for i in mine],
                tokenizer=self._tokenizer,
                stop_ids=self._stops,
                step=step,
                max_new_tokens=self._config.kl_max_new_tokens,
                seed=self._config.seed,
                evaluators=self._evaluators,
                most=self._engine.processes.most if sharded else int,
            )

        with torch.no_grad(), self._engine.autocast():
            measurement, rows = within(
                model, lambda: within(self._start, lambda: within(self._reference, measured))
            )
        if self._moves and device.type == "cuda":
            self._start.to("cpu")
        if self._engine.processes.count > 1:
            rows = self._joined(rows, mine)
            measurement = summarise(rows, step)
        self._keep(step, rows)
        if self._is_start:
            return measurement.model_copy(
                update={"kl_reference": measurement.kl_start, "kl_reference_se": measurement.kl_start_se}
            )
        return measurement

    def _mine(self) -> list[int]:
        """Return the prompts this process answers: as many in each; the last ones are answered twice."""
        processes, count = self._engine.processes, len(self._prompts)
        each = -(-count // processes.count)
        return [min(i * processes.count + processes.rank, count - 1) for i in range(each)]

    def _joined(self, rows: list[dict[str, Any]], mine: list[int]) -> list[dict[str, Any]]:
        """Put every process's samples together, in the order of the prompts."""
        own = [{**row, "prompt": mine[row["prompt"]]} for row in rows]
        parts = self._engine.processes.gathered(own)
        kept = {(row["prompt"], row["sample"]): row for part in reversed(parts) for row in part}
        return [kept[key] for key in sorted(kept)]

    def _keep(self, step: int, rows: list[dict[str, Any]]) -> None:
        names = ("completion", "tokens", "ended", "scores", "kl_start")
        self._last = [
            Answer(prompt=self._prompts[row["prompt"]], **{name: row[name] for name in names}) for row in rows
        ]
        if step == 0:
            self._first = self._last
        if self._engine.processes.first:
            (self._folder / SAMPLES).mkdir(exist_ok=True)
            write_lines(self._folder / SAMPLES / f"step-{step}.jsonl", self._last)

    def rewind(self, step: int) -> None:
        """On resume: keep the answers the checkpoint of `step` had seen, and read back the first and last."""
        if not self._engine.processes.first:
            return
        kept: list[Path] = []
        for number, path in answer_files(self._folder).items():
            if number > step:
                path.unlink()
            else:
                kept.append(path)
        if kept:
            self._first, self._last = (
                [Answer.model_validate(line) for line in read_lines(path)] for path in (kept[0], kept[-1])
            )

    def samples(self) -> list[Sample]:
        """Return the same prompts answered before and after training."""
        name = self._evaluators[0].name if self._evaluators else None
        return [
            Sample(
                prompt=before.prompt,
                before=before.completion,
                after=after.completion,
                score_before=before.scores.get(name) if name else None,
                score_after=after.scores.get(name) if name else None,
            )
            for before, after in zip(self._first, self._last, strict=True)
        ]


def make_sampler(
    config: TrainConfig,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    stops: frozenset[int],
    prepared: Prepared,
    evaluators: Sequence[Evaluator],
    folder: Path,
    reference: Any = None,
) -> Sampler | None:
    """Return a sampler over distinct held-out prompts (training prompts where none are held out), or None.

    It keeps answers in the run's `folder`.
    """
    rows = prepared.held_out.rows or prepared.train.rows
    distinct = {canonical_json(row.prompt): row for row in rows}
    chosen = list(distinct.values())[: config.measure_prompts]
    return (
        Sampler(config, engine, tokenizer, stops, chosen, evaluators, folder, reference) if chosen else None
    )
