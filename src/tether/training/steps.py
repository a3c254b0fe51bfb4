"""One update's arithmetic: log-probs, objective, gradient; and the same numbers without gradient.

A loss is a sum over units divided by their global count, so no way of cutting an update into micro-batches
changes it. Objectives that couple rows take two phases: all sums without gradient, the loss differentiated
with respect to that vector, then sum(coefficient x log p) back-propagated micro-batch by micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tether.config.objective import ObjectiveOptions
from tether.errors import GuardStop
from tether.objectives import compute, couples
from tether.policies.adapters import trainable
from tether.policies.layouts import Layout
from tether.policies.logprobs import forward_backward, sequence_logprobs
from tether.policies.reference import Scores
from tether.policies.sharding import in_shards
from tether.policies.tilted import LiveReference, tilted_logprobs
from tether.records.tensors import GroupBatch, LossInputs, LossOutput, SequenceLogProbs, Tilted, places
from tether.tokens.collate import plan_microbatches
from tether.training.parallel import ALONE, Processes, shares

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Engine:
    """What a step needs beside the model: how to lay out, how much at once, which objective."""

    model: nn.Module
    options: ObjectiveOptions
    layout: Layout
    head_chunk: int
    autocast: Autocast
    dtype: torch.dtype = torch.float32
    """What the model computes in: sets how close two log-probs must be to be called equal."""
    live: LiveReference | None = None
    """The reference as a model beside the policy, where the objective reads its distributions."""
    processes: Processes = ALONE
    """Who shares the work; every process gives and gets the same batches."""


@dataclass(frozen=True)
class Beside:
    """What an objective sees beside the policy's log-probs of S completions."""

    reference: SequenceLogProbs | None
    tilted: Tilted | None = None
    memory: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the objective remembers of earlier updates."""
    training: bool = True

    def __getitem__(self, index: Tensor) -> "Beside":
        """Return the sequences at `index`."""
        return Beside(
            None if self.reference is None else self.reference[index],
            None if self.tilted is None else self.tilted[index],
            self.memory,
            self.training,
        )


@dataclass(frozen=True)
class Plan:
    """The micro-batches of one process: groups by index, then passes that only keep step with others."""

    parts: list[list[int]]
    extra: int

    def fillers(self, batch: GroupBatch) -> list[GroupBatch]:
        """Return a batch for every extra pass: its shortest group."""
        if not self.extra:
            return []
        return [batch.select([int(batch.group_lengths.argmin())])] * self.extra


@dataclass(frozen=True)
class Scored:
    """An update's log-probs and its loss, detached and on the CPU."""

    inputs: LossInputs
    output: LossOutput
    loss: float


def loss_inputs(batch: GroupBatch, policy: SequenceLogProbs, beside: Beside) -> LossInputs:
    """Join a batch with both sides' log-probs: who is chosen, who is rejected, which weights."""
    device = policy.sums.device
    tilted = beside.tilted
    return LossInputs(
        policy=policy,
        reference=None if beside.reference is None else _to(beside.reference, device),
        roles=batch.roles,
        group_of=batch.group_of.to(device),
        chosen=batch.with_role("chosen", "completion").to(device),
        rejected=batch.with_role("rejected").to(device),
        weights=batch.weights.to(device),
        margins=batch.margins.to(device),
        probabilities=batch.probabilities.to(device),
        state=beside.memory,
        training=beside.training,
        tilted=None if tilted is None else Tilted(tilted.away.to(device), tilted.towards.to(device)),
    )


def _to(values: SequenceLogProbs, device: torch.device) -> SequenceLogProbs:
    tokens = None if values.tokens is None else values.tokens.to(device)
    return SequenceLogProbs(values.sums.to(device), values.counts.to(device), tokens)


def unit_counts(batch: GroupBatch) -> dict[str, int]:
    """Count every unit a loss may be divided by, over a whole update."""
    chosen = batch.with_role("chosen", "completion")
    lengths = batch.scored_lengths
    return {
        "pairs": len(batch),
        "sequences": batch.sequences,
        "tokens": int(lengths.sum()),
        "chosen_tokens": int(lengths[chosen].sum()),
    }


