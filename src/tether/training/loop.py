"""The loop: gradient, guard, clip, step; log, evaluate, measure, save. Every side effect in this order.

After an update of step n: metrics are logged, held-out rows evaluated, samples measured, and only then the
checkpoint of step n is written, so a resumed run writes the same lines as one that was never stopped.
"""

import difflib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from tether.config.train import TrainConfig
from tether.errors import GuardStop, Interrupted, ResourceError, UsageError
from tether.objectives import next_state
from tether.objectives.metrics import margin_decomposition, pair_metrics
from tether.policies.adapters import trainable
from tether.policies.reference import Scores
from tether.policies.sharding import whole
from tether.records.results import Measurement
from tether.records.tensors import GroupBatch
from tether.tokens.collate import collate
from tether.tokens.loader import Updates
from tether.training import checkpoint
from tether.training.moving import MovingReference
from tether.training.sharing import Shared
from tether.training.signals import StopRequest
from tether.training.steps import Engine, Scored, evaluate, update_gradient, update_logprobs
from tether.training.track import MetricsFile, Sums, Watcher

Measure = Callable[[int], Measurement]


@dataclass
class Loop:
    """Everything that changes while a run runs, and everything it needs."""

    config: TrainConfig
    engine: Engine
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    updates: Updates
    table: Scores | None
    eval_batch: GroupBatch | None
    measure: Measure | None
    metrics: MetricsFile
    checkpoints: Path
    watcher: Watcher
    stop: StopRequest
    total: int
    budget: int
    shared: Shared = field(default_factory=Shared)
    start: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Names of the model and the rows at step 0: what its held-out log-probs depend on."""
    step: int = 0
    tokens: int = 0
    sums: Sums = field(default_factory=Sums)
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    """Looks in a row at which `metric_for_best_model` was not clearly better."""
    halved: bool = False
    memory: dict[str, float] = field(default_factory=dict[str, float])
    """What the objective remembers of the updates so far."""
    seconds: float = 0.0
    """Training time before the last resume."""
    began: float = field(default_factory=time.perf_counter)
    measurements: list[Measurement] = field(default_factory=list[Measurement])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    results: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.step / self.updates.updates_per_epoch

    def due(self, steps: float) -> bool:
        """Tell whether this step is one of those that come every `steps` updates."""
        return self.step % self.config.every(steps, self.total) == 0


def run_updates(loop: Loop) -> None:
    """Train from `loop.step` to the end.

    Raises:
        GuardStop: NaN or infinity in loss or gradient, before the update; nothing broken is saved.
        Interrupted: a signal asked for a stop; the state is saved.
        ResourceError: memory ran out twice, or the disk is full.

    """
    if loop.step == 0:
        _look(loop, rows=True, samples=True)
    while loop.step < loop.total and not _stopped_early(loop):
        scored = _one_update(loop)
        loop.step += 1
        loop.watcher.step(loop.step, loop.total, scored.loss)
        if loop.due(loop.config.logging_steps) or loop.step == loop.total:
            _log(loop)
        rows, samples = _due_eval(loop), _due_samples(loop)
        improved = _look(loop, rows=rows, samples=samples) if rows or samples else False
        # All processes stop after the same step, whichever of them was told to.
        signal = loop.engine.processes.most(loop.stop.signal_number or 0)
        if _due_save(loop, improved) or signal or _stopped_early(loop):
            save(loop)
        if signal and loop.step < loop.total:
            raise Interrupted(
                f"stopped by signal {signal} after step {loop.step} of {loop.total}; "
                "state saved; run the same command to go on",
                signal,
            )
    if _stopped_early(loop) and loop.step < loop.total:
        event(
            loop,
            f"stopped early after step {loop.step} of {loop.total}: {loop.config.metric_for_best_model} was "
            f"no better at {loop.worse} looks in a row (early_stopping_patience)",
        )
        _log(loop)


def _stopped_early(loop: Loop) -> bool:
    patience = loop.config.early_stopping_patience
    return patience is not None and loop.worse >= patience


def _one_update(loop: Loop) -> Scored:
    epoch, index = loop.updates.position(loop.step)
    batch = collate(loop.updates.update(epoch, index))
    scored = _gradient(loop, batch)
    norm = _clip(loop, batch)
    rate = float(loop.schedule.get_last_lr()[0])
    loop.optimizer.step()
    loop.schedule.step()
    loop.memory = next_state(loop.config, scored.inputs)
    if isinstance(loop.table, MovingReference):
        loop.table.after_update(loop.step + 1)
    rows = len(batch)
    loop.tokens += int(batch.completion_lengths.sum())
    loop.sums.add("loss", scored.loss * rows, rows)
    loop.sums.add("grad_norm", norm, 1)
    loop.sums.add("learning_rate", rate, 1)
    loop.sums.add_vectors(pair_metrics(scored.inputs, loop.config, dtype=loop.engine.dtype))
    return scored


def _gradient(loop: Loop, batch: GroupBatch) -> Scored:
    """One update's gradient; when memory runs out, once with half the token budget, from the start."""
    loop.engine.model.train()
    loop.engine.processes.reseed(loop.config.seed, loop.step)
    state = torch.get_rng_state()
    try:
        loop.optimizer.zero_grad(set_to_none=True)
        return update_gradient(loop.engine, batch, loop.table, loop.budget, loop.memory)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, GuardStop) or not out_of_memory(error):
            raise
        # With several processes the others are already past the exchange that a second try would repeat.
        if loop.halved or loop.engine.processes.count > 1:
            once = ", already halved once" if loop.halved else ""
            raise ResourceError(
                f"out of memory at step {loop.step + 1} with {loop.budget} tokens per micro-batch{once}; "
                "lower max_tokens_per_microbatch or max_length, or set gradient_checkpointing"
            ) from error
    loop.halved = True
    loop.budget = max(loop.budget // 2, 1)
    loop.optimizer.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    event(loop, f"out of memory: the token budget is now {loop.budget}, the update was done again")
    torch.set_rng_state(state)
    return _gradient(loop, batch)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on CUDA or the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


def _clip(loop: Loop, batch: GroupBatch) -> float:
    parameters = list(trainable(loop.engine.model).values())
    limit = loop.config.max_grad_norm
    total = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"))
    norm = float(whole(total))
    if norm != norm or norm == float("inf"):
        rows = ", ".join(batch.row_ids[:5]) + (" ..." if len(batch) > 5 else "")
        raise GuardStop(
            f"step {loop.step + 1}: the gradient is NaN or infinite on rows {rows}; "
            "the update was not made and nothing broken was saved; lower learning_rate or look at these rows"
        )
    return norm


def _log(loop: Loop) -> None:
    if not loop.sums.values:
        return
    values = {**loop.sums.means(), "num_tokens": loop.tokens}
    line = loop.metrics.append(loop.step, loop.epoch, "train", values)
    loop.results.update({k: v for k, v in values.items() if k != "num_tokens"})
    loop.watcher.log(line, total=loop.total)
    loop.sums = Sums()


def _due_eval(loop: Loop) -> bool:
    strategy = loop.config.eval_strategy or ("epoch" if loop.eval_batch is not None else "no")
    if loop.step == loop.total:
        return True
    if strategy == "steps":
        return loop.due(loop.config.eval_steps or loop.config.logging_steps)
    return strategy == "epoch" and loop.step % loop.updates.updates_per_epoch == 0


def _due_samples(loop: Loop) -> bool:
    every = loop.config.sample_steps
    if every is None or loop.step == loop.total:
        return _due_eval(loop)
    return loop.step % every == 0


def _due_save(loop: Loop, improved: bool) -> bool:
    config = loop.config
    if improved and (config.load_best_model_at_end or config.save_strategy == "best"):
        return True
    if config.save_strategy == "steps":
        return loop.due(config.save_steps) or loop.step == loop.total
    return config.save_strategy == "epoch" and loop.step % loop.updates.updates_per_epoch == 0


def _look(loop: Loop, *, rows: bool, samples: bool) -> bool:
    """Evaluate held-out `rows`, measure `samples`; return whether the best metric, if seen, improved."""
    values: dict[str, float] = {}
    if rows and loop.eval_batch is not None:
        values = eval_metrics(evaluate_now(loop), loop.config, loop.engine.dtype)
        _explain(loop, values)
        line = loop.metrics.append(loop.step, loop.epoch, "eval", values)
        loop.watcher.log(line, total=loop.total)
        loop.results.update(values)
    if samples and loop.measure is not None:
        loop.engine.model.eval()
        measurement = loop.measure(loop.step)
        loop.measurements.append(measurement)
        flat = flat_measurement(measurement)
        loop.watcher.log(loop.metrics.append(loop.step, loop.epoch, "measure", flat), total=loop.total)
        values |= {key: value for key, value in flat.items() if value is not None}
    name = loop.config.metric_for_best_model
    name = name if name in values else f"eval_{name}"  # Hugging Face's spelling leaves the prefix out
    if loop.step == 0:
        _check_metric(loop.config, name, values)
        return False
    value = values.get(name)
    if value is None:
        return False
    gain = float("inf") if loop.best is None else value - loop.best
    gain = -gain if loop.best is not None and not loop.config.best_is_greater else gain
    # Unlike machines may round a tie differently; whether a checkpoint is due is decided once.
    clearly = bool(loop.engine.processes.most(int(gain > loop.config.early_stopping_threshold)))
    better = bool(loop.engine.processes.most(int(gain > 0)))
    loop.worse = 0 if clearly else loop.worse + 1
    if better:
        loop.best, loop.best_step = value, loop.step
    return better


def _check_metric(config: TrainConfig, name: str, values: Mapping[str, float]) -> None:
    """Refuse a metric that will never be there, where something hangs on it."""
    used = config.load_best_model_at_end or config.early_stopping_patience or config.save_strategy == "best"
    if used and name not in values:
        near = difflib.get_close_matches(config.metric_for_best_model, values, n=3, cutoff=0.3)
        raise UsageError(
            f"metric_for_best_model {config.metric_for_best_model!r} is not measured in this run; "
            f"use one of metrics.jsonl, such as {', '.join(near or list(values)[:3])}"
        )


def evaluate_now(loop: Loop) -> Scored:
    """Score the held-out rows with the policy as it is."""
    assert loop.eval_batch is not None
    batch, engine = loop.eval_batch, loop.engine
    engine.model.eval()
    if loop.step > 0:
        return evaluate(engine, batch, loop.table, loop.budget, loop.memory)
    cut = {"layout": engine.layout, "budget": loop.budget, "head_chunk": engine.head_chunk}
    policy = loop.shared.once(
        "step 0", {**loop.start, **cut}, lambda: update_logprobs(engine, batch, loop.budget)
    )
    return evaluate(engine, batch, loop.table, loop.budget, loop.memory, policy=policy)


def flat_measurement(measurement: Measurement) -> dict[str, float | None]:
    """Return a measurement as one flat line; scores become `scores/<evaluator>`."""
    document = measurement.model_dump()
    for part in ("scores", "scores_se"):
        document |= {f"{part}/{name}": value for name, value in document.pop(part).items()}
    document.pop("step")
    return document


def _explain(loop: Loop, values: Mapping[str, float]) -> None:
    """Say once, when it first shows, what it means that chosen and rejected texts both became less likely."""
    names = {name: values.get(f"eval_{name}") for name in ("logratios/chosen", "logratios/rejected")}
    known = {name: value for name, value in names.items() if value is not None}
    if loop.step == 0 or len(known) < 2 or any("became less likely" in e["text"] for e in loop.events):
        return
    parts = margin_decomposition(known)
    errors = {name: values.get(f"eval_{name}_se", 0.0) for name in known}
    # A fall within two standard errors of nothing is nothing: silence beats a false alarm.
    clear = all(value < -2 * errors[name] for name, value in known.items())
    if parts.both_fell and clear:
        event(loop, parts.explain())


def eval_metrics(scored: Scored, config: TrainConfig, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Return held-out metrics with standard errors over pairs, all prefixed `eval_`."""
    vectors = dict(pair_metrics(scored.inputs, config, dtype=dtype))
    terms = scored.output.terms
    if all(term.unit == "pairs" for term in terms):
        vectors["loss"] = torch.stack([t.weight * t.values for t in terms]).sum(0)
    result = {"eval_loss": scored.loss}
    for name, vector in vectors.items():
        if vector.numel() == 0:
            continue
        result.setdefault(f"eval_{name}", float(vector.double().mean()))
        result[f"eval_{name}_se"] = _standard_error(vector)
    return result


def _standard_error(vector: Tensor) -> float:
    if vector.numel() < 2:
        return 0.0
    return float(vector.double().std()) / vector.numel() ** 0.5


def event(loop: Loop, text: str) -> None:
    """Record something the user should know, in the run and on the terminal."""
    loop.events.append({"step": loop.step, "text": text})
    loop.watcher.note(text)


def save(loop: Loop) -> None:
    """Write the checkpoint of this step; older ones go only after it is whole."""
    moving = loop.table.weights if isinstance(loop.table, MovingReference) else None
    model, first = loop.engine.model, loop.engine.processes.first
    checkpoint.save(loop.checkpoints, loop.step, model, loop.optimizer, state(loop), moving, first=first)
    if first:
        checkpoint.rotate(loop.checkpoints, loop.config.save_total_limit, keep=loop.best_step)


def state(loop: Loop) -> dict[str, Any]:
    """Return what must survive beside tensors."""
    return {
        "schedule": loop.schedule.state_dict() | {"lr_lambdas": None},
        "tokens": loop.tokens,
        "sums": loop.sums.values,
        "best": loop.best,
        "best_step": loop.best_step,
        "worse": loop.worse,
        "budget": loop.budget,
        "halved": loop.halved,
        "memory": loop.memory,
        "seconds": loop.seconds + time.perf_counter() - loop.began,
        "measurements": [m.model_dump(mode="json") for m in loop.measurements],
        "events": loop.events,
        "results": loop.results,
    }


def restore(loop: Loop, found: checkpoint.Checkpoint) -> None:
    """Put the loop back to exactly where a checkpoint left it."""
    checkpoint.restore(found, loop.engine.model, loop.optimizer)
    if isinstance(loop.table, MovingReference):
        loop.table.restore(checkpoint.reference_weights(found))
    saved: Mapping[str, Any] = found.state
    schedule = {key: value for key, value in saved["schedule"].items() if key != "lr_lambdas"}
    loop.schedule.load_state_dict({**loop.schedule.state_dict(), **schedule})
    for group, rate in zip(loop.optimizer.param_groups, schedule["_last_lr"], strict=True):
        group["lr"] = rate
    loop.step, loop.tokens, loop.budget = found.step, saved["tokens"], saved["budget"]
    loop.seconds = saved["seconds"]
    loop.sums, loop.halved = Sums(saved["sums"]), saved["halved"]
    loop.best, loop.best_step, loop.worse = saved["best"], saved["best_step"], saved["worse"]
    loop.memory = dict(saved["memory"])
    loop.measurements = [Measurement.model_validate(m) for m in saved["measurements"]]
    loop.events, loop.results = list(saved["events"]), dict(saved["results"])
    loop.metrics.rewind(found.step)


def finish(loop: Loop) -> None:
    """Put the best weights back where the user asked for them."""
    if loop.config.load_best_model_at_end and loop.best_step not in (None, loop.step):
        checkpoint.load_weights(loop.checkpoints / f"step-{loop.best_step}", loop.engine.model)
        event(
            loop, f"the model of step {loop.best_step} is kept: {loop.config.metric_for_best_model} was best"
        )
