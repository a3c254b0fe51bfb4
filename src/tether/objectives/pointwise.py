"""Losses that score chosen and rejected text each on its own log-ratio, and add the two."""

import math

import torch

from tether.config.objective import ObjectiveOptions
from tether.objectives.objective import Objective
from tether.objectives.scores import ratio_pairs
from tether.objectives.terms import logistic, pair_output, running_shift, shift
from tether.records.tensors import LossInputs, LossOutput


def apo_zero(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Raise the chosen text, lower the rejected one (2408.06266 Eq. 7)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    chosen, rejected = beta * pairs.chosen, beta * pairs.rejected
    return pair_output(pairs, torch.sigmoid(-chosen) + torch.sigmoid(rejected), chosen, rejected)


def apo_down(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Lower both, the rejected text more (2408.06266 Eq. 8)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    chosen, rejected = beta * pairs.chosen, beta * pairs.rejected
    return pair_output(pairs, torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen), chosen, rejected)


def nca_pair(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Noise-contrastive alignment: classify each text against noise (2402.05369)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    chosen, rejected = beta * pairs.chosen, beta * pairs.rejected
    values = logistic(chosen) + 0.5 * logistic(-chosen) + 0.5 * logistic(-rejected)
    return pair_output(pairs, values, chosen, rejected)


def bco_pair(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Binary classification of chosen and rejected, shifted by delta (2404.04656)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    chosen, rejected = beta * pairs.chosen, beta * pairs.rejected
    if options.bco_delta != "none" and chosen.numel() > 0:
        delta = shift(inputs, options, chosen, rejected)
        chosen, rejected = chosen - delta, rejected - delta
    return pair_output(pairs, logistic(chosen) + logistic(-rejected), chosen, rejected)


def _remember(inputs: LossInputs, options: ObjectiveOptions) -> dict[str, float]:
    pairs = ratio_pairs(inputs, options)
    return running_shift(inputs, options.beta * pairs.chosen, options.beta * pairs.rejected)


def sppo_hard(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Self-play preference optimisation with certain labels (2405.00675 Eq. 4.7)."""
    pairs, target = ratio_pairs(inputs, options), 0.5 / options.beta
    values = (pairs.chosen - target) ** 2 + (pairs.rejected + target) ** 2
    return pair_output(pairs, values, pairs.chosen, pairs.rejected)


def cal_dpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO at beta 1, with log-ratios pulled to +-1/(2 beta) (2412.14516)."""
    pairs, target = ratio_pairs(inputs, options), 0.5 / options.beta
    pull = (pairs.chosen - target) ** 2 + (pairs.rejected + target) ** 2
    return pair_output(pairs, logistic(pairs.margin) + pull, pairs.chosen, pairs.rejected)


_PAIR = ("ld_alpha", "wpo_weighting")
_ALONE = "it scores each text alone, and without a reference that score is its log-probability, never above 0"


ROWS = (
    Objective(
        name="apo_zero",
        title="APO-zero: anchored preference optimisation",
        equation="1 - sigma(beta r_w) + sigma(beta r_l)",
        source="2408.06266 Eq. 7",
        purpose="For chosen texts better than the model's own: raises them and lowers the rejected ones.",
        evidence="For data better than the model, says its paper; tuned on UltraFeedback it stays below"
        " DPO (LC 10.4 against 11.4 at 3B, 23.2 against 26.8 at 8B, 2502.01237).",
        loss=apo_zero,
        reads="pairs",
        reference="sum",
        options=("beta", *_PAIR),
        trl="apo_zero",
        zero_margin=lambda options: 1.0,
        without_reference=_ALONE,
    ),
    Objective(
        name="apo_down",
        title="APO-down: anchored preference optimisation",
        equation="sigma(beta r_w) + 1 - sigma(beta (r_w - r_l))",
        source="2408.06266 Eq. 8",
        purpose="For chosen texts worse than the model's own: lowers both, the rejected ones more.",
        evidence="For data worse than the model, says its paper.",
        loss=apo_down,
        reads="pairs",
        reference="sum",
        options=("beta", *_PAIR),
        trl="apo_down",
        zero_margin=lambda options: 1.0,
        without_reference=_ALONE,
    ),
    Objective(
        name="nca_pair",
        title="NCA: noise-contrastive alignment for pairs",
        equation="-log sigma(beta r_w) - 1/2 log sigma(-beta r_w) - 1/2 log sigma(-beta r_l)",
        source="2402.05369",
        purpose="Holds the chosen text's absolute likelihood: its own part is least at beta r_w = ln 2.",
        evidence="Its paper finds that it keeps the chosen text likely; tuned on UltraFeedback it stays"
        " below DPO (LC 10.3 against 11.4 at 3B, 23.2 against 26.8 at 8B, 2502.01237).",
        loss=nca_pair,
        reads="pairs",
        reference="sum",
        options=("beta", *_PAIR),
        trl="nca_pair",
        zero_margin=lambda options: 2 * math.log(2),
        without_reference=_ALONE,
        usual_beta=(1e-4, 0.1),
    ),
    Objective(
        name="bco_pair",
        title="BCO for pairs: binary classifier optimisation",
        equation="-log sigma(beta r_w - delta) - log sigma(delta - beta r_l)",
        source="2404.04656",
        purpose="Treats a pair as one good and one bad text; delta is the shift between the two.",
        evidence="Its paper reports it level with DPO on pairs; it exists for unpaired data.",
        loss=bco_pair,
        reads="pairs",
        reference="sum",
        options=("beta", "bco_delta", *_PAIR),
        trl="bco_pair",
        trl_difference="None with bco_delta none, the default: TRL leaves delta out. bco_delta update"
        " takes the mean reward over the update, running the mean over this and all earlier updates.",
        zero_margin=lambda options: 2 * math.log(2),
        without_reference=_ALONE,
        advance=_remember,
    ),
    Objective(
        name="sppo_hard",
        title="SPPO with certain labels",
        equation="(r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2",
        source="2405.00675 Eq. 4.7",
        purpose="Moves each text's log-ratio to a target; meant for pairs sampled anew each round.",
        evidence="Its paper iterates three rounds of sampling at beta 0.001; one round on fixed data is"
        " not the method.",
        loss=sppo_hard,
        reads="pairs",
        reference="sum",
        options=("beta", *_PAIR),
        trl="sppo_hard",
        zero_margin=lambda options: 0.5 / options.beta**2,
        without_reference=_ALONE,
        default_beta=0.001,
        usual_beta=(1e-4, 1.0),
    ),
    Objective(
        name="cal_dpo",
        title="Cal-DPO: calibrated DPO",
        equation="-log sigma(r_w - r_l) + (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2",
        source="2412.14516",
        purpose="Gives rewards a scale, so that the chosen one rises instead of only the difference.",
        evidence="Tuned on UltraFeedback it stays below DPO (LC 10.6 against 11.4 at 3B, 23.2 against"
        " 26.8 at 8B, 2502.01237).",
        loss=cal_dpo,
        reads="pairs",
        reference="sum",
        options=("beta",),
        zero_margin=lambda options: math.log(2) + 0.5 / options.beta**2,
        without_reference=_ALONE,
        usual_beta=(1e-5, 1.0),
    ),
)
