"""How tight, from one training run: the trained model is turned by the dial instead of trained again.

At dial d the answers come from policy^d * start^(1 - d), token by token (DeRa, arXiv 2402.02992), which
stands for training at beta / d: exactly so over whole answers of an optimal policy, approximately otherwise.
Every dial value answers the same prompts with the same noise, so the rule of `study.tight` applies to dials
as it does to betas.

With `halves` two models are trained, each on half of the pairs, and each is the scorer of what the other
writes: the cross-fitted implicit reward of `study.crossed`, for one training run in all. Scorers are as tight
as the policies, so the beta of both is fixed beforehand; other strengths of the policies come from the dial.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.analysis.drift import Behaviour, degeneration, distinct, repetition
from tether.analysis.stats import mean_interval
from tether.config.generate import FURTHEST
from tether.config.launch import process_count
from tether.config.train import HELD_OUT, TrainConfig
from tether.errors import RunFolderError, UsageError
from tether.generation.measure import MeasuredSample
from tether.records.calibration import CALIBRATION, Calibration, DialPoint
from tether.records.findings import Answer, Estimate, RuleFinding, ScorerChoice, Setting, Tight
from tether.records.results import RunRecord, write_json
from tether.records.study import crossed_score
from tether.study.board import Array, Board, Words
from tether.study.crossed import HALVES, check_half, half_config
from tether.study.dialler import Answers, Dialler, Judging, Samples, within
from tether.study.estimates import of_interval
from tether.study.price import LIMIT, cost_note, halves_in_wholes, looks_of
from tether.study.rules import CROSS_FITTED
from tether.study.tight import how_tight
from tether.training.run import train
from tether.training.track import Silent, Watcher

DIALS = (0.25, 0.5, 1.0, 2.0, 4.0)
HELD_OUT_SHARE = 0.1
"""Share of the prompts held out where nothing else is said, as in a study."""


def calibrate(
    config: TrainConfig,
    *,
    dials: Sequence[float] = DIALS,
    judging: Judging | None = None,
    prompts: int | None = None,
    halves: bool = False,
    watcher: Watcher | None = None,
) -> Calibration:
    """Train at `config.beta`, dial, and say how tight; `config.output_dir` holds the runs and the result.

    Without a judge the price of each dial in KL, and with `halves` its cross-fitted reward, is told and
    nothing is recommended: no rule without a judge has been shown to choose well (docs/results.md).

    Raises:
        UsageError: dials that are not positive and different, another reference than self, halves of an
            objective other than DPO, several processes.
        DataError: halves that do not fill one update.
        RunFolderError: the folder holds something else.

    """
    watcher = watcher or Silent()
    values = _checked(config, dials, halves)
    if prompts is not None and prompts < 1:
        raise UsageError(f"--prompts: {prompts}; give at least 1, or leave it out")
    if process_count() > 1:
        raise UsageError("calibrate samples and counts its price in one process; start it without torchrun")
    config = _holding_out(config)
    folder = Path(config.output_dir)
    _own(folder, halves)
    records = _train(config, folder, halves, watcher)
    # With the commit, where the model is of the hub.
    pinned = records[0].config["model_name_or_path"]
    config = config.model_copy(update={"model_name_or_path": pinned})
    trained = sum(record.timing.get(name, 0.0) for record in records for name in ("reference", "training"))
    began = time.perf_counter()
    homes = {name: folder / home / "model" for name, home in _homes(halves).items()}
    dialler = Dialler(config, homes, judging, watcher)
    rows, held_out = dialler.rows()
    looks = [looks_of(folder / home) for home in _homes(halves).values()]
    whole = trained / (halves_in_wholes(config, records, looks, dialler.tokens()) if halves else 1.0)
    left = LIMIT * whole - trained - (time.perf_counter() - began)
    parts = within(rows, left) if prompts is None else iter([rows[:prompts]])
    answers = dialler.answers(values, parts)
    spent = time.perf_counter() - began
    found = _found(config, values, answers, judging, halves)
    cost = (trained + spent) / whole if whole else math.inf
    notes = list(found.pop("notes"))
    if not held_out:
        notes.append("no rows were held out: the prompts are those of training; set eval_fraction")
    notes += cost_note(cost, len(answers.start), prompts)
    result = Calibration(
        model=config.model_name_or_path,
        data=(config.dataset_name,) if isinstance(config.dataset_name, str) else config.dataset_name,
        trained=tuple(str(home) for home in homes.values()),
        trained_beta=config.beta,
        judge=judging.name if judging else None,
        prompts=len(answers.start),
        seconds={"train": trained, "sample and score": spent},
        cost=cost,
        notes=tuple(notes),
        **found,
    )
    write_json(folder / CALIBRATION, result)
    return result


def _holding_out(config: TrainConfig) -> TrainConfig:
    """Hold prompts out, where the options do not say which."""
    if HELD_OUT & config.model_fields_set:
        return config
    return config.model_copy(update={"eval_fraction": HELD_OUT_SHARE})


def _homes(halves: bool) -> dict[str, str]:
    """Return the folder of every run, inside the calibration's, by what it is trained on."""
    return {half: f"halves/{half}" for half in HALVES} if halves else {"both": "run"}


