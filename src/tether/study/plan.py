"""What a study will cost, told before anything runs: cells, what is shared, time, memory, disk, workers."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tether.config.hub import model_folder
from tether.config.train import TrainConfig
from tether.judging.named import check_judge
from tether.policies.load import base_folder, config_summary, is_adapter
from tether.records.results import Record
from tether.records.study import STUDY, read_study
from tether.study.bench import Bench
from tether.study.crossed import check_cross_fit, crossed_cells, crossed_missing, further_runs
from tether.study.extras import check_dials, complete, dial_cells, dials_missing
from tether.study.grid import Cell
from tether.tokens.collate import collate
from tether.tokens.render import EncodedGroup
from tether.training.hardware import memory_of
from tether.training.plan import Plan, model_on_meta, plan_run
from tether.training.policy import start_model
from tether.training.score import device_of, uses_bf16
from tether.training.steps import Engine, update_gradient, update_logprobs
from tether.worlds import evaluator_named

SPARE = 0.85
"""Share of the free memory that workers may be planned into."""
TIMED_TOKENS = 4096
"""Tokens of the rows a timing trains on, about."""


class StudyPlan(Record):
    """`tether study --plan`: MiB, seconds of wall clock."""

    cells: int
    finished: int
    skipped: dict[str, int]
    """Combinations left out, by reason."""
    names: tuple[str, ...]
    workers: int
    threads: int
    """Per worker."""
    further_runs: float
    """Training runs beyond the cells, each on all pairs: the halves of cross-fitting, finished or not."""
    updates: int
    """Of all cells that are to run."""
    tokens: int
    """Trained on, by all of them."""
    held_out: int
    prompts: int
    references: dict[str, int]
    """Scoring passes by reference, each over the rows once."""
    alone: dict[str, int]
    """The same where every cell would score its own."""
    memory_mib: float
    """Of one worker, at its peak."""
    memory_free_mib: float
    disk_mib: float
    disk_free_mib: float
    seconds: float | None
    """None without a timing."""
    seconds_basis: str


def plan_study(bench: Bench, *, timing: bool) -> StudyPlan:
    """Plan a study; with `timing` a few of its own rows are trained on and sampled to tell the time.

    Raises:
        UsageError, ModelError, DataError: a judge or an evaluator is not to be had, a dial would be
            turned on nothing, or the study cannot be cross-fitted.

    """
    config = bench.config
    check_cross_fit(bench)
    check_dials(bench)
    for name in config.evaluators:
        evaluator_named(name)
    if config.judge is not None:
        check_judge(config.judge)
    plans = {cell.cell_id: _plan(bench, cell.config) for cell in bench.cells.values()}
    done = bench.finished()
    todo = [cell for cell in bench.cells.values() if cell.cell_id not in done]
    largest = max(plans.values(), key=lambda plan: plan.peak_mib)
    # A plan counts the start model beside the policy, as a worker keeps it.
    memory = largest.peak_mib + _references_mib(bench, todo)
    free = memory_of(device_of(bench.common.device)).free / 2**20
    workers, threads = workers_for(bench, len(bench.cells) - len(complete(bench)), memory, free)
    references: dict[str, int] = {}
    alone: dict[str, int] = {}
    seen: set[tuple[str, float, str]] = set()
    for cell in bench.cells.values():
        name = cell.factors.reference
        if name.partition(":")[0] in ("none", "columns", "artifact", "moving"):
            continue
        alone[name] = alone.get(name, 0) + 1
        of = (name, cell.factors.data_fraction, cell.factors.labels)
        if of in seen:
            continue
        seen.add(of)
        references[name] = references.get(name, 0) + 1
    tokens = sum(_tokens(plans[cell.cell_id]) for cell in todo)
    further = further_runs(bench)
    seconds, basis = (
        _time(bench, plans, [c.cell_id for c in todo], references, workers, threads)
        if timing
        else (
            None,
            "not timed",
        )
    )
    skipped: dict[str, int] = {}
    for entry in bench.skipped:
        skipped[entry["reason"]] = skipped.get(entry["reason"], 0) + 1
    trained = largest.gradients_mib if bench.common.use_peft else largest.weights_mib
    checkpoint = largest.gradients_mib + largest.optimizer_mib
    return StudyPlan(
        cells=len(bench.cells),
        finished=len(bench.cells) - len(todo),
        skipped=skipped,
        names=tuple(bench.cells),
        workers=workers,
        threads=threads,
        further_runs=further,
        updates=sum(plans[cell.cell_id].updates for cell in todo),
        tokens=tokens,
        held_out=len(bench.rows.prepared.held_out.groups),
        prompts=len(bench.rows.asked),
        references=references,
        alone=alone,
        memory_mib=memory,
        memory_free_mib=free,
        disk_mib=(len(todo) + 2 * further) * (trained + (checkpoint if config.keep_checkpoints else 0))
        + workers * checkpoint,
        disk_free_mib=shutil.disk_usage(existing(bench.folder)).free / 2**20,
        seconds=seconds,
        seconds_basis=basis,
    )


def _references_mib(bench: Bench, todo: Sequence[Cell]) -> float:
    """Return what a worker's reference models take: one scores rows, another one is measured against."""
    each = 2 if uses_bf16(bench.common) else 4
    plain = bench.common.model_copy(update={"use_peft": False})
    named = {cell.factors.reference.partition(":")[::2] for cell in todo}
    sizes = [_weights_of(path, plain) for kind, path in named if kind == "model"]
    return 2 * each * max(sizes, default=0) / 2**20


