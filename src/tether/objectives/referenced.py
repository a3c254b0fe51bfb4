"""Losses on the difference of two log-ratios: the DPO family.

Each takes x = beta (r_w - r_l) - m, with m the row's margin; where soft labels are understood, a row whose
label holds with probability p costs p l(x) + (1 - p) l(-x).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.objectives.objective import Objective
from tether.objectives.scores import EXPONENT_LIMIT, policy_pairs, ratio_pairs
from tether.objectives.terms import difference, logistic, pair_output, soft
from tether.records.tensors import LossInputs, LossOutput


def sigmoid(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO (2305.18290 Eq. 7); with `label_smoothing` conservative DPO."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    values = soft(logistic, difference(pairs, beta), pairs, options.label_smoothing)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def robust(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO, unbiased when labels are flipped with probability `label_smoothing` (2403.00409)."""
    pairs, beta, e = ratio_pairs(inputs, options), options.beta, options.label_smoothing

    def unbiased(x: Tensor) -> Tensor:
        return ((1 - e) * logistic(x) - e * logistic(-x)) / (1 - 2 * e)

    values = soft(unbiased, difference(pairs, beta), pairs)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def ipo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Squared distance of the margin from 1 / (2 beta) (2310.12036 Eq. 17)."""
    pairs = ratio_pairs(inputs, options)
    if options.ipo_reduction == "mean":
        pairs = pairs.per_token()
    values = (pairs.margin - 1 / (2 * options.beta)) ** 2
    return pair_output(pairs, values, pairs.chosen, pairs.rejected)


def hinge(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Hinge on the margin (RSO, 2309.06657; without a reference SLiC-HF's, 2305.10425)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    values = soft(lambda x: torch.relu(1 - x), difference(pairs, beta), pairs)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def sigmoid_norm(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO on log-ratios per token (Tulu 3, 2411.15124)."""
    pairs, beta = ratio_pairs(inputs, options).per_token(), options.beta
    values = soft(logistic, difference(pairs, beta), pairs)
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def exo_pair(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Reverse KL from the policy's preference to the smoothed label (2402.00856 Eq. 16)."""
    pairs, beta, e = ratio_pairs(inputs, options), options.beta, options.label_smoothing
    x = beta * pairs.margin
    chosen_wins = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-e))
    rejected_wins = torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(e))
    return pair_output(pairs, chosen_wins + rejected_wins, beta * pairs.chosen, beta * pairs.rejected)