def _train(config: TrainConfig, folder: Path, halves: bool, watcher: Watcher) -> list[RunRecord]:
    """Train what is missing: one run, or one on each half."""
    records: list[RunRecord] = []
    for half, home in _homes(halves).items():
        run = config.model_copy(update={"output_dir": str(folder / home), "measure_prompts": 0})
        if halves:
            watcher.stage(f"training on the {half} half of the pairs")
            run = half_config(run, half, folder / home)
        records.append(train(run, watcher=watcher))
        if halves:
            check_half("--halves", int(records[-1].data["used"]), run)
    return records


def _checked(config: TrainConfig, dials: Sequence[float], halves: bool) -> list[float]:
    values = sorted(float(d) for d in dials)
    if not values or len(set(values)) != len(values) or not all(0 < value <= FURTHEST for value in values):
        raise UsageError(
            f"--dial: {list(dials)}; give different values above 0 and at most {FURTHEST}; 1 is the "
            "trained model"
        )
    if config.reference != "self":
        raise UsageError(
            f"reference {config.reference}: a dial turns between the model and what it started from; "
            "calibrate with reference self, and compare references with tether study"
        )
    if halves and tuple(config.loss_type) != ("sigmoid",):
        raise UsageError(
            f"--halves: loss_type is {'+'.join(config.loss_type)}; each half is scored by the implicit "
            "reward of the other, which is DPO's: use loss_type sigmoid, or calibrate without --halves"
        )
    if halves and config.data_half != "both":
        raise UsageError(f"--halves halves the pairs itself; data_half is {config.data_half}: leave it out")
    return values


def _own(folder: Path, halves: bool) -> None:
    """Refuse a folder with anything else in it."""
    if not folder.is_dir():
        return
    runs = "halves" if halves else "run"
    strangers = sorted({p.name for p in folder.iterdir()} - {runs, CALIBRATION, "opinions.jsonl"})
    if strangers:
        raise RunFolderError(f"{folder}: holds {strangers[0]!r}; choose an empty --output-dir")


def _found(
    config: TrainConfig,
    values: Sequence[float],
    answers: Answers,
    judging: Judging | None,
    halves: bool,
) -> dict[str, Any]:
    """Return answer, recommendation, points and notes of a calibration."""
    names = list(_homes(halves))
    start = _behaviour(answers.start)
    behaved = {key: _behaviour(samples) for key, samples in answers.dialled.items()}
    broken = [_broken(names, value, behaved, start) for value in values]
    notes: list[str] = []
    if judging is None:  # the judge's answer says it itself
        notes += [
            f"dial {d:g} is degenerate: {'; '.join(b)}" for d, b in zip(values, broken, strict=True) if b
        ]
    columns = _Columns(config, values, names, answers, broken)
    answer, chosen = _undecided(len(answers.start)), None
    gains: Mapping[str, Estimate] = {}
    if judging is not None:
        tight, lost = columns.tight(judging.name)
        if tight is None:
            answer = _undecided(len(answers.start), judging.name)
        else:
            answer, gains = tight.answer, tight.gains
            chosen = next((d for d in values if _name(d) == tight.recommended), None)
        if lost:
            notes.append(f"{lost} of {len(answers.start)} prompts have no verdict at some dial: left out")
    crossed = columns.tight(crossed_score(config.beta))[0] if halves else None
    points = tuple(
        DialPoint(
            dial=value,
            beta=config.beta / value,
            kl=of_interval(mean_interval(columns.kl(value))),
            gain=gains.get(_name(value)),
            cross_fitted=None if crossed is None else crossed.gains.get(_name(value)),
            tokens=float(np.mean([behaved[name, value].tokens for name in names])),
            end_rate=float(np.mean([behaved[name, value].end_rate for name in names])),
        )
        for value in values
    )
    return {
        "answer": answer,
        "recommended_dial": chosen,
        "recommended_beta": None if chosen is None else config.beta / chosen,
        "points": points,
        "cross_fitted": None if crossed is None else _rule(crossed, config),
        "notes": [*notes, *_about(config, chosen, halves)],
    }