def _weights_of(path: str, plain: TrainConfig) -> int:
    folder = model_folder(path)
    whole = base_folder(folder) if is_adapter(folder) else path
    return sum(p.numel() for p in model_on_meta(config_summary(whole), plain).parameters())


def workers_for(bench: Bench, cells: int, memory: float, free: float) -> tuple[int, int]:
    """Return how many cells run at once, and the threads of each: as cells, cores and memory allow.

    A study that goes on keeps its threads: they decide the last bits of every number.
    """
    config = bench.config
    threads = config.threads or _threads_before(bench)
    cores = len(os.sched_getaffinity(0))
    if device_of(bench.common.device).type == "cuda":
        room = torch.cuda.device_count()
    else:
        room = min(cores // (threads or 1), int(SPARE * free // memory))
    workers = config.workers or max(1, min(cells, room))
    return workers, threads or max(1, cores // workers)


def _threads_before(bench: Bench) -> int | None:
    there = (bench.folder / STUDY).is_file()
    return read_study(bench.folder).shared.get("threads") if there else None


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _plan(bench: Bench, config: TrainConfig) -> Plan:
    config = config.model_copy(update={"measure_prompts": bench.config.measured_prompts})
    model = model_on_meta(config_summary(config.model_name_or_path), config)
    groups = bench.rows.prepared.train.groups
    share = config.data_fraction / bench.common.data_fraction
    memory = memory_of(device_of(config.device))
    some = groups[: max(1, round(share * len(groups)))]
    return plan_run(config, model, some, budget=bench.budget, memory=memory)


def _tokens(plan: Plan) -> int:
    return round(plan.tokens_per_epoch * plan.updates / plan.updates_per_epoch)


def _time(
    bench: Bench,
    plans: dict[str, Plan],
    todo: list[str],
    references: dict[str, int],
    workers: int,
    threads: int,
) -> tuple[float, str]:
    """Train, score and sample a little, with a worker's threads, and multiply."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train, score, sample = _timed(bench)
    finally:
        torch.set_num_threads(before)
    held_out = _count(bench.rows.prepared.held_out.groups)
    rows = _count(bench.rows.prepared.train.groups) + held_out
    one = sample * len(bench.rows.asked) * bench.config.samples_per_prompt + 2 * score * held_out
    total = sum(_tokens(plans[name]) * train + one + score * held_out for name in todo)
    crossed = [name for name in bench.cells if crossed_missing(bench, name)]
    if crossed:
        share = further_runs(bench) * len(crossed) / len(crossed_cells(bench))
        total += share * _tokens(plans[crossed[0]]) * train + len(crossed) * 2 * one
    dials = sum(len(list(dials_missing(bench, name))) for name in dial_cells(bench))
    # A dial runs two models for every token.
    total += dials * 2 * sample * len(bench.rows.asked) * bench.config.samples_per_prompt
    total += one + sum(references.values()) * score * rows
    text = (
        f"{TIMED_TOKENS} tokens of these rows trained on, scored and 4 prompts answered on this machine, one "
        f"worker alone with {threads} threads; start-up is not in it"
    )
    return total / workers, text


def _timed(bench: Bench) -> tuple[float, float, float]:
    """Return seconds per token trained on, per token scored, and per prompt answered."""
    groups: list[EncodedGroup] = []
    for group in bench.rows.prepared.train.groups:
        if groups and _count([*groups, group]) > TIMED_TOKENS:
            break
        groups.append(group)
    batch, tokens = collate(groups), _count(groups)
    model = start_model(bench.common, bench.shared, frozen=False).model
    engine = bench.engine(model)
    options = bench.common.model_copy(update={"loss_type": ("sigmoid",), "reference": "none"})
    engine = Engine(model, options, engine.layout, engine.head_chunk, engine.autocast, engine.dtype)
    update_logprobs(engine, batch.select([0]), bench.budget)  # the first pass pays for warming up
    began = time.perf_counter()
    update_logprobs(engine, batch, bench.budget)
    scored = time.perf_counter()
    update_gradient(engine, batch, None, bench.budget)
    trained = time.perf_counter()
    bench.answers(bench.start, bench.start, prompts=4)
    ended = time.perf_counter()
    share = min(4, len(bench.rows.asked)) * bench.config.samples_per_prompt
    return (trained - scored) / tokens, (scored - began) / tokens, (ended - trained) / share


def _count(groups: list[EncodedGroup]) -> int:
    return sum(g.tokens for g in groups)
