"""One workload: write rows and model, run both programs in turns, check that they did the same, sum up."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bench import rows as rows_of
from bench.floor import Work, shape_of, work
from bench.jobs import Job, Outcome
from bench.machine import Rates, rates
from bench.models import SIZES, adapter, build
from bench.turns import Turns
from bench.workloads import COLUMNS, GROUPED, SHIPPED, Workload

LOSS_LIMIT = 2e-5
"""Nats, at the usual beta of 0.1 and below."""
LOSS_LIMIT_BF16 = 2e-2
"""bf16 rounds what each layout rounds differently. A guess: no accelerator was at hand to measure it."""
MOVED = 0.01
"""The loss must move by this much (nats), or equal losses show nothing."""

WHOLE_UPDATE, LEAST_BUDGET = 10**9, 512
"""Token budgets: one micro-batch per update as the peer has, and the smallest sensible."""


class Disagreement(Exception):
    """The two programs did not compute the same thing, so their times say nothing."""


@dataclass(frozen=True)
class Setting:
    """How everything of one invocation runs."""

    work: Path
    device: str = "cpu"
    bf16: bool = False
    repeats: int | None = None


@dataclass(frozen=True)
class Files:
    """A workload on disk: the folder of the model, both programs' rows, and what the rows hold."""

    model: Path
    adapter: Path | None
    ours: Path
    theirs: Path
    held_out: Path
    our_count: int
    their_count: int
    source: str
    lengths: list[tuple[int, list[int]]]
    """Prompt tokens and each completion's, end token included, of our rows."""