def discopop(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Blend of logistic and exponential loss that a language model proposed (2406.08414 Eq. 5)."""
    pairs, beta, tau = ratio_pairs(inputs, options), options.beta, options.discopop_tau
    x = beta * pairs.margin
    # sigma(x / tau) e^-x as one exponential: the two factors alone are 0 times infinity at x << 0.
    exponential = torch.exp(F.logsigmoid(x / tau) - x)
    values = logistic(x) * torch.sigmoid(-x / tau) + exponential
    return pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)


def dpop(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO with a penalty where the chosen text became less likely than under the reference (2402.13228)."""
    pairs, beta = ratio_pairs(inputs, options), options.beta
    chosen = pairs.chosen - options.dpop_lambda * torch.relu(-pairs.chosen)
    x = difference(pairs.with_scores(chosen, pairs.rejected), beta)
    return pair_output(pairs, soft(logistic, x, pairs), beta * chosen, beta * pairs.rejected)


def chi_po(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO with r replaced by e^r + r and the margin clipped to +-2R (2407.13399)."""
    pairs, beta, bound = ratio_pairs(inputs, options), options.beta, 2 * options.chi_po_rmax
    chosen = torch.exp(pairs.chosen.clamp(max=EXPONENT_LIMIT)) + pairs.chosen
    rejected = torch.exp(pairs.rejected.clamp(max=EXPONENT_LIMIT)) + pairs.rejected
    x = (beta * (chosen - rejected)).clamp(-bound, bound) - pairs.margins
    return pair_output(pairs, soft(logistic, x, pairs), beta * chosen, beta * rejected)


def hypo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO that follows the reference's margin only above `hypo_gamma` (2602.11902)."""
    policy, ratio, beta = policy_pairs(inputs), ratio_pairs(inputs, options), options.beta
    reference = policy.margin - ratio.margin
    trusted = policy.margin - reference.clamp(min=options.hypo_gamma)
    values = soft(logistic, beta * trusted - policy.margins, policy)
    rejected = beta * ratio.rejected
    return pair_output(policy, values, rejected + beta * trusted, rejected)


_F = ("f_divergence_type", "f_alpha_divergence_coef")
_PAIR = ("ld_alpha", "wpo_weighting")
_OVERFLOW = "Only with an f-divergence: exponents stop at 40 (TRL: at 80, or infinite)."


def _ln2(options: ObjectiveOptions) -> float:
    return math.log(2)


def _ipo_zero(options: ObjectiveOptions) -> float:
    return 1 / (2 * options.beta) ** 2


def _exo_zero(options: ObjectiveOptions) -> float:
    e = options.label_smoothing
    return math.log(0.5) - (math.log1p(-e) + math.log(e)) / 2


ROWS = (
    Objective(
        name="sigmoid",
        title="DPO; conservative DPO with label_smoothing e",
        equation="(1 - e) -log sigma(x) + e -log sigma(-x),   x = beta (r_w - r_l) - m",
        source="2305.18290 Eq. 7; smoothing: cDPO (Mitchell, note of 2023); offset m: ODPO, 2402.10571",
        purpose="The default: prefer the chosen text while a KL penalty of strength beta holds the policy"
        " to the reference.",
        evidence="Tuned over learning rate and beta it ties with IPO, SimPO and ORPO (2502.01237); its"
        " best beta there was 0.05 (TL;DR 3B), 0.01 (UltraFeedback 3B) and 0.003 (UltraFeedback 8B).",
        loss=sigmoid,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing", *_F, *_PAIR),
        trl="sigmoid",
        trl_difference="TRL ignores label_smoothing here; we honour it. At 0, the default, numbers are"
        f" equal. {_OVERFLOW}",
        zero_margin=_ln2,
        soft_labels=True,
        offsets=True,
        usual_beta=(0.001, 5.0),
    ),
    Objective(
        name="robust",
        title="rDPO: provably robust DPO",
        equation="[(1 - e) -log sigma(x) - e -log sigma(-x)] / (1 - 2e),   x = beta (r_w - r_l) - m",
        source="2403.00409",
        purpose="Unbiased when labels are flipped at random with the known probability label_smoothing.",
        evidence="Its paper and TRL recommend e = 0.1.",
        loss=robust,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing", *_F, *_PAIR),
        trl="robust",
        trl_difference=_OVERFLOW,
        zero_margin=_ln2,
        soft_labels=True,
        offsets=True,
    ),
    Objective(
        name="ipo",
        title="IPO: identity preference optimisation",
        equation="(r_w / n_w - r_l / n_l - 1 / (2 beta))^2;   ipo_reduction sum: (r_w - r_l - 1 / (2"
        " beta))^2",
        source="2310.12036 Eq. 17 (sum)",
        purpose="Stops at a finite margin instead of pushing for ever, so near-deterministic labels do"
        " not over-fit; beta is the paper's tau.",
        evidence="Tuned, it ties with DPO (2502.01237); the mildest over-optimisation of the three losses"
        " compared in 2406.02900.",
        loss=ipo,
        reads="pairs",
        reference="sum",
        options=("beta", "ipo_reduction", *_F, *_PAIR),
        trl="ipo",
        trl_difference="None with ipo_reduction mean, the default; the paper's form is ipo_reduction sum,"
        f" as in OpenRLHF and the DPO authors' code. {_OVERFLOW}",
        zero_margin=_ipo_zero,
        length_rule="mean",
        usual_beta=(0.001, 1.0),
    ),
    Objective(
        name="hinge",
        title="Hinge loss on the margin (RSO; SLiC-HF without a reference)",
        equation="max(0, 1 - x),   x = beta (r_w - r_l) - m",
        source="2309.06657; SLiC-HF: 2305.10425",
        purpose="Leaves a pair alone once its margin reaches 1 / beta.",
        evidence="Proposed with rejection-sampled pairs; no comparison with both sides tuned is known to us.",
        loss=hinge,
        reads="pairs",
        reference="sum",
        options=("beta", *_F, *_PAIR),
        trl="hinge",
        trl_difference=_OVERFLOW,
        zero_margin=lambda options: 1.0,
        soft_labels=True,
        offsets=True,
    ),
    Objective(
        name="sigmoid_norm",
        title="Length-normalised DPO",
        equation="-log sigma(x),   x = beta (r_w / n_w - r_l / n_l) - m",
        source="2411.15124 (Tulu 3)",
        purpose="DPO on log-ratios per token, so that longer texts do not count more; beta is larger,"
        " about 5.",
        evidence="Chosen for Tulu 3 among the preference losses tried there (beta 5, learning rate 5e-7).",
        loss=sigmoid_norm,
        reads="pairs",
        reference="sum",
        options=("beta", *_F, *_PAIR),
        trl="sigmoid_norm",
        trl_difference=_OVERFLOW,
        zero_margin=_ln2,
        length_rule="mean",
        soft_labels=True,
        offsets=True,
        default_beta=5.0,
        usual_beta=(1.0, 10.0),
    ),
    Objective(
        name="exo_pair",
        title="EXO for pairs",
        equation="q log(q / (1 - e)) + (1 - q) log((1 - q) / e),   q = sigma(beta (r_w - r_l))",
        source="2402.00856 Eq. 16",
        purpose="Reverse KL to the smoothed label: seeks a mode where DPO, a forward KL, covers all.",
        evidence="Its paper takes e = 0.001; no comparison with both sides tuned is known to us.",
        loss=exo_pair,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing", *_F, *_PAIR),
        trl="exo_pair",
        trl_difference=_OVERFLOW,
        zero_margin=_exo_zero,
    ),
    Objective(
        name="discopop",
        title="DiscoPOP: log-ratio modulated loss",
        equation="(1 - s) -log sigma(x) + s e^-x,   x = beta (r_w - r_l),   s = sigma(x / discopop_tau)",
        source="2406.08414 Eq. 5",
        purpose="A loss found by letting a language model propose and test loss functions.",
        evidence="The best of the losses its paper searched, at tau 0.05; it is not convex: at that tau"
        " its slope has the wrong sign between x = -0.12 and 0.07, zero margin included.",
        loss=discopop,
        reads="pairs",
        reference="sum",
        options=("beta", "discopop_tau", *_F, *_PAIR),
        trl="discopop",
        trl_difference="Far below zero margin TRL's product is 0 times infinity; ours is finite."
        f" {_OVERFLOW}",
        zero_margin=lambda options: (math.log(2) + 1) / 2,
    ),
    Objective(
        name="dpop",
        title="DPOP: DPO-Positive (Smaug)",
        equation="-log sigma(x),   x = beta (r_w - dpop_lambda max(0, -r_w) - r_l) - m",
        source="2402.13228",
        purpose="Keeps the chosen text at least as likely as under the reference: against likelihood"
        " displacement.",
        evidence="Found better than DPO where chosen and rejected differ in few characters (maths); the"
        " paper uses beta 0.3 and lambda 50.",
        loss=dpop,
        reads="pairs",
        reference="sum",
        options=("beta", "dpop_lambda", *_PAIR),
        zero_margin=_ln2,
        without_reference="its penalty compares the chosen text with the reference, so every text would"
        " be penalised",
        soft_labels=True,
        offsets=True,
        default_beta=0.3,
    ),
    Objective(
        name="chi_po",
        title="Chi-PO: DPO under a chi-squared divergence",
        equation="-log sigma(clip(beta (f_w - f_l), -2R, 2R) - m),   f = e^r + r,   R = chi_po_rmax",
        source="2407.13399",
        purpose="Pays e^r for leaving what the reference covers: against over-optimisation at small beta.",
        evidence="On TL;DR with Pythia 2.8B and beta 0.005, DPO's win rate fell to 0.5 % in four epochs;"
        " its paper finds chi-PO better and more stable there.",
        loss=chi_po,
        reads="pairs",
        reference="sum",
        options=("beta", "chi_po_rmax"),
        zero_margin=_ln2,
        without_reference="e^r of a whole text's probability is 0, which leaves plain sigmoid",
        soft_labels=True,
        offsets=True,
        usual_beta=(0.001, 0.5),
    ),
    Objective(
        name="hypo",
        title="HyPO: the reference's margin, floored",
        equation="-log sigma(x),   x = beta (d - max(d_ref, hypo_gamma)) - m",
        source="2602.11902",
        purpose="Does not let a reference that prefers the rejected text count a pair as already won.",
        evidence="About 45 % of its paper's pairs have d_ref below 0; reported AlpacaEval 2 LC 22.6 (DPO) to"
        " 27.3.",
        loss=hypo,
        reads="pairs",
        reference="sum",
        options=("beta", "hypo_gamma"),
        without_reference="without a reference it is sigmoid",
        soft_labels=True,
        offsets=True,
    ),
)