def _undecided(n: int, judge: str | None = None) -> Answer:
    """Return that nothing is recommended: no judge, or one that gave too few verdicts."""
    why = "no rule without one has been shown to choose well"
    if judge is not None:
        why = f"{judge} scored the answers to fewer than two prompts at every dial"
    return Answer(
        question="how tight",
        claim="A strength can be recommended.",
        verdict="needs a judge",
        sentence=(
            f"Needs a judge: {why}, so nothing is recommended. The table says what each strength costs in KL."
        ),
        n=n,
        seeds=1,
    )


def _rule(found: Tight, config: TrainConfig) -> RuleFinding:
    """Return what cross-fitting would choose: told, never taken."""
    return RuleFinding(
        rule=CROSS_FITTED,
        needs="two models trained on half of the pairs each, each the scorer of the other",
        choice=found.recommended,
        reason=found.answer.sentence,
        proven=False,
        sensitivity=(ScorerChoice(beta=config.beta, choice=found.recommended),),
    )


def _about(config: TrainConfig, chosen: float | None, halves: bool) -> list[str]:
    notes: list[str] = []
    if halves:
        notes.append(
            "numbers are means of two models of half the pairs each; trained on all pairs, looser strengths "
            "are affordable"
        )
    if chosen is not None and chosen != 1.0:
        notes.append(
            f"beta {config.beta / chosen:.3g} for training again is an extrapolation from the dial; "
            "the dialled model itself is what was measured"
        )
    return notes


def _broken(
    names: Sequence[str], value: float, behaved: Mapping[tuple[str, float], Behaviour], start: Behaviour
) -> tuple[str, ...]:
    """Return why a dial is degenerate, in either half."""
    return tuple(
        f"{reason} ({name} half)" if len(names) > 1 else str(reason)
        for name in names
        for reason in degeneration(behaved[name, value], start)
    )


@dataclass(frozen=True)
class _Columns:
    """Scores and KL per prompt, of two halves the mean."""

    config: TrainConfig
    values: Sequence[float]
    names: Sequence[str]
    answers: Answers
    broken: Sequence[tuple[str, ...]]

    def kl(self, value: float) -> Array:
        """Return KL(dialled || start) at each prompt."""
        return self._mean(value, lambda sample: sample["kl_start"])

    def tight(self, score: str) -> tuple[Tight | None, int]:
        """Return how tight by one score (None by fewer than two prompts), and how many it did not score."""
        start = np.array([sample["scores"][score] for sample in self.answers.start], dtype=np.float64)
        scores = [start, *(self._mean(d, lambda sample: sample["scores"][score]) for d in self.values)]
        known = np.atleast_1d(np.isfinite(np.stack(scores)).all(axis=0))
        lost = int((~known).sum())
        if known.sum() < 2:
            return None, lost
        board = self._board([s[known] for s in scores], [self.kl(d)[known] for d in self.values])
        return how_tight(board, board.settings[0].arm), lost

    def _mean(self, value: float, read: Callable[[MeasuredSample], float]) -> Array:
        tables = [[read(sample) for sample in self.answers.dialled[name, value]] for name in self.names]
        return np.array(tables, dtype=np.float64).mean(axis=0)

    def _board(self, scores: Sequence[Array], kls: Sequence[Array]) -> Board:
        """Lay the dials out as settings: the start model first, beta / d as their tightness."""
        config, loss = self.config, "+".join(self.config.loss_type)
        settings = tuple(
            Setting(
                name=_name(value),
                arm=f"dial of {loss} at beta {config.beta:g}",
                loss_type=loss,
                beta=config.beta / value,
                reference="self",
                learning_rate=config.learning_rate,
            )
            for value in self.values
        )
        return Board(
            settings=settings,
            scores=np.stack(scores)[:, None, :],
            kl=np.stack([np.zeros_like(kls[0]), *kls])[:, None, :],
            seeds=(config.seed,),
            prompts=tuple(str(i) for i in range(scores[0].size)),
            degenerate=tuple(self.broken),
            words=Words(
                take="Take",
                trained=len(self.names),
                seeds="tether study --seed 0,1,2 would tell",
                strengths="which other values of --dial can try",
            ),
        )


def _name(dial: float) -> str:
    return f"dial {dial:g}"


def _behaviour(samples: Samples) -> Behaviour:
    ids = [list(sample["ids"]) for sample in samples]
    tokens = np.array([sample["tokens"] for sample in samples], dtype=np.float64)
    return Behaviour(
        end_rate=float(np.mean([sample["ended"] for sample in samples])),
        entropy=float(sum(sample["entropy"] for sample in samples) / tokens.sum()),
        tokens=float(tokens.mean()),
        repetition=repetition(ids),
        distinct=distinct(ids),
        large_share=float(sum(sample["large_start"] for sample in samples) / tokens.sum()),
    )
