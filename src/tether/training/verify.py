"""Step 0: the reference is the one you named, or the run does not start.

`self` against the policy in the same shape and kernel gives margins of exactly zero on CPU fp32 and the
objective's own value at zero margin; against the scored table every margin stays under beta x what rounding
explains, or else, measured, the batch noise too. Every other kind: 8 rows are scored again by the named model
and must match.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tether.config.hub import folder_at_hand
from tether.errors import GuardStop
from tether.objectives import zero_margin
from tether.policies.quantisation import quantisation_of
from tether.policies.reference import ReferenceTable, Scores
from tether.records.tensors import GroupBatch, SequenceLogProbs
from tether.tokens.collate import collate
from tether.tokens.render import EncodedGroup
from tether.training.steps import Engine, evaluate, update_logprobs

RESCORED_ROWS = 8
REPEATED_TOKENS = 64
"""Of a prompt and of each completion."""
NOISE_ROWS = 3
ROUNDING = 16
"""What rounding explains of a sum, in units of its last place: the adding up, and each token's own few."""
NOISE_FACTOR = 8.0
"""How many times the measured noise of a few rows the worst row of a run may show."""


@dataclass(frozen=True)
class Verified:
    """What was checked at step 0, as a sentence and as numbers."""

    text: str
    numbers: dict[str, Any]


def rounding(engine: Engine, sums: Tensor) -> float:
    """Return how much of the largest sum rounding explains, nats."""
    # An 8-bit activation that is rounded the other way moves by 1 / 127 of the largest beside it.
    precise = engine.dtype == torch.float32 and quantisation_of(engine.model) != "int8"
    eps = torch.finfo(torch.float32).eps if precise else torch.finfo(torch.bfloat16).eps
    return ROUNDING * eps * max(1.0, float(sums.abs().max()))


def measured_noise(engine: Engine, batch: GroupBatch, budget: int) -> float:
    """Return how much a sum moves with its batch mates, nats: the shortest rows, together and alone."""
    few = batch.select(batch.group_lengths.argsort(stable=True)[:NOISE_ROWS].tolist())
    alone = [update_logprobs(engine, few.select([row]), budget).sums for row in range(len(few))]
    return float((update_logprobs(engine, few, budget).sums - torch.cat(alone)).abs().max())


def check_repeats(engine: Engine, groups: Sequence[EncodedGroup], budget: int) -> None:
    """Hold a few tokens of one row to give the same sums twice; dropout anywhere shows on them.

    Raises:
        GuardStop: they do not.

    """
    # On an accelerator a kernel may add in any order; on a CPU only something random differs.
    if next(engine.model.parameters()).device.type != "cpu":
        return
    few = collate([groups[0].shortened(REPEATED_TOKENS)])
    once, again = (update_logprobs(engine, few, budget).sums for _ in range(2))
    if not torch.equal(once, again):
        raise GuardStop(
            "step 0: two evaluations of the same row differ; something random is still on (dropout?), so no "
            "reference can be checked"
        )


def _bound(engine: Engine, batch: GroupBatch, sums: Tensor, budget: int, worst: float) -> float:
    """Return how far a row may be off, nats: rounding, and only where that is not enough the batch noise."""
    floor = rounding(engine, sums)
    return floor if worst <= floor else floor + NOISE_FACTOR * measured_noise(engine, batch, budget)


def verify_self(engine: Engine, table: Scores, update: Sequence[EncodedGroup], budget: int) -> Verified:
    """Check the `self` reference on the first update.

    Raises:
        GuardStop: the policy does not repeat itself, or the table is not this policy's.

    """
    engine.model.eval()
    check_repeats(engine, update, budget)
    batch = collate(update)
    policy = update_logprobs(engine, batch, budget)
    worst, row = _worst(policy, table.lookup(batch), batch)
    bound = _bound(engine, batch, policy.sums, budget, worst)
    beta = float(getattr(engine.options, "beta", 1.0))
    if worst > bound:
        raise GuardStop(
            f"step 0: {row}: policy and reference differ by {worst:.3g} nats, rounding and batch noise "
            f"explain {bound:.3g}; the reference is not this model at step 0; delete the run folder's "
            "reference/ and run again"
        )
    scored = evaluate(engine, batch, table, budget, policy=policy)
    zero = zero_margin(engine.options)
    text = f"policy and reference agree on the first update to {worst:.2g} nats (allowed {bound:.2g})"
    numbers: dict[str, Any] = {"loss": scored.loss, "margin_max": beta * worst, "bound": beta * bound}
    if zero is not None:
        numbers["zero_margin"] = zero
        text += f"; loss {scored.loss:.4f}, {zero:.4f} at zero margin"
    return Verified(text, numbers)


def verify_rescored(
    table: ReferenceTable, rescore: Callable[[], tuple[Engine, list[EncodedGroup]]] | None, budget: int
) -> Verified:
    """Score 8 rows again with the named model and compare them with the table.

    Raises:
        GuardStop: a row differs by more than batch noise; names it.

    """
    if rescore is None:
        return Verified("not verifiable here: the model that scored it is not at hand", {})
    engine, groups = rescore()
    engine.model.eval()
    check_repeats(engine, groups, budget)
    batch = collate(groups[:RESCORED_ROWS])
    values = update_logprobs(engine, batch, budget)
    worst, row = _worst(values, table.lookup(batch), batch)
    bound = _bound(engine, batch, values.sums, budget, worst)
    if worst > bound:
        raise GuardStop(
            f"step 0: {row}: the reference table is off by {worst:.3g} nats from what its model gives now "
            f"(allowed {bound:.3g}); score the data again"
        )
    return Verified(
        f"{len(batch)} rows scored again by the named model agree to {worst:.2g} nats (allowed {bound:.2g})",
        {"rescored_rows": len(batch), "rescored_error": worst, "bound": bound},
    )


def _worst(mine: SequenceLogProbs, theirs: SequenceLogProbs, batch: GroupBatch) -> tuple[float, str]:
    gaps = (mine.sums - theirs.sums).abs()
    index = int(gaps.argmax())
    return float(gaps[index]), batch.row_ids[int(batch.group_of[index])]


def model_at_hand(source: dict[str, Any]) -> Path | None:
    """Return the folder of the model that scored an artifact, if it is still here."""
    path = source.get("model")
    return folder_at_hand(path) if path else None