def reduce_loss(output: LossOutput, counts: Mapping[str, int]) -> Tensor:
    """Sum the terms of a loss, each divided by the global count of its unit."""
    total = output.chosen.new_zeros(())
    for term in output.terms:
        total = total + term.weight * term.values.sum() / max(counts[term.unit], 1)
    return total


def update_gradient(
    engine: Engine,
    batch: GroupBatch,
    table: Scores | None,
    budget: int,
    memory: Mapping[str, float] | None = None,
) -> Scored:
    """Accumulate the gradient of one whole update into `.grad`, and return its numbers.

    `memory` is what the objective remembers of earlier updates (`objectives.next_state`).

    Raises:
        GuardStop: a log-prob or the loss is NaN or infinite; names the rows.

    """
    counts = unit_counts(batch)
    beside = _beside(engine, batch, table, budget, memory or {}, training=True)
    plan = _plan(engine, batch, budget)
    two_phase = couples(engine.options)
    coefficients = _coefficients(engine, batch, beside, plan, counts) if two_phase else None
    parts: list[SequenceLogProbs] = []
    for groups in plan.parts:
        part = batch.select(groups)
        sequences = batch.sequences_of(groups)

        def loss(
            values: SequenceLogProbs,
            chunk: Tensor,
            part: GroupBatch = part,
            sequences: Tensor = sequences,
        ) -> Tensor:
            members = part.sequences_of(chunk.tolist())
            if coefficients is not None:
                weights = coefficients[sequences[members]].to(values.sums.device)
                return (weights * values.sums).sum()
            inputs = loss_inputs(part.select(chunk.tolist()), values, beside[sequences[members]])
            return reduce_loss(compute(engine.options, inputs), counts)

        with engine.autocast():
            values = forward_backward(
                engine.model, part, layout=engine.layout, loss=loss, head_chunk=engine.head_chunk
            )
        parts.append(_to(values, torch.device("cpu")))
    for part in plan.fillers(batch):
        with engine.autocast():
            forward_backward(
                engine.model, part, layout=engine.layout, loss=_no_weight, head_chunk=engine.head_chunk
            )
    policy = _join(engine, batch, plan, parts)
    _guard(batch, policy)
    if not in_shards(engine.model):
        engine.processes.sum_gradients(list(trainable(engine.model).values()))
    return _score(engine.options, batch, policy, beside, counts)


def _no_weight(values: SequenceLogProbs, chunk: Tensor) -> Tensor:
    """Weigh log-probs with zero: the pass is made, and the gradient is not changed."""
    return 0.0 * values.sums.sum()


def _beside(
    engine: Engine,
    batch: GroupBatch,
    table: Scores | None,
    budget: int,
    memory: Mapping[str, float],
    *,
    training: bool,
) -> Beside:
    """Look the reference up, and run it beside the policy where the objective reads its distributions."""
    reference = table.lookup(batch) if table is not None else None
    return Beside(reference, _tilted(engine, batch, budget), memory, training)


def _tilted(engine: Engine, batch: GroupBatch, budget: int) -> Tilted | None:
    if engine.live is None:
        return None
    plan = _plan(engine, batch, budget)
    away, towards = torch.zeros(2, batch.sequences)
    parts: list[tuple[Tensor, Tensor]] = []
    for part in [*(batch.select(groups) for groups in plan.parts), *plan.fillers(batch)]:
        with torch.no_grad(), engine.autocast():
            found = tilted_logprobs(
                engine.model,
                engine.live,
                part,
                step=engine.options.epsilon_dpo_epsilon,
                layout=engine.layout,
                head_chunk=engine.head_chunk,
            )
        parts.append((found.away.cpu(), found.towards.cpu()))
    for groups, found in zip(plan.parts, parts, strict=False):
        mine = batch.sequences_of(groups)
        away[mine], towards[mine] = found
    return Tilted(engine.processes.summed(away), engine.processes.summed(towards))


def update_logprobs(engine: Engine, batch: GroupBatch, budget: int) -> SequenceLogProbs:
    """Return the policy's log-probs of a batch without gradient, micro-batch by micro-batch, on the CPU."""
    return _without_gradient(engine, batch, _plan(engine, batch, budget))


