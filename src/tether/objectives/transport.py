"""Alignment by optimal transport: values sorted over the whole update are compared (AOT)."""

import math

import torch
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.objectives.objective import Objective
from tether.objectives.scores import policy_pairs, ratio_pairs
from tether.objectives.terms import logistic
from tether.records.tensors import LossInputs, LossOutput, LossTerm


def aot(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Policy margins against reference margins, each sorted over the update (2406.05882)."""
    policy, ratio = policy_pairs(inputs), ratio_pairs(inputs, options)
    return _sorted(policy.margin, policy.margin - ratio.margin, options)


def aot_unpaired(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Chosen log-ratios against rejected ones, each sorted over the update (2406.05882)."""
    ratio = ratio_pairs(inputs, options)
    return _sorted(ratio.chosen, ratio.rejected, options)


def _sorted(upper: Tensor, lower: Tensor, options: ObjectiveOptions) -> LossOutput:
    e, beta = options.label_smoothing, options.beta
    upper, lower = beta * torch.sort(upper).values, beta * torch.sort(lower).values
    x = upper - lower
    values = (1 - e) * logistic(x) + e * logistic(-x)
    return LossOutput((LossTerm(values, "pairs"),), upper, lower)


def _ln2(options: ObjectiveOptions) -> float:
    return math.log(2)


ROWS = (
    Objective(
        name="aot",
        title="AOT: alignment via optimal transport",
        equation="(1 - e) -log sigma(x) + e -log sigma(-x),   x = beta (sorted d - sorted d_ref), in step",
        source="2406.05882",
        purpose="Wants the distribution of margins, not each margin, to exceed the reference's.",
        evidence="Depends on the batch by construction; no comparison with both sides tuned is known to us.",
        loss=aot,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing"),
        trl="aot",
        trl_difference="TRL sorts each micro-batch; ours sorts the whole update.",
        zero_margin=_ln2,
        without_reference="sorting changes nothing when every reference margin is 0; use sigmoid",
        couples=True,
        weighted=False,
    ),
    Objective(
        name="aot_unpaired",
        title="AOT for unpaired texts",
        equation="(1 - e) -log sigma(x) + e -log sigma(-x),   x = beta (sorted r_w - sorted r_l), in step",
        source="2406.05882",
        purpose="Compares all chosen with all rejected texts of an update, whoever they were paired with.",
        evidence="Depends on the batch by construction; no comparison with both sides tuned is known to us.",
        loss=aot_unpaired,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing"),
        trl="aot_unpaired",
        trl_difference="TRL sorts each micro-batch; ours sorts the whole update.",
        zero_margin=_ln2,
        without_reference="log-probs of texts of different prompts cannot be compared without a reference",
        couples=True,
        weighted=False,
    ),
)