@dataclass(frozen=True)
class Column:
    """One setting of the peer beside ours: all runs, and the ratio of each pair of neighbouring runs."""

    ours: list[Outcome]
    theirs: list[Outcome]
    ratios: list[float]

    @property
    def median(self) -> float:
        """Median ratio: how many times longer the peer takes."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Result:
    """All that was measured on one workload."""

    workload: Workload
    source: str
    pairs: int
    tokens: int
    columns: dict[str, Column]
    rates: Rates
    least: Work
    over_floor: list[float]
    """Our time over the time the least arithmetic takes, per run."""
    memory: dict[str, float] = field(default_factory=dict[str, float])
    """MiB."""

    def document(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return asdict(self)


def prepare(workload: Workload, setting: Setting) -> Files:
    """Write rows and model of a workload; the same every time."""
    folder = setting.work / workload.name
    folder.mkdir(parents=True, exist_ok=True)
    kind = workload.rows
    if kind in rows_of.LENGTHS:
        everything, source = rows_of.corpus(kind)
    else:
        lengths = rows_of.fixed(*map(int, kind.split(",")))
        everything, source = rows_of.made_up(lengths, 400), f"made up, {kind} tokens"
    corpus = setting.work / f"corpus-{kind}.jsonl"
    if not corpus.is_file():
        rows_of.write(corpus, everything)
    model = build(SIZES[workload.size], corpus, setting.work / f"model-{kind}-{workload.size}")
    encode = rows_of.encoder(AutoTokenizer.from_pretrained(model))
    *pairs, held_out = rows_of.fitted(everything, encode, workload.pairs + 1, workload.max_length)
    ours = theirs = pairs
    if workload.answers > 2:
        ours = list(rows_of.as_rankings(pairs, workload.answers))
        theirs = [pair for row in ours for pair in rows_of.as_pairs(row)]
    rows_of.write(folder / "ours.jsonl", ours)
    rows_of.write(folder / "theirs.jsonl", theirs)
    rows_of.write(folder / "held_out.jsonl", [held_out])
    lora = adapter(model, setting.work / f"adapter-{kind}-{workload.size}") if workload.lora else None
    lengths_of = [_lengths(row, encode) for row in ours]
    return Files(
        model,
        lora,
        folder / "ours.jsonl",
        folder / "theirs.jsonl",
        folder / "held_out.jsonl",
        len(ours),
        len(theirs),
        source,
        lengths_of,
    )


def _lengths(row: rows_of.Row, encode: rows_of.Encode) -> tuple[int, list[int]]:
    texts = row.get("completions") or [row["chosen"], row["rejected"]]
    return len(encode(row["prompt"])[0]), [len(encode(text)[0]) + 1 for text in texts]


def jobs(workload: Workload, files: Files, setting: Setting) -> tuple[Job, Job]:
    """Return our job and the peer's as shipped."""
    shared = {
        "model": str(files.model),
        "out": "",
        "adapter": None if files.adapter is None else str(files.adapter),
        "max_length": workload.max_length,
        "learning_rate": workload.learning_rate,
        "device": setting.device,
        "bf16": setting.bf16,
    }
    theirs = Job(program="trl", rows=str(files.theirs), count=files.their_count, **shared)
    ours = Job(program="tether", rows=str(files.ours), count=files.our_count, **shared)
    if workload.betas:
        ours = replace(ours, program="tether-study", betas=workload.betas, held_out=str(files.held_out))
    if workload.answers > 2:
        per_update = max(1, ours.per_update * 2 // workload.answers)
        ours = replace(ours, loss_type="plackett_luce", per_update=per_update)
    return ours, theirs


def measure(workload: Workload, setting: Setting, turns: Turns) -> Result:
    """Measure one workload.

    Raises:
        Disagreement: losses or tokens differ between the programs.
        NotQuiet, ChildFailed: see `turns`.

    """
    files = prepare(workload, setting)
    ours, theirs = jobs(workload, files, setting)
    shape = shape_of(files.model)
    least = work(shape, files.lengths, frozen=workload.lora)
    kind = {"device": setting.device, "bf16": setting.bf16}
    before = rates(shape, **kind)
    mine: list[Outcome] = []
    peer: dict[str, list[Outcome]] = {}
    for _ in range(setting.repeats or workload.repeats):
        own, others = _round(workload, ours, theirs, turns)
        mine.append(own)
        for name, run in others.items():
            peer.setdefault(name, []).append(run)
            agree(workload, name, own, run, bf16=setting.bf16)
    after = rates(shape, **kind)
    sides = zip(vars(before).values(), vars(after).values(), strict=True)
    usual = Rates(*(statistics.fmean(pair) for pair in sides))
    return Result(
        workload,
        files.source,
        files.their_count,
        mine[0].tokens,
        {
            name: Column(mine, runs, [b.seconds / a.seconds for a, b in zip(mine, runs, strict=True)])
            for name, runs in peer.items()
        },
        usual,
        least,
        [] if workload.betas else [run.seconds / least.seconds(usual) for run in mine],
        _memory(files, (ours, theirs), mine, peer, turns) if workload.memory else {},
    )


def _round(workload: Workload, ours: Job, theirs: Job, turns: Turns) -> tuple[Outcome, dict[str, Outcome]]:
    """Run our side once, then the peer in each setting: a study on our side, once per beta on the other."""
    names, betas = columns_of(workload), workload.betas
    jobs = [replace(theirs, **COLUMNS[name], beta=beta) for name in names for beta in betas or (theirs.beta,)]
    own, *runs = [run.outcome for run in turns.round([ours, *jobs])]
    each = len(betas) or 1
    return own, {name: _joined(runs[at * each : (at + 1) * each]) for at, name in enumerate(names)}


def columns_of(workload: Workload) -> list[str]:
    """Return which settings of the peer a workload is compared with."""
    return [SHIPPED] if workload.betas else list(COLUMNS)


def agree(workload: Workload, column: str, ours: Outcome, theirs: Outcome, *, bf16: bool = False) -> None:
    """Hold both programs to the same tokens and, where the order is the same, the same losses.

    Raises:
        Disagreement: they differ.

    """
    where = f"{workload.name}, {column}"
    if workload.answers > 2:
        if ours.completion_tokens != theirs.completion_tokens:
            raise Disagreement(
                f"{where}: {ours.completion_tokens} completion tokens here, {theirs.completion_tokens} there"
            )
        return
    if (ours.tokens, ours.completion_tokens) != (theirs.tokens, theirs.completion_tokens):
        raise Disagreement(
            f"{where}: {ours.tokens} tokens, {ours.completion_tokens} of completions here; "
            f"{theirs.tokens} and {theirs.completion_tokens} there"
        )
    if column == GROUPED:
        return
    if len(ours.losses) != len(theirs.losses):
        raise Disagreement(f"{where}: {len(ours.losses)} updates here, {len(theirs.losses)} there")
    if max(ours.losses) - min(ours.losses) < MOVED:
        raise Disagreement(f"{where}: the loss moves by less than {MOVED}; equal losses would show nothing")
    gaps = [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)]
    limits = _limits(workload, len(gaps), LOSS_LIMIT_BF16 if bf16 else LOSS_LIMIT)
    for at, (gap, limit) in enumerate(zip(gaps, limits, strict=True)):
        if gap > limit:
            raise Disagreement(
                f"{where}: loss of update {at + 1} is {ours.losses[at]:.7f} here, "
                f"{theirs.losses[at]:.7f} there"
            )


