"""Step 0: the reference is the one you named, or the run does not start.

`self` against the policy in the same shape and kernel gives margins of exactly zero on CPU fp32 and the
objective's own value at zero margin; against the scored table every margin stays under beta x what rounding
explains, or else, measured, the batch noise too. Every other kind: 8 rows are scored again by the named model
and must match.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    few = collate([groups[0].shortened()])
    once, again = (update_logprobs(engine, few, budget).sums for _ in range(2))
    if not torch.equal(once, again):
        raise GuardStop(
            "step 0: two evaluations of the same row differ; something random is still on (dropout?), so no "
            "reference can be checked"
        )


def verify_self(engine: Engine, table: Scores, update: Sequence[EncodedGroup], budget: int) -> Verified:
    """Check the `self` reference on the first update.

    Raises:
        GuardStop: the policy does not repeat itself, or the table is not this policy's.

    """
    found = _compare(engine, table, update, budget)
    beta = float(getattr(engine.options, "beta", 1.0))
    if found.worst > found.bound:
        raise GuardStop(
            f"step 0: {found.row}: policy and reference differ by {found.worst:.3g} nats, rounding and batch "
            f"noise explain {found.bound:.3g}; the reference is not this model at step 0; delete the run "
            "folder's reference/ and run again"
        )
    scored = evaluate(engine, found.batch, table, budget, policy=found.values)
    zero = zero_margin(engine.options)
    text = f"policy and reference agree on the first update to {found.worst:.2g} nats"
    text += f" (allowed {found.bound:.2g})"
    numbers: dict[str, Any] = {
        "loss": scored.loss,
        "margin_max": beta * found.worst,
        "bound": beta * found.bound,
    }
    if zero is not None:
        numbers["zero_margin"] = zero
        text += f"; loss {scored.loss:.4f}, {zero:.4f} at zero margin"
    return Verified(text, numbers)


def verify_rescored(
    engine: Engine, table: ReferenceTable, groups: Sequence[EncodedGroup], budget: int
) -> Verified:
    """Score 8 rows again with the named model and compare them with the table.

    Raises:
        GuardStop: the model does not repeat itself, or a row differs by more than batch noise; names it.

    """
    found = _compare(engine, table, groups[:RESCORED_ROWS], budget)
    if found.worst > found.bound:
        raise GuardStop(
            f"step 0: {found.row}: the reference table is off by {found.worst:.3g} nats from what its model "
            f"gives now (allowed {found.bound:.3g}); score the data again"
        )
    rows = len(found.batch)
    return Verified(
        f"{rows} rows scored again by the named model agree to {found.worst:.2g} nats "
        f"(allowed {found.bound:.2g})",
        {"rescored_rows": rows, "rescored_error": found.worst, "bound": found.bound},
    )


class _Compared(NamedTuple):
    """Rows as the model scores them now, the one farthest from the table, and how far it may be, nats."""

    batch: GroupBatch
    values: SequenceLogProbs
    row: str
    worst: float
    bound: float


def _compare(engine: Engine, table: Scores, groups: Sequence[EncodedGroup], budget: int) -> _Compared:
    engine.model.eval()
    check_repeats(engine, groups, budget)
    batch = collate(groups)
    values = update_logprobs(engine, batch, budget)
    gaps = (values.sums - table.lookup(batch).sums).abs()
    index = int(gaps.argmax())
    worst, bound = float(gaps[index]), rounding(engine, values.sums)
    if worst > bound:  # only then is it worth more passes to know the noise of a batch
        bound += NOISE_FACTOR * measured_noise(engine, batch, budget)
    return _Compared(batch, values, batch.row_ids[int(batch.group_of[index])], worst, bound)


def model_at_hand(source: dict[str, Any]) -> Path | None:
    """Return the folder of the model that scored an artifact, if it is still here."""
    path = source.get("model")
    return folder_at_hand(path) if path else None
