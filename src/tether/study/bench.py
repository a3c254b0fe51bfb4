"""What one worker of a study keeps between cells (rows, start model, evaluators) and measures models with.

The first worker that needs the start model's measures makes them; the others wait and read them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tether.config.study import StudyConfig
from tether.config.train import TrainConfig
from tether.errors import RunFolderError
from tether.generation.measure import MeasuredSample, measure, same_vocabulary
from tether.judging.judges import Judge
from tether.judging.named import judge_named
from tether.judging.options import Asking
from tether.judging.pairwise import Cache
from tether.objectives.metrics import tie_tolerance
from tether.policies.artifact import MANIFEST, read_artifact
from tether.policies.load import load_model
from tether.policies.reference import table_from_columns
from tether.records.protocols import Evaluator
from tether.records.results import file_digest, read_lines, write_json, write_lines
from tether.records.rows import Preference, canonical_json
from tether.records.study import (
    MEASURES,
    SHARED,
    SUMMARY,
    CellMeasures,
    cell_folder,
    measures,
)
from tether.records.tensors import GroupBatch, SequenceLogProbs
from tether.study.grid import Cell, cells
from tether.study.judged import NOISE, judged
from tether.study.measure import Read, held_out_table, sample_table, summarise, token_table
from tether.study.tables import HeldOut, Tokens, read_table, write_table
from tether.tokens.collate import collate
from tether.tokens.render import Renderer
from tether.training.policy import load_texts, start_model
from tether.training.prepare import Prepared, prepared_rows, task_of
from tether.training.score import autocast_for, default_budget, device_of, layout_for, open_scorer, uses_bf16
from tether.training.sharing import Kept
from tether.training.steps import Beside, Engine, loss_inputs, update_logprobs
from tether.worlds import evaluator_named

Array = NDArray[np.float64]
START = "start"


@dataclass(frozen=True)
class Rows:
    """The held-out rows every model of the study reads, and the prompts every one answers."""

    prepared: Prepared
    batch: GroupBatch
    prompt_of: dict[str, str]
    asked: list[Preference]


class Bench:
    """What one worker keeps between the cells of a study."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.folder = Path(config.output_dir)
        self.shared = Kept(self.folder / SHARED)
        found, self.skipped = cells(config)
        self.cells: dict[str, Cell] = {cell.cell_id: cell for cell in found}
        self.seconds: dict[str, float] = {}

    @cached_property
    def common(self) -> TrainConfig:
        """The config whose held-out rows all cells are measured on: of a cell that reads pairs, if any."""
        configs = [cell.config for cell in self.cells.values()]
        paired = [c for c in configs if task_of(c) == "preference"] or configs
        most = max(paired, key=lambda c: c.data_fraction)
        return most.model_copy(update={"labels": "given"})

    @cached_property
    def texts(self) -> tuple[Any, frozenset[int]]:
        """Tokenizer and stop ids of the start model."""
        return load_texts(self.common, None)

    @cached_property
    def rows(self) -> Rows:
        """Held-out rows and prompts.

        Raises:
            RunFolderError: no row is held out, so nothing could be measured; or a file is not as it was read.

        """
        tokenizer, stops = self.texts
        prepared = prepared_rows(
            self.common, Renderer(tokenizer, stops, score_turns=self.common.score_turns), self.shared
        )
        if not prepared.held_out.rows:
            raise RunFolderError(
                f"{self.folder}: no row is held out, so no cell can be measured; "
                "set eval_fraction, eval_rows or eval_dataset_name"
            )
        self._same_files(prepared)
        prompt_of = {row.row_id: canonical_json(row.prompt) for row in prepared.held_out.rows}
        distinct = {prompt_of[row.row_id]: row for row in reversed(prepared.held_out.rows)}
        asked = [row for row in prepared.held_out.rows if distinct[prompt_of[row.row_id]] is row]
        return Rows(
            prepared, collate(prepared.held_out.groups), prompt_of, asked[: self.config.measured_prompts]
        )

    @cached_property
    def evaluators(self) -> list[Evaluator]:
        """The scores every sample gets; a world named as the judge scores by its true reward."""
        judge = self.config.judge or ""
        named = list(self.config.evaluators)
        if judge.startswith("world:") and judge not in named:
            named.append(judge)
        return [evaluator_named(name) for name in named]

    @cached_property
    def judge(self) -> Judge | None:
        """The judge of win rates against the start model's answers."""
        name = self.config.judge
        if name is None or name.startswith("world:"):
            return None
        return judge_named(name, Asking(device=str(device_of(self.common.device))))

    def judged(self, samples: Sequence[MeasuredSample], folder: Path) -> list[MeasuredSample]:
        """Add the judge's verdict of every answer against one of the start model."""
        if self.judge is None:
            return list(samples)
        name, cache = str(self.config.judge), folder / "judged.jsonl"
        cache.parent.mkdir(parents=True, exist_ok=True)
        return judged(samples, self.rows.asked, self._opponents, self.judge, name, Cache(cache))

    @cached_property
    def _opponents(self) -> list[str]:
        """The start model's answers that all others are judged against, drawn once."""
        path = self.folder / SHARED / START / "opponents.jsonl"
        with self.shared.lock(START, "opponents"):
            if not path.is_file():
                rows, drawn = self.rows.asked, self.answers(self.start, None, noise=NOISE)
                write_lines(
                    path, ({"row_id": rows[s["prompt"]].row_id, "text": s["completion"]} for s in drawn)
                )
        return [str(line["text"]) for line in read_lines(path)]

    @cached_property
    def start(self) -> Any:
        """The start model; its weights are every run's, to be read only.

        Raises:
            RunFolderError: the folder of the model holds other weights than when the study began.

        """
        loaded = start_model(self.common, self.shared, frozen=True)
        self.shared.hold(str(loaded.path), {"weights": loaded.weights, "adapter": loaded.adapter})
        return loaded.model.eval()

    def load(self) -> None:
        """Load rows and start model; refuse what changed since the study began (see `rows`, `start`)."""
        _ = self.rows, self.start

    def _same_files(self, prepared: Prepared) -> None:
        for file in prepared.data["files"]:
            path = Path(file["path"])
            if path.is_file() and file_digest(path) != file["sha256"]:
                raise RunFolderError(
                    f"{path}: changed since this study read it; put it back, or start another study"
                )

    def finished(self) -> set[str]:
        """Return the cells that are trained and measured."""
        return {name for name in self.cells if measures(cell_folder(self.folder, name)) is not None}

    def engine(self, model: Any) -> Engine:
        """Return the engine that reads the held-out rows."""
        config = self.common
        bf16, device = uses_bf16(config), device_of(config.device)
        autocast = autocast_for(bf16, device)
        layout = layout_for(model, config.layout, self.rows.prepared.held_out.groups, autocast)
        return Engine(
            model,
            config,
            layout.name,
            config.head_chunk,
            autocast,
            torch.bfloat16 if bf16 else torch.float32,
        )

    @property
    def budget(self) -> int:
        """Token budget of a reading pass."""
        return self.common.max_tokens_per_microbatch or default_budget(device_of(self.common.device))

    def read(self, model: Any) -> SequenceLogProbs:
        """Return the log-probs of the held-out completions."""
        model.eval()
        return update_logprobs(self.engine(model), self.rows.batch, self.budget)

    def start_measures(self) -> CellMeasures:
        """Measure the start model, or read what another worker measured."""
        folder = self.folder / SHARED / START
        with self.shared.lock(START, "measures"):
            known = measures(folder)
            if known is not None:
                return known
            began = time.perf_counter()
            policy = self.read(self.start)
            read = Read(policy, policy, _double(policy.sums), _double(policy.tokens))
            samples = self.answers(self.start, self.start)
            if self.judge is not None:  # against itself a model wins half the time, whoever judges
                samples = [{**s, "scores": {**s["scores"], self.config.judge: 0.5}} for s in samples]
            self._describe(policy, samples)
            summary = self._write(folder, read, samples, None, None)
            self.seconds[START] = time.perf_counter() - began
        return summary

    def asking(self, reference: Any, *, prompts: int | None = None, noise: int = 0) -> dict[str, Any]:
        """Return what every measuring of answers has in common: prompts, noise, start model, scores.

        `noise` other than 0 draws answers that are independent of everyone else's.
        """
        tokenizer, stops = self.texts
        renderer = Renderer(tokenizer, stops, score_turns=self.common.score_turns)
        rows = self.rows.asked[:prompts]
        return {
            "start": self.start,
            "reference": reference,
            "prompts": [row.prompt for row in rows],
            "prompt_ids": [renderer.prompt_ids(r.prompt, r.tools, r.template_arguments) for r in rows],
            "tokenizer": tokenizer,
            "stop_ids": stops,
            "step": 0,
            "max_new_tokens": self.common.kl_max_new_tokens,
            "samples_per_prompt": self.config.samples_per_prompt,
            "seed": self.config.measure_seed + noise,
            "evaluators": self.evaluators,
        }

    def answers(self, policy: Any, reference: Any, **options: int) -> list[MeasuredSample]:
        """Return answers to the study's prompts, measured against start and reference (see `asking`)."""
        with autocast_for(uses_bf16(self.common), device_of(self.common.device))():
            return measure(policy, **self.asking(reference, **options))[1]

    def trained(self, cell: Cell) -> Any:
        """Load a trained cell from its folder."""
        return self.model_at(cell_folder(self.folder, cell.cell_id) / "model", cell.config)

    def model_at(self, folder: Path, config: TrainConfig) -> Any:
        """Load a model trained here, in the start model's precision."""
        return load_model(
            folder,
            dtype=next(self.start.parameters()).dtype,
            device=device_of(config.device),
            attention=config.attn_implementation,
        ).model

    def measure(self, cell: Cell, loss: tuple[float, float | None] | None) -> CellMeasures:
        """Measure a trained cell from its folder and write its tables, the summary last."""
        start = self.start_measures()
        home = cell_folder(self.folder, cell.cell_id)
        trained = self.trained(cell)
        policy = self.read(trained)
        sums, tokens, model = self._reference(cell)
        read = Read(policy, self._start_read(), sums, tokens)
        samples = self.judged(self.answers(trained, model), home / MEASURES)
        return self._write(home / MEASURES, read, samples, start, loss)

    def _write(
        self,
        folder: Path,
        read: Read,
        samples: Sequence[MeasuredSample],
        start: CellMeasures | None,
        loss: tuple[float, float | None] | None,
    ) -> CellMeasures:
        batch = self.rows.batch
        held, tokens = held_out_table(batch, read), token_table(batch, read, self.texts[1])
        answers = sample_table(samples, [row.row_id for row in self.rows.asked])
        reference = read.start if read.reference is None else _sums(read.reference, read.start)
        inputs = loss_inputs(batch, read.policy, Beside(reference))
        tie = tie_tolerance(inputs, torch.bfloat16 if uses_bf16(self.common) else torch.float32)
        summary = summarise(
            held,
            tokens,
            answers,
            large=np.array([s["large_start"] for s in samples], dtype=np.float64),
            prompt_of=self.rows.prompt_of,
            tie=_double(tie),
            start=start,
            loss=loss,
        )
        for name, table in (("held_out", held), ("tokens", tokens), ("samples", answers)):
            write_table(folder / f"{name}.parquet", table)
        write_json(folder / SUMMARY, summary)
        return summary

    def _start_read(self) -> SequenceLogProbs:
        """Return the start model's log-probs of the held-out rows, as measured once."""
        folder = self.folder / SHARED / START
        held, tokens = (
            read_table(HeldOut, folder / "held_out.parquet"),
            read_table(Tokens, folder / "tokens.parquet"),
        )
        return SequenceLogProbs(
            torch.from_numpy(held.policy_logp).float(),
            torch.from_numpy(held.tokens),
            torch.from_numpy(tokens.policy_logp).float(),
        )

    def _reference(self, cell: Cell) -> tuple[Array | None, Array | None, Any]:
        """Return the cell's reference on the held-out rows (sums, tokens) and as a runnable model."""
        config, batch = cell.config, self.rows.batch
        kind, _, path = config.reference.partition(":")
        if kind == "none":
            return np.zeros(batch.sequences), np.zeros(len(batch.scored_ids)), None
        if kind == "self":
            start = self._start_read()
            assert start.tokens is not None
            return _double(start.sums), _double(start.tokens), self.start
        if kind == "columns":
            groups = self.rows.prepared.held_out.groups
            table = table_from_columns(
                (g.row_id, c.key, c.reference_logprob) for g in groups for c in g.completions
            )
            return np.array([table.scores[key].total for key in batch.keys]), None, None
        folder = Path(path) if kind == "artifact" else Path(config.output_dir) / "reference"
        if not (folder / MANIFEST).is_file():
            return None, None, None  # a reference that moved: what it was at the end is not kept
        table, _ = read_artifact(folder)
        sums = np.array([table.scores[key].total for key in batch.keys])
        tokens, model = self.shared.once(
            "reference tokens", {"reference": config.reference}, lambda: self._reference_tokens(kind, path)
        )
        return sums, tokens, model

    def _reference_tokens(self, kind: str, path: str) -> tuple[Array | None, Any]:
        """Read the held-out rows with a reference whose tokens are the policy's; None where they are not."""
        tokenizer, stops = self.texts
        rows, batch = self.rows.prepared.held_out.rows, self.rows.batch
        if kind == "prior":
            without = Renderer(tokenizer, stops, without_prompt=True, score_turns=self.common.score_turns)
            read = update_logprobs(self.engine(self.start), collate(without.encode_all(rows)), self.budget)
            return _double(read.tokens), None
        if kind != "model":
            return None, None
        scorer = open_scorer(path, self.common, rows)
        if not same_vocabulary(tokenizer, scorer.tokenizer):
            return None, None
        other = collate(scorer.groups)
        same = torch.equal(other.scored_ids, batch.scored_ids)
        read = update_logprobs(scorer.engine, other, self.budget) if same else None
        return (None if read is None else _double(read.tokens)), scorer.loaded.model

    def _describe(self, policy: SequenceLogProbs, samples: Sequence[MeasuredSample]) -> None:
        """Write what pages need to show rows and tokens: prompts, completions, token texts."""
        folder, rows = self.folder / SHARED, self.rows
        asked = ({"row_id": row.row_id, "prompt": row.prompt} for row in rows.asked)
        write_lines(folder / "prompts.jsonl", asked)
        write_lines(
            folder / "completions.jsonl",
            (
                {"row_id": row.row_id, "prompt": row.prompt, "role": c.role, "content": c.content}
                for row in rows.prepared.held_out.rows
                for c in row.completions
            ),
        )
        seen = sorted({int(i) for i in rows.batch.scored_ids} | {i for s in samples for i in s["ids"]})
        tokenizer = self.texts[0]
        texts = tokenizer.batch_decode([[i] for i in seen], skip_special_tokens=False)
        write_json(folder / "vocabulary.json", {str(i): text for i, text in zip(seen, texts, strict=True)})


def _double(values: Any) -> Array:
    return values.double().cpu().numpy()


def _sums(values: Array, like: SequenceLogProbs) -> SequenceLogProbs:
    return SequenceLogProbs(torch.from_numpy(values).float(), like.counts)