def _limits(workload: Workload, updates: int, limit: float) -> list[float]:
    """Return the limit of each update: a loss carries the rounding of its log-probs times beta."""
    if not workload.betas:
        return [limit] * updates
    each = updates // len(workload.betas)
    return [limit * max(1.0, beta / Job.beta) for beta in workload.betas for _ in range(each)]


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """Return several runs as one: times and tokens add up, memory is the largest."""
    names = {name for part in parts for name in part.stages}
    return Outcome(
        seconds=sum(part.seconds for part in parts),
        setup_seconds=sum(part.setup_seconds for part in parts),
        total_seconds=sum(part.total_seconds for part in parts),
        losses=[loss for part in parts for loss in part.losses],
        tokens=sum(part.tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        peak_mib=max(part.peak_mib for part in parts),
        process_peak_mib=max(part.process_peak_mib for part in parts),
        stages={name: sum(part.stages.get(name, 0.0) for part in parts) for name in sorted(names)},
        processor_seconds=sum(part.processor_seconds for part in parts),
    )


def largest_updates(lengths: Sequence[tuple[int, list[int]]], per_update: int) -> list[int]:
    """Return the rows of the update of most real tokens and of the one that is padded to most, in order.

    A peak is reached in one of them; what the optimizer keeps is there from the first step on.
    """
    updates = [range(at, min(at + per_update, len(lengths))) for at in range(0, len(lengths), per_update)]

    def real(update: range) -> int:
        return sum(prompt + sum(own) for prompt, own in (lengths[row] for row in update))

    def padded(update: range) -> int:
        rows = [lengths[row] for row in update]
        return sum(len(own) for _, own in rows) * max(prompt + max(own) for prompt, own in rows)

    chosen = {max(updates, key=real), max(updates, key=padded)}
    return [row for update in updates if update in chosen for row in update]


def _memory(
    files: Files,
    jobs: tuple[Job, Job],
    mine: Sequence[Outcome],
    peer: Mapping[str, Sequence[Outcome]],
    turns: Turns,
) -> dict[str, float]:
    """Return peaks: as run, at the same pairs per micro-batch, and at the least either side can do."""
    rows = [json.loads(line) for line in files.ours.read_text(encoding="utf-8").splitlines()]
    some = [rows[at] for at in largest_updates(files.lengths, jobs[0].per_update)]
    path = files.ours.with_name("largest.jsonl")
    rows_of.write(path, some)
    ours, theirs = (replace(job, rows=str(path), count=len(some)) for job in jobs)
    whole = turns.unclocked(replace(ours, budget=WHOLE_UPDATE))
    least = turns.unclocked(replace(ours, budget=LEAST_BUDGET, checkpointing=True))
    best = turns.unclocked(replace(theirs, patched_head=True, micro_pairs=1, checkpointing=True))
    return {
        "ours": statistics.median(run.peak_mib for run in mine),
        "ours, whole update at once": whole.peak_mib,
        "ours, least": least.peak_mib,
        **{f"TRL {name}": statistics.median(run.peak_mib for run in runs) for name, runs in peer.items()},
        "TRL, least": best.peak_mib,
    }
