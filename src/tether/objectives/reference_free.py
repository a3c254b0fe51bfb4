"""Losses on pairs that read the policy alone: SimPO, AlphaPO, ORPO, CPO."""

import torch
import torch.nn.functional as F

from tether.config.objective import ObjectiveOptions
from tether.objectives.objective import Objective
from tether.objectives.scores import EXPONENT_LIMIT, log1mexp, policy_pairs
from tether.objectives.supervised import chosen_nll
from tether.objectives.terms import difference, logistic, pair_output, soft
from tether.records.tensors import LossInputs, LossOutput


def simpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Mean log-probs compared, with a target margin (2405.14734 Eq. 6)."""
    pairs, beta = policy_pairs(inputs).per_token(), options.beta
    x = difference(pairs, beta) - options.simpo_gamma
    values = soft(logistic, x, pairs, options.label_smoothing)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def alphapo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """SimPO with reward (1 - p^-alpha) / alpha, p the per-token geometric mean probability (2501.03884)."""
    pairs, beta, alpha = policy_pairs(inputs).per_token(), options.beta, options.alphapo_alpha
    if alpha != 0:
        chosen = -torch.expm1((-alpha * pairs.chosen).clamp(max=EXPONENT_LIMIT)) / alpha
        rejected = -torch.expm1((-alpha * pairs.rejected).clamp(max=EXPONENT_LIMIT)) / alpha
        pairs = pairs.with_scores(chosen, rejected)
    x = difference(pairs, beta) - options.simpo_gamma
    values = soft(logistic, x, pairs, options.label_smoothing)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def orpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """NLL of the chosen text plus beta times the log odds ratio loss (2403.07691 Eqs. 4 and 7)."""
    pairs, beta = policy_pairs(inputs).per_token(), options.beta
    odds = pairs.with_scores(pairs.chosen - log1mexp(pairs.chosen), pairs.rejected - log1mexp(pairs.rejected))
    output = pair_output(pairs, -beta * F.logsigmoid(odds.margin), odds.chosen, odds.rejected)
    return LossOutput((*output.terms, chosen_nll(inputs)), output.chosen, output.rejected)


def cpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Reference-free DPO plus NLL of the chosen text (2401.08417 Eq. 3)."""
    pairs, beta = policy_pairs(inputs), options.beta
    values = soft(logistic, difference(pairs, beta), pairs, options.label_smoothing)
    output = pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)
    nll = chosen_nll(inputs, options.cpo_alpha)
    return LossOutput((*output.terms, nll), output.chosen, output.rejected)


ROWS = (
    Objective(
        name="simpo",
        title="SimPO",
        equation="(1 - e) -log sigma(x) + e -log sigma(-x),   x = beta (p_w / n_w - p_l / n_l) -"
        " simpo_gamma - m",
        source="2405.14734 Eq. 6; smoothing e as in TRL",
        purpose="No reference: compares mean log-probs and asks for a margin of simpo_gamma.",
        evidence="Its paper reports Llama-3-8B-Instruct AlpacaEval 2 LC 44.7 against DPO's 40.3; tuned"
        " alike they tie (2502.01237), and it can cost capability (GSM8K 78.5 to 57.4 at learning rate"
        " 1e-6).",
        loss=simpo,
        reads="pairs",
        reference="none",
        options=("beta", "simpo_gamma", "label_smoothing"),
        trl="CPOTrainer simpo",
        trl_difference="TRL's CPOConfig adds an NLL term of weight cpo_alpha, 1 unless set to 0; SimPO"
        " has none and neither has ours. The sum is loss_type [simpo, sft].",
        length_rule="mean",
        soft_labels=True,
        offsets=True,
        default_beta=2.0,
        usual_beta=(1.0, 10.0),
    ),
    Objective(
        name="alphapo",
        title="AlphaPO",
        equation="simpo with (1 - e^(-a p / n)) / a in place of p / n,   a = alphapo_alpha",
        source="2501.03884",
        purpose="SimPO with a bent reward: a > 0 pulls unlikely texts up harder, against likelihood"
        " displacement.",
        evidence="Its paper reports 7 to 10 % relative over SimPO for Mistral-7B and Llama-3-8B instruct"
        " models.",
        loss=alphapo,
        reads="pairs",
        reference="none",
        options=("beta", "simpo_gamma", "alphapo_alpha", "label_smoothing"),
        trl="CPOTrainer alphapo",
        trl_difference="TRL's key is alpha and its default 0, which is SimPO; ours is alphapo_alpha, 0.25"
        " as in the paper. Exponents stop at 40.",
        length_rule="mean",
        soft_labels=True,
        offsets=True,
        default_beta=2.5,
        usual_beta=(1.0, 10.0),
    ),
    Objective(
        name="orpo",
        title="ORPO: odds ratio preference optimisation",
        equation="-p_w per chosen token  +  beta -log sigma(o_w - o_l) per pair,   o = p / n - log(1 -"
        " e^(p / n))",
        source="2403.07691 Eqs. 4 and 7; beta is its lambda",
        purpose="Supervised tuning and preferences in one pass from a base model, without a reference.",
        evidence="Its paper takes 0.1 to 0.25; tuned on UltraFeedback it ties with DPO (LC 10.7 against"
        " 11.4 at 3B, 28.3 against 26.8 at 8B, 2502.01237).",
        loss=orpo,
        reads="pairs",
        reference="none",
        options=("beta",),
        trl="ORPOTrainer",
        trl_difference="TRL takes the NLL over prompt and completion, and averages it per micro-batch;"
        " ours is over the completion, as for every objective here. 1 - p is held at one fp32 step.",
        length_rule="mean",
        units=("pairs", "chosen_tokens"),
        combines=False,
    ),
    Objective(
        name="cpo",
        title="CPO: contrastive preference optimisation",
        equation="(1 - e) -log sigma(x) + e -log sigma(-x) per pair  +  cpo_alpha -p_w per chosen token, "
        "  x = beta (p_w - p_l) - m",
        source="2401.08417 Eq. 3",
        purpose="DPO with a uniform reference, held in place by the NLL of the chosen text.",
        evidence="Proposed for translation; without the NLL it is the posterior objective (sigmoid,"
        " reference none), which made texts twice as long in 2407.13709.",
        loss=cpo,
        reads="pairs",
        reference="none",
        options=("beta", "cpo_alpha", "label_smoothing"),
        trl="CPOTrainer sigmoid",
        trl_difference="The NLL is divided by the tokens of the whole update, not per micro-batch.",
        units=("pairs", "chosen_tokens"),
        combines=False,
        soft_labels=True,
        offsets=True,
    ),
)
