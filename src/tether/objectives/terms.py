"""Pieces the losses on pairs share: the logistic curve, soft labels, row weights."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.objectives.scores import Pairs
from tether.records.tensors import LossInputs, LossOutput, LossTerm


def logistic(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return -log sigma(x)."""
    return -F.logsigmoid(x)


def difference(pairs: Pairs, beta: float) -> Float[Tensor, " P"]:
    """Return beta (chosen - rejected) minus the row's margin, which is in reward units (ODPO, 2402.10571)."""
    return beta * pairs.margin - pairs.margins


def soft(
    curve: Callable[[Tensor], Tensor], x: Float[Tensor, " P"], pairs: Pairs, smoothing: float = 0.0
) -> Float[Tensor, " P"]:
    """Return q l(x) + (1 - q) l(-x), q the row's probability, flipped with probability `smoothing`."""
    q = pairs.probabilities * (1 - smoothing) + (1 - pairs.probabilities) * smoothing
    return q * curve(x) + (1 - q) * curve(-x)


def pair_output(
    pairs: Pairs, values: Float[Tensor, " P"], chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"]
) -> LossOutput:
    """Return one value per pair, times the row's weight, with the scores the loss compared."""
    return LossOutput((LossTerm(values * pairs.weights, "pairs"),), chosen, rejected)


def shift(
    inputs: LossInputs,
    options: ObjectiveOptions,
    good: Float[Tensor, " n"],
    bad: Float[Tensor, " m"],
) -> Tensor:
    """Return BCO's delta, without gradient: what separates the rewards of good and of bad texts (2404.04656).

    Over this update, midway between the two means; `running`, the mean of all rewards of this and every
    earlier update, as TRL's BCOTrainer kept it.
    """
    if options.bco_delta == "running":
        moments = running_shift(inputs, good, bad) if inputs.training else inputs.state
        return good.new_tensor(_mean(moments))
    means = [rewards.mean() for rewards in (good, bad) if rewards.numel() > 0]
    return torch.stack(means).mean().detach() if means else good.new_zeros(())


def running_shift(
    inputs: LossInputs, good: Float[Tensor, " n"], bad: Float[Tensor, " m"]
) -> dict[str, float]:
    """Return the sum and number of all rewards so far, those of this update included."""
    rewards = torch.cat([good, bad]).detach().double()
    return {
        "bco_sum": inputs.state.get("bco_sum", 0.0) + float(rewards.sum()),
        "bco_count": inputs.state.get("bco_count", 0.0) + rewards.numel(),
    }


def _mean(moments: Mapping[str, float]) -> float:
    count = moments.get("bco_count", 0.0)
    return moments["bco_sum"] / count if count else 0.0
