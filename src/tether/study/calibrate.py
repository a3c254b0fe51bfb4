"""How tight, from one training run: the trained model is turned by the dial instead of trained again.

At dial d the answers come from policy^d * start^(1 - d), token by token (DeRa, arXiv 2402.02992), which
stands for training at beta / d: exactly so over whole answers of an optimal policy, approximately otherwise.
Every dial value answers the same prompts with the same noise, so the rule of `study.tight` applies to dials
as it does to betas.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.analysis.drift import Behaviour, degeneration, distinct, repetition
from tether.analysis.stats import mean_interval
from tether.config.train import TrainConfig
from tether.errors import RunFolderError, UsageError
from tether.generation.measure import MeasuredSample, measure, measure_dials
from tether.judging.judges import Judge
from tether.judging.pairwise import Cache, Pair, judge_pairs
from tether.policies.load import load_model
from tether.records.calibration import CALIBRATION, Calibration, DialPoint
from tether.records.findings import Answer, Estimate, Setting
from tether.records.protocols import Evaluator
from tether.records.results import RunRecord, write_json
from tether.records.rows import Preference, canonical_json
from tether.study.board import Array, Board
from tether.study.judged import NOISE
from tether.study.tight import how_tight
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.prepare import prepare, read, task_of
from tether.training.run import train
from tether.training.score import device_of
from tether.training.track import Silent, Watcher

DIALS = (0.25, 0.5, 1.0, 2.0, 4.0)
SHARE = 0.5
"""Sampling and scoring may take this share of the training run: 1.5 runs in all."""
FEWEST, MOST = 20, 512
"""Prompts answered: fewer than 20 make intervals that cannot be trusted."""
PILOT = 4
"""Prompts answered first, to see how long one takes."""

Samples = list[MeasuredSample]


@dataclass(frozen=True)
class Judging:
    """Who says what is better: an evaluator's score, or a judge who compares with the start's answer."""

    name: str
    evaluator: Evaluator | None = None
    judge: Judge | None = None
    cache: Cache | None = None


def calibrate(
    config: TrainConfig,
    *,
    dials: Sequence[float] = DIALS,
    judging: Judging | None = None,
    prompts: int | None = None,
    watcher: Watcher | None = None,
) -> Calibration:
    """Train once at `config.beta`, dial, and say how tight; `config.output_dir` holds `run/` and the result.

    Without a judge the price of each dial in KL is printed and nothing is recommended: no rule without a
    judge has been shown to choose well (docs/findings.md).

    Raises:
        UsageError: dials that are not positive and different, or another reference than self.
        RunFolderError: the folder holds something else.

    """
    watcher = watcher or Silent()
    values = _checked(config, dials)
    folder = Path(config.output_dir)
    _own(folder)
    run = config.model_copy(update={"output_dir": str(folder / "run"), "measure_prompts": 0})
    record = train(run, watcher=watcher)
    # With the commit, where the model is of the hub.
    config = config.model_copy(update={"model_name_or_path": record.config["model_name_or_path"]})
    trained = sum(record.timing.get(name, 0.0) for name in ("reference", "training"))
    began = time.perf_counter()
    dialler = _Dialler(config, folder / "run" / "model", judging, watcher)
    asked = dialler.asked(prompts, len(values), SHARE * trained)
    start = dialler.start(asked)
    dialled = dialler.dialled(values, asked)
    spent = time.perf_counter() - began
    found = _found(config, record, values, start, dialled, judging)
    notes = [*found.pop("notes"), *_cost_notes(spent, trained, len(asked), prompts)]
    result = Calibration(
        model=config.model_name_or_path,
        data=str(config.dataset_name),
        trained=str(folder / "run" / "model"),
        trained_beta=config.beta,
        judge=judging.name if judging else None,
        prompts=len(asked),
        seconds={"train": trained, "sample and score": spent},
        cost=(trained + spent) / trained if trained else math.inf,
        notes=tuple(notes),
        **found,
    )
    write_json(folder / CALIBRATION, result)
    return result


def _checked(config: TrainConfig, dials: Sequence[float]) -> list[float]:
    values = sorted(float(d) for d in dials)
    if not values or values[0] <= 0 or len(set(values)) != len(values):
        raise UsageError(f"--dial: {list(dials)}; give different values above 0; 1 is the trained model")
    if config.reference != "self":
        raise UsageError(
            f"reference {config.reference}: a dial turns between the model and what it started from; "
            "calibrate with reference self, and compare references with tether study"
        )
    return values


def _own(folder: Path) -> None:
    """Refuse a folder with anything else in it."""
    if not folder.is_dir():
        return
    strangers = sorted({p.name for p in folder.iterdir()} - {"run", CALIBRATION, "opinions.jsonl"})
    if strangers:
        raise RunFolderError(f"{folder}: holds {strangers[0]!r}; choose an empty --output-dir")


class _Dialler:
    """The trained model beside its start, answering held-out prompts."""

    def __init__(self, config: TrainConfig, trained: Path, judging: Judging | None, watcher: Watcher) -> None:
        device = device_of(config.device)
        self._config, self._judging, self._watcher = config, judging, watcher
        self._policy = load_model(trained, device=device).model
        self._start = load_model(config.model_name_or_path, device=device).model
        self._tokenizer = load_tokenizer(config.model_name_or_path)
        self._stops = stop_ids(self._tokenizer, config.model_name_or_path)
        self._renderer = Renderer(self._tokenizer, self._stops)
        self._answers: dict[str, str] = {}

    def asked(self, wanted: int | None, dials: int, seconds: float) -> list[Preference]:
        """Return the prompts to answer: as many as asked for, else as many as the time is worth."""
        task = task_of(self._config)
        prepared = prepare(self._config, read(self._config, None, None, task=task), self._renderer, task=task)
        rows = prepared.held_out.rows or prepared.train.rows
        distinct = list({canonical_json(row.prompt): row for row in rows}.values())
        if wanted is not None:
            return distinct[:wanted]
        self._watcher.stage("timing answers")
        began = time.perf_counter()
        self.start(distinct[:PILOT])
        each = (time.perf_counter() - began) / min(PILOT, len(distinct))
        # The start model once; at every dial two models read each answer as it is written, and once more.
        affordable = int(seconds / max(each * (1 + 2 * dials), 1e-9))
        return distinct[: max(FEWEST, min(affordable, MOST))]

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

    def start(self, rows: Sequence[Preference]) -> Samples:
        """Return the start model's own answers, scored.

        Answers that others are judged against are drawn apart from them (see `judged.NOISE`).
        """
        self._watcher.stage("answers of the start model")
        options = self._options(rows)
        if self._judging is not None and self._judging.judge is not None:
            options["seed"] += NOISE
        _, samples = measure(self._start, start=self._start, **options)
        self._answers = {
            canonical_json(row.prompt): sample["completion"]
            for row, sample in zip(rows, samples, strict=True)
        }
        return self._scored(rows, samples)

    def dialled(self, values: Sequence[float], rows: Sequence[Preference]) -> list[Samples]:
        """Return the answers at every dial value, scored."""
        found: list[Samples] = []
        for value in values:
            self._watcher.stage(f"answers at dial {value:g}")
            ((_, samples),) = measure_dials(self._policy, [value], start=self._start, **self._options(rows))
            found.append(self._scored(rows, samples))
        return found

    def _scored(self, rows: Sequence[Preference], samples: Samples) -> Samples:
        """Put the judge's share against the start model's answer beside each sample."""
        judging = self._judging
        if judging is None or judging.judge is None:
            return samples
        pairs = [
            Pair(row.row_id, row.prompt, sample["completion"], self._answers[canonical_json(row.prompt)])
            for row, sample in zip(rows, samples, strict=True)
        ]
        verdicts = judge_pairs(pairs, judging.judge, ("dialled", "start"), cache=judging.cache)
        return [
            {**sample, "scores": {judging.name: math.nan if v.share is None else v.share}}
            for sample, v in zip(samples, verdicts, strict=True)
        ]


def _found(
    config: TrainConfig,
    record: RunRecord,
    values: Sequence[float],
    start: Samples,
    dialled: Sequence[Samples],
    judging: Judging | None,
) -> dict[str, Any]:
    """Return answer, recommendation and points of a calibration."""
    behaved = [_behaviour(samples) for samples in (start, *dialled)]
    broken = [tuple(str(r) for r in degeneration(now, behaved[0])) for now in behaved[1:]]
    notes = [f"dial {d:g} is degenerate: {'; '.join(b)}" for d, b in zip(values, broken, strict=True) if b]
    kls = [np.array([s["kl_start"] for s in samples], dtype=np.float64) for samples in dialled]
    if judging is None:
        answer = Answer(
            question="how tight",
            claim="A strength can be recommended.",
            verdict="needs a judge",
            sentence="Without a judge nothing is recommended; the table says what each strength costs in KL.",
            n=len(start),
            seeds=1,
        )
        gains: Mapping[str, Estimate] = {}
        chosen, recommended = None, None
    else:
        tables = [_column(samples, judging.name) for samples in (start, *dialled)]
        known = np.atleast_1d(np.isfinite(np.stack(tables)).all(axis=0))
        if (lost := int((~known).sum())) > 0:
            notes.append(f"{lost} of {len(known)} prompts have no verdict at some dial: left out")
        board = _board(config, values, [t[known] for t in tables], [k[known] for k in kls], broken)
        tight = how_tight(board, board.settings[0].arm)
        answer, gains, recommended = tight.answer, tight.gains, tight.recommended
        chosen = next((d for d in values if _name(d) == recommended), None)
    points = tuple(
        DialPoint(
            dial=value,
            beta=config.beta / value,
            kl=_estimate(kl),
            gain=gains.get(_name(value)),
            tokens=now.tokens,
            end_rate=now.end_rate,
        )
        for value, kl, now in zip(values, kls, behaved[1:], strict=True)
    )
    if chosen is not None and chosen != 1.0:
        notes.append(
            f"beta {config.beta / chosen:.3g} for training again is an extrapolation from the dial; "
            "the dialled model itself is what was measured"
        )
    return {
        "answer": answer,
        "recommended_dial": chosen,
        "recommended_beta": None if chosen is None else config.beta / chosen,
        "points": points,
        "notes": notes,
    }


def _name(dial: float) -> str:
    return f"dial {dial:g}"


def _board(
    config: TrainConfig,
    values: Sequence[float],
    scores: Sequence[Array],
    kls: Sequence[Array],
    broken: Sequence[tuple[str, ...]],
) -> Board:
    """Lay the dials out as settings: the start model first, beta / d as their tightness."""
    loss = "+".join(config.loss_type)
    settings = tuple(
        Setting(
            name=_name(value),
            arm=f"dial of {loss} at beta {config.beta:g}",
            loss_type=loss,
            beta=config.beta / value,
            reference="self",
            learning_rate=config.learning_rate,
        )
        for value in values
    )
    return Board(
        settings=settings,
        scores=np.stack(scores)[:, None, :],
        kl=np.stack([np.zeros_like(kls[0]), *kls])[:, None, :],
        seeds=(config.seed,),
        prompts=tuple(str(i) for i in range(scores[0].size)),
        degenerate=tuple(broken),
    )


def _column(samples: Samples, name: str) -> Array:
    return np.array([sample["scores"][name] for sample in samples], dtype=np.float64)


def _behaviour(samples: Samples) -> Behaviour:
    ids = [list(sample["ids"]) for sample in samples]
    tokens = np.array([sample["tokens"] for sample in samples], dtype=np.float64)
    return Behaviour(
        end_rate=float(np.mean([sample["ended"] for sample in samples])),
        entropy=float(sum(sample["entropy"] for sample in samples) / tokens.sum()),
        tokens=float(tokens.mean()),
        repetition=repetition(ids),
        distinct=distinct(ids),
        # Tokens one by one are not kept here; this rule belongs to the study, which reads them.
        large_share=0.0,
    )


def _estimate(values: Array) -> Estimate:
    found = mean_interval(values)
    low, high, se = (float(v) if math.isfinite(v) else None for v in (found.low, found.high, found.se))
    return Estimate(estimate=found.estimate, low=low, high=high, se=se, n=found.n, level=found.level)


def _cost_notes(spent: float, trained: float, asked: int, wanted: int | None) -> list[str]:
    if wanted is not None or spent <= SHARE * trained:
        return []
    return [
        f"sampling took {spent / max(trained, 1e-9):.2f} training runs, more than {SHARE:g}: "
        f"fewer than {asked} prompts would tell too little; a longer training run makes it cheaper"
    ]