def _without_gradient(engine: Engine, batch: GroupBatch, plan: Plan) -> SequenceLogProbs:
    parts: list[SequenceLogProbs] = []
    for part in [*(batch.select(groups) for groups in plan.parts), *plan.fillers(batch)]:
        with torch.no_grad(), engine.autocast():
            values = sequence_logprobs(engine.model, part, layout=engine.layout, head_chunk=engine.head_chunk)
        parts.append(_to(values.detach(), torch.device("cpu")))
    return _join(engine, batch, plan, parts[: len(plan.parts)])


def _plan(engine: Engine, batch: GroupBatch, budget: int) -> Plan:
    """Return this process's micro-batches, as indices of groups of the whole batch."""
    mine = shares(batch, engine.processes.count)[engine.processes.rank]
    parts = [[mine[i] for i in part] for part in plan_microbatches(batch.select(mine), budget, engine.layout)]
    # A model in shards gathers its weights while it runs: all processes must run it as often.
    passes = engine.processes.most(len(parts)) if in_shards(engine.model) else len(parts)
    return Plan(parts, passes - len(parts))


def evaluate(
    engine: Engine,
    batch: GroupBatch,
    table: Scores | None,
    budget: int,
    memory: Mapping[str, float] | None = None,
    *,
    policy: SequenceLogProbs | None = None,
) -> Scored:
    """Score held-out rows as one update: the loss and every metric are independent of the budget.

    `policy` are their log-probs where they are known.
    """
    policy = update_logprobs(engine, batch, budget) if policy is None else policy
    beside = _beside(engine, batch, table, budget, memory or {}, training=False)
    return _score(engine.options, batch, policy, beside, unit_counts(batch))


def _coefficients(
    engine: Engine,
    batch: GroupBatch,
    beside: Beside,
    plan: Plan,
    counts: Mapping[str, int],
) -> Tensor:
    state = torch.get_rng_state()
    joined = _without_gradient(engine, batch, plan)
    _guard(batch, joined)
    # Both phases must draw the same adapter dropout.
    torch.set_rng_state(state)
    sums = joined.sums.clone().requires_grad_(True)
    inputs = loss_inputs(batch, SequenceLogProbs(sums, joined.counts, joined.tokens), beside)
    (gradient,) = torch.autograd.grad(reduce_loss(compute(engine.options, inputs), counts), sums)
    return gradient


def _score(
    options: ObjectiveOptions,
    batch: GroupBatch,
    policy: SequenceLogProbs,
    beside: Beside,
    counts: Mapping[str, int],
) -> Scored:
    inputs = loss_inputs(batch, policy, beside)
    with torch.no_grad():
        output = compute(options, inputs)
        loss = float(reduce_loss(output, counts))
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise GuardStop(f"the loss is {loss} on rows {_names(batch.row_ids)}; nothing was updated or saved")
    return Scored(inputs, output, loss)


def _guard(batch: GroupBatch, values: SequenceLogProbs) -> None:
    broken = ~torch.isfinite(values.sums)
    if bool(broken.any()):
        rows = [batch.row_ids[int(batch.group_of[i])] for i in broken.nonzero().flatten().tolist()]
        raise GuardStop(
            f"the policy's log-prob is NaN or infinite on rows {_names(rows)}; nothing was updated or saved"
        )


def _names(rows: Sequence[str], limit: int = 5) -> str:
    unique = list(dict.fromkeys(rows))
    more = f" and {len(unique) - limit} more" if len(unique) > limit else ""
    return ", ".join(unique[:limit]) + more


def _join(
    engine: Engine, batch: GroupBatch, plan: Plan, parts: Sequence[SequenceLogProbs]
) -> SequenceLogProbs:
    """Put the micro-batches of all processes together in the batch's order."""
    lengths = batch.scored_lengths
    count = batch.sequences
    values = torch.zeros(count + int(lengths.sum()), dtype=torch.float32)
    for groups, part in zip(plan.parts, parts, strict=True):
        assert part.tokens is not None, "a policy knows its tokens"
        mine = batch.sequences_of(groups)
        values[mine] = part.sums
        values[count + places(lengths, mine)] = part.tokens
    # Every place is filled by one process and zero in the others, so that adding them changes no bit.
    values = engine.processes.summed(values)
    return SequenceLogProbs(values[:count], lengths, values[count:])
