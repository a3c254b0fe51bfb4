"""Pieces the losses on pairs share: the logistic curve, soft labels, row weights."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.objectives.scores import Pairs
from tether.records.tensors import LossOutput, LossTerm


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
