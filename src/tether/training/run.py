"""One training run, from a config to a run folder: reads like the algorithm box of a paper.

rows      <- read, check, split, truncate, encode
policy    <- the model, with an adapter if asked for
reference <- score every row once, verify at step 0
repeat      gradient of the objective on one update; clip; step; log, evaluate, measure, save
model     <- a plain Hugging Face folder
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import SafetensorError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.hub import Pins
from tether.config.train import TrainConfig
from tether.errors import ResourceError, TetherError
from tether.objectives import (
    check,
    check_labels,
    needs_live_reference,
    needs_reference,
    needs_reference_tokens,
    warnings,
    zero_margin,
)
from tether.policies.adapters import disable_dropout
from tether.policies.sharding import shard
from tether.records.protocols import Evaluator
from tether.records.results import RunRecord, read_run, write_json, write_lines, write_text
from tether.tokens.collate import collate
from tether.tokens.loader import Updates
from tether.tokens.render import Renderer
from tether.training import checkpoint
from tether.training.export import save_policy
from tether.training.folder import RunFolder, fingerprint_of
from tether.training.hardware import peak_memory
from tether.training.loop import Loop, event, finish, restore, run_updates
from tether.training.optim import make_optimizer, make_schedule
from tether.training.parallel import Processes, joined, pairs_explained, pairs_written_down, wants_shards
from tether.training.plan import total_updates
from tether.training.policy import (
    InMemory,
    PolicyModel,
    check_storage,
    load_policy,
    load_texts,
    pinned_config,
)
from tether.training.prepare import (
    Prepared,
    check_ids,
    epoch_rows,
    left_out,
    prepared_rows,
    task_of,
    updates_of,
)
from tether.training.record import starting_record
from tether.training.references import Place, Policy, Reference, build_reference
from tether.training.sampling import Sampler, make_sampler
from tether.training.score import (
    autocast_for,
    default_budget,
    device_of,
    embedding_rows,
    layout_for,
    uses_bf16,
)
from tether.training.sharing import Shared
from tether.training.signals import StopRequest, stop_requests
from tether.training.steps import Engine
from tether.training.track import Clock, MetricsFile, Silent, Watcher
from tether.training.trackers import TrackedRun, open_trackers, require_trackers
from tether.training.verify import Verified


@dataclass(frozen=True)
class Given:
    """What a caller in Python may hand over instead of paths."""

    memory: InMemory | None = None
    rows: Sequence[Any] | None = None
    eval_rows: Sequence[Any] | None = None
    shared: Shared = field(default_factory=Shared)
    """What this run may take over from others of one study."""
    hub: dict[str, str] = field(default_factory=dict[str, str])
    """Models of the hub as asked for -> as used; the run itself finds them out."""


@dataclass
class Parts:
    """The wired parts of one run."""

    config: TrainConfig
    folder: RunFolder
    watcher: Watcher
    stop: StopRequest
    prepared: Prepared
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    policy: PolicyModel
    evaluators: Sequence[Evaluator]
    record: RunRecord
    processes: Processes
    clock: Clock = field(default_factory=Clock)
    shared: Shared = field(default_factory=Shared)


def train(
    config: TrainConfig,
    *,
    given: Given | None = None,
    evaluators: Sequence[Evaluator] = (),
    watcher: Watcher | None = None,
) -> RunRecord:
    """Train one model; resume where the run folder holds the same run.

    Raises:
        TetherError: see `errors`; every refusal leaves the folder as it was, or its state saved.

    """
    with joined(device_of(config.device)) as processes, stop_requests() as stop:
        live = config.reference == "self" or config.reference.startswith("model:")
        check(config, has_reference=config.reference != "none", reads=task_of(config), live=live)
        require_trackers(config.report_to)
        stop.patient = processes.count > 1
        folder = RunFolder(Path(config.output_dir))
        if processes.first:
            folder.acquire()
        try:
            processes.wait()  # the others look into the folder only when it is locked
            shown = watcher if watcher is not None and processes.first else Silent()
            pins = Pins(read_run(folder.path).hub if folder.started else None)
            whole = pairs_written_down(pinned_config(config, pins))
            given = replace(given or Given(), hub=pins.made)
            check_storage(whole, in_memory=given.memory is not None)
            parts = _parts(whole, given, evaluators, shown, folder, stop, processes)
            if folder.started:
                known = _same_run(parts)
                if known.status == "finished":
                    parts.watcher.note(f"{folder.path}: this run is finished; nothing was done")
                    return known
            return _run(parts)
        finally:
            folder.release()


def _parts(
    config: TrainConfig,
    given: Given,
    evaluators: Sequence[Evaluator],
    watcher: Watcher,
    folder: RunFolder,
    stop: StopRequest,
    processes: Processes,
) -> Parts:
    clock = Clock()
    watcher.stage("reading data")
    tokenizer, stops = load_texts(config, given.memory)
    renderer = Renderer(tokenizer, stops, score_turns=config.score_turns)
    prepared = prepared_rows(config, renderer, given.shared, given.rows, given.eval_rows)
    groups = [*prepared.train.groups, *prepared.held_out.groups]
    check_labels(
        config,
        soft=any(group.probability != 1 for group in groups),
        offset=any(group.margin != 0 for group in groups),
        weighted=any(group.weight != 1 for group in groups),
    )
    clock.lap("data")
    watcher.stage("loading the model")
    torch.use_deterministic_algorithms(config.deterministic)
    sharded = wants_shards(config, processes, in_memory=given.memory is not None)
    device = device_of(config.device)
    place = torch.device("cpu") if sharded else device
    begun = checkpoint.read_start(folder.path / "checkpoints") if folder.started else None
    policy = load_policy(config, given.memory, given.shared, device=place, start=begun)
    # After loading, so that a run that takes its model over draws the same numbers as one that read it.
    torch.manual_seed(config.seed)
    check_ids(groups, embedding_rows(policy.model))
    if config.disable_dropout:
        disable_dropout(policy.model, keep_adapter=True)
    if sharded:
        copied = config.measure_prompts > 0 or needs_live_reference(config)
        shard(policy.model, device, processes.count, keep_start=copied)
    record = starting_record(config, policy, prepared, tokenizer, given.hub)
    clock.lap("model")
    if processes.count > 1:
        held = "shards of the model" if sharded else "a whole copy of the model"
        watcher.note(f"{pairs_explained(config)}; {held} in each")
    facts = {**record.model, **record.data}
    processes.same({key: facts.get(key) for key in ("weights", "adapter", "start_adapter", "train", "eval")})
    return Parts(
        config, folder, watcher, stop, prepared, tokenizer, stops, policy, evaluators, record, processes,
        clock, given.shared,
    )  # fmt: skip


def _same_run(parts: Parts) -> RunRecord:
    known = read_run(parts.folder.path)
    parts.folder.refuse_if_other(fingerprint_of(parts.record.model_dump(mode="json")))
    kept = {"run_id": known.run_id, "created": known.created, "hub": known.hub | parts.record.hub}
    parts.record = parts.record.model_copy(update=kept)
    return known


def _run(parts: Parts) -> RunRecord:
    config, folder = parts.config, parts.folder
    parts.watcher.note(left_out(parts.prepared))
    device = device_of(config.device)
    budget = config.max_tokens_per_microbatch or default_budget(device)
    bf16, model = uses_bf16(config), parts.policy.model
    autocast = autocast_for(bf16, device)
    key = {**_begins(parts), "layout": config.layout, "bf16": bf16}
    groups = parts.prepared.train.groups
    layout = parts.shared.once("layouts", key, lambda: layout_for(model, config.layout, groups, autocast))
    dtype = torch.bfloat16 if bf16 else torch.float32
    engine = Engine(model, config, layout.name, config.head_chunk, autocast, dtype, processes=parts.processes)
    if parts.processes.first:
        repeatable = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)
        write_json(folder.path / "preflight.json", parts.prepared.preflight)
        write_text(folder.path / "config.yaml", repeatable)
    reference = _reference(parts, engine, budget)
    engine = replace(engine, live=reference.live)
    parts.clock.lap("reference")
    parts.record = parts.record.model_copy(
        update={
            "reference": {**reference.record, "verified": reference.verified.text},
            "step0": {**reference.verified.numbers, "verified": reference.verified.text},
            "objective": {**parts.record.objective, "zero_margin": zero_margin(config)},
            "layout": {
                "name": layout.name,
                "requested": config.layout,
                "reason": layout.reason,
                "max_tokens_per_microbatch": budget,
            },
        }
    )
    sampler = make_sampler(
        config,
        engine,
        parts.tokenizer,
        parts.stops,
        parts.prepared,
        parts.evaluators,
        folder.path,
        reference.model,
    )
    (folder.path / "checkpoints").mkdir(exist_ok=True)
    if parts.policy.start is not None and parts.processes.first:
        checkpoint.save_start(folder.path / "checkpoints", parts.policy.start)
    loop = _loop(parts, engine, reference, sampler, budget)
    for text in warnings(config):
        event(loop, text)
    if layout.reason:
        event(loop, f"layout {layout.name}: {layout.reason}")
    parts.record = parts.record.model_copy(update={"planned_steps": loop.total})
    _resume(loop, sampler)
    if parts.processes.first:
        write_json(folder.path / "run.json", parts.record)
    return _train(parts, loop, sampler)


def _reference(parts: Parts, engine: Engine, budget: int) -> Reference:
    config, policy = parts.config, parts.policy
    keep_tokens = needs_reference_tokens(config)
    if needs_reference(config) or config.reference not in ("self", "none"):
        named = Policy(engine, parts.tokenizer, parts.stops, policy.weights, policy.adapter, policy.path)
        place = Place(
            parts.folder.path / "reference",
            _updates(parts).update(0, 0),
            budget,
            parts.watcher,
            keep_tokens,
            parts.shared,
        )
        reference = build_reference(config, named, parts.prepared, place)
    else:
        text = "none: this objective reads no reference"
        reference = Reference(None, {"kind": "none", "description": text}, Verified("nothing to verify", {}))
    parts.watcher.note(f"reference: {reference.record['description']}; {reference.verified.text}")
    return reference


def _updates(parts: Parts) -> Updates:
    train = parts.prepared.train
    return updates_of(parts.config, train.groups, epoch_rows(parts.config, train.rows))


def _loop(parts: Parts, engine: Engine, reference: Reference, sampler: Sampler | None, budget: int) -> Loop:
    config = parts.config
    updates = _updates(parts)
    total = total_updates(config, updates.updates_per_epoch)
    optimizer = make_optimizer(parts.policy.model, config)
    held_out = parts.prepared.held_out.groups
    return Loop(
        config=config,
        engine=engine,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, total),
        updates=updates,
        table=reference.table,
        eval_batch=collate(held_out) if held_out else None,
        measure=sampler,
        metrics=_metrics(parts),
        checkpoints=parts.folder.path / "checkpoints",
        watcher=parts.watcher,
        stop=parts.stop,
        total=total,
        budget=budget,
        shared=parts.shared,
        start=_begins(parts),
    )


def _begins(parts: Parts) -> dict[str, Any]:
    """Name the policy at step 0 and the rows it meets."""
    policy, stored = parts.policy, parts.record.model["quantisation"]
    start = {"weights": policy.weights, "adapter": policy.adapter, "quantisation": stored}
    return {**start, "begins": parts.config.adapter_arithmetic, **parts.prepared.names}


def _metrics(parts: Parts) -> MetricsFile:
    config, folder, first = parts.config, parts.folder.path, parts.processes.first
    run = TrackedRun(
        config.project, config.run_name or folder.name, folder, parts.record.config, parts.record.run_id
    )
    trackers = open_trackers(config.report_to if first else (), run, parts.watcher.note)
    return MetricsFile(folder / "metrics.jsonl", writes=first, trackers=trackers)


def _resume(loop: Loop, sampler: Sampler | None) -> None:
    found, damaged = checkpoint.newest(loop.checkpoints)
    loop.engine.processes.same({"newest checkpoint": None if found is None else found.step})
    if found is None:
        loop.metrics.rewind(-1)
    else:
        restore(loop, found)
        loop.watcher.note(f"resuming after step {found.step} of {loop.total}")
    if sampler is not None:
        sampler.rewind(-1 if found is None else found.step)
    for line in damaged:
        event(loop, f"checkpoint skipped: {line}")


def _train(parts: Parts, loop: Loop, sampler: Sampler | None) -> RunRecord:
    path, first = parts.folder.path, parts.processes.first
    try:
        parts.watcher.stage("training")
        run_updates(loop)
        parts.clock.lap("training")
        finish(loop)
        save_policy(parts.policy, parts.tokenizer, path / "model", first=first)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(path).free / 2**20
        raise ResourceError(
            f"{path}: could not be written ({checkpoint.disk_problem(error)}); {free:.0f} MiB are free; "
            "checkpoints are intact; free space and run the same command to resume"
        ) from error
    except TetherError as error:
        loop.metrics.trackers.close()
        status = "interrupted" if error.exit_code > 128 else "failed"
        parts.clock.lap("training")
        if first:
            write_json(path / "run.json", _final(parts, loop, status))
        raise
    if sampler is not None and first:
        write_lines(path / "samples.jsonl", sampler.samples())
    loop.metrics.trackers.close()
    parts.clock.lap("saving")
    final = _final(parts, loop, "finished")
    if first:
        write_json(path / "run.json", final)
    return final


def _final(parts: Parts, loop: Loop, status: Literal["finished", "interrupted", "failed"]) -> RunRecord:
    device = device_of(parts.config.device)
    return parts.record.model_copy(
        update={
            "status": status,
            "steps": loop.step,
            "epochs": loop.epoch,
            "results": loop.results,
            "measurements": tuple(loop.measurements),
            "events": tuple(loop.events),
            "timing": {
                **parts.clock.seconds,
                "training": parts.clock.seconds.get("training", 0.0) + loop.seconds,
            },
            "hardware": {**parts.record.hardware, "peak_memory_mib": peak_memory(device)},
        }
    )
