"""Losses on single texts marked desirable or undesirable: KTO, APO-zero, BCO."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.errors import UsageError
from tether.objectives.objective import Objective
from tether.objectives.scores import log_ratios, role_indices
from tether.objectives.terms import logistic, running_shift, shift
from tether.records.tensors import LossInputs, LossOutput, LossTerm


def kto(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Prospect-theoretic value of each text against z0, the mean log-ratio of mismatched ones (2402.01306).

    Raises:
        UsageError: no row carries a mismatched completion (role `kl`).

    """
    ratio = log_ratios(inputs)
    mismatched = role_indices(inputs, "kl")
    if mismatched.numel() == 0:
        raise UsageError(
            "kto needs a mismatched completion (role kl) beside each row to estimate z0; found none"
        )
    z0 = ratio[mismatched].mean().clamp(min=0).detach()
    good, bad = _marked(inputs)
    return _output(
        inputs,
        options,
        torch.sigmoid(options.beta * (z0 - ratio[good])),
        torch.sigmoid(options.beta * (ratio[bad] - z0)),
    )


def apo_zero_unpaired(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """APO-zero on single texts (2408.06266 Eq. 7): KTO with z0 = 0."""
    reward = options.beta * log_ratios(inputs)
    good, bad = _marked(inputs)
    return _output(inputs, options, torch.sigmoid(-reward[good]), torch.sigmoid(reward[bad]))


def bco(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Binary classification shifted by delta, midway between the mean rewards of both kinds (2404.04656)."""
    reward = options.beta * log_ratios(inputs)
    good, bad = _marked(inputs)
    delta = shift(inputs, options, reward[good], reward[bad])
    return _output(inputs, options, logistic(reward[good] - delta), logistic(delta - reward[bad]))


def _remember(inputs: LossInputs, options: ObjectiveOptions) -> dict[str, float]:
    reward = options.beta * log_ratios(inputs)
    good, bad = _marked(inputs)
    return running_shift(inputs, reward[good], reward[bad])


def _marked(inputs: LossInputs) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " m"]]:
    return role_indices(inputs, "desirable"), role_indices(inputs, "undesirable")


def _output(
    inputs: LossInputs,
    options: ObjectiveOptions,
    desirable: Float[Tensor, " n"],
    undesirable: Float[Tensor, " m"],
) -> LossOutput:
    rows = inputs.group_of[torch.cat(_marked(inputs))]
    values = torch.cat([options.desirable_weight * desirable, options.undesirable_weight * undesirable])
    none = values.new_zeros(0)
    return LossOutput((LossTerm(values * inputs.weights[rows], "pairs"),), none, none)


def _unweighted(options: ObjectiveOptions, value: float) -> float | None:
    # With unlike weights the mean depends on how many rows are of which kind.
    return value if options.desirable_weight == options.undesirable_weight == 1 else None


_ALONE = "it scores each text alone, and without a reference that score is its log-probability, never above 0"
_WEIGHTS = ("desirable_weight", "undesirable_weight")


ROWS = (
    Objective(
        name="kto",
        title="KTO: Kahneman-Tversky optimisation",
        equation="desirable_weight sigma(beta (z0 - r))  or  undesirable_weight sigma(beta (r - z0)),  "
        " z0 = max(0, mean r of mismatched texts)",
        source="2402.01306",
        purpose="For thumbs-up and thumbs-down on single texts; z0 estimates the KL the update has spent.",
        evidence="Its paper matches or beats DPO from 1B to 30B; choose weights so that weight times"
        " count of desirable over undesirable rows is 1 to 1.5.",
        loss=kto,
        reads="unpaired",
        reference="sum",
        options=("beta", *_WEIGHTS),
        trl="KTOTrainer kto",
        trl_difference="TRL takes z0 over each micro-batch, ours over the whole update.",
        zero_margin=lambda options: _unweighted(options, 0.5),
        without_reference=_ALONE,
        couples=True,
        mismatched=True,
    ),
    Objective(
        name="apo_zero_unpaired",
        title="APO-zero for single texts",
        equation="desirable_weight sigma(-beta r)  or  undesirable_weight sigma(beta r)",
        source="2408.06266 Eq. 7",
        purpose="KTO without z0: rows do not depend on each other.",
        evidence="Cheaper than kto, as it needs no mismatched texts; no comparison of the two is known to"
        " us.",
        loss=apo_zero_unpaired,
        reads="unpaired",
        reference="sum",
        options=("beta", *_WEIGHTS),
        trl="KTOTrainer apo_zero_unpaired",
        zero_margin=lambda options: _unweighted(options, 0.5),
        without_reference=_ALONE,
    ),
    Objective(
        name="bco",
        title="BCO: binary classifier optimisation",
        equation="desirable_weight -log sigma(beta r - delta)  or  undesirable_weight -log sigma(delta -"
        " beta r),   delta = (mean beta r of desirable + of undesirable) / 2",
        source="2404.04656",
        purpose="For thumbs-up and thumbs-down on single texts, as a classifier whose logit is the reward.",
        evidence="Tried in its paper on pairs and on Likert-scale annotations split into thumbs.",
        loss=bco,
        reads="unpaired",
        reference="sum",
        options=("beta", "bco_delta", *_WEIGHTS),
        trl_difference="An earlier TRL took delta as the mean of all rewards of all updates so far: bco_delta"
        " running. Otherwise it is of this update. Prompts are not re-weighted.",
        zero_margin=lambda options: _unweighted(options, math.log(2)),
        without_reference=_ALONE,
        couples=True,
        advance=_remember,
    ),
)
