"""DPO whose beta follows the data: one for the whole update (beta-DPO) or one for each pair (epsilon-DPO)."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.errors import UsageError
from tether.objectives.objective import Objective
from tether.objectives.scores import pair_indices, ratio_pairs
from tether.objectives.terms import difference, logistic, pair_output, soft
from tether.records.tensors import LossInputs, LossOutput

MOMENTUM = 0.9
"""How much of its running mean and deviation of margins beta-DPO keeps at each update (2407.08639)."""

LEAST_BETA = 1e-3
"""Below this beta-DPO's beta does not go, however small the margins (as its authors' code does)."""


def beta_dpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO with one beta per update, beta (1 + alpha (M - M0)), on the pairs nearest M0 (2407.08639 Eq. 7-9).

    M is the mean margin in nats of the pairs kept, M0 its running mean. Pairs are drawn without replacement
    with weights of a normal density around M0; the draw depends on the update's number alone. Values of the
    pairs kept are scaled up so that dividing by all pairs gives their mean.
    """
    pairs = ratio_pairs(inputs, options)
    margins = pairs.margin.detach()
    moments = _moments(inputs, margins) if inputs.training else inputs.state
    kept = _kept(inputs, options, margins, moments)
    mean = moments.get("beta_dpo_mean", 0.0)
    among = margins[kept > 0]
    gap = float(among.mean()) - mean if among.numel() > 0 else 0.0
    beta = max(options.beta * (1 + options.beta_dpo_alpha * gap), LEAST_BETA)
    values = kept * soft(logistic, difference(pairs, beta), pairs, options.label_smoothing)
    output = pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)
    return replace(output, beta=torch.full_like(margins, beta))


def epsilon_dpo(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """DPO with a beta per pair: beta / (1 + e), beta or beta / (1 - e) (2502.13177 Eq. 9-10).

    Looser where tilting the policy away from the reference separates the pair better and tilting it towards
    the reference separates it worse; tighter where it is the other way round.

    Raises:
        UsageError: the tilted log-probs are missing.

    """
    if inputs.tilted is None:
        raise UsageError("epsilon_dpo needs the reference as a live model; use reference self or model:PATH")
    pairs = ratio_pairs(inputs, options)
    chosen, rejected = pair_indices(inputs)
    now, away, towards = (
        (sums[chosen] - sums[rejected]).detach()
        for sums in (inputs.policy.sums, inputs.tilted.away, inputs.tilted.towards)
    )
    looser = (away > now) & (now > towards)
    tighter = (away < now) & (now < towards)
    step = looser.to(now.dtype) - tighter.to(now.dtype)
    beta = options.beta / (1 + options.epsilon_dpo_epsilon * step)
    x = beta * pairs.margin - pairs.margins
    values = soft(logistic, x, pairs, options.label_smoothing)
    output = pair_output(pairs, values, beta * pairs.chosen, beta * pairs.rejected)
    return replace(output, beta=beta)


def _moments(inputs: LossInputs, margins: Tensor) -> dict[str, float]:
    """Return the running mean and deviation with this update in them, and how many updates there were."""
    state = inputs.state
    if margins.numel() == 0:
        return dict(state)
    deviation = float(margins.double().std()) if margins.numel() > 1 else 0.0
    now = {"beta_dpo_mean": float(margins.double().mean()), "beta_dpo_deviation": deviation}
    moved = {name: MOMENTUM * state.get(name, 0.0) + (1 - MOMENTUM) * value for name, value in now.items()}
    return {**moved, "beta_dpo_updates": state.get("beta_dpo_updates", 0.0) + 1}


def _kept(
    inputs: LossInputs, options: ObjectiveOptions, margins: Tensor, moments: Mapping[str, float]
) -> Tensor:
    """Return n / kept for the pairs of this update that count, 0 for the others."""
    n = margins.numel()
    wanted = max(int(n * options.beta_dpo_keep), 1)
    if not inputs.training or wanted >= n:
        return torch.ones_like(margins)
    deviation = moments["beta_dpo_deviation"]
    log_weights = torch.zeros(n, dtype=torch.float64)
    if deviation > 0:
        log_weights = -0.5 * ((margins.double().cpu() - moments["beta_dpo_mean"]) / deviation) ** 2
    # The largest of log-weight plus Gumbel noise: a draw without replacement that no weight can starve.
    generator = torch.Generator().manual_seed(int(moments["beta_dpo_updates"]))
    noise = -torch.log(-torch.log(torch.rand(n, generator=generator, dtype=torch.float64).clamp(1e-300)))
    chosen = torch.topk(log_weights + noise, wanted).indices
    kept = torch.zeros(n, dtype=margins.dtype)
    kept[chosen] = n / wanted
    return kept.to(margins.device)


def _remember(inputs: LossInputs, options: ObjectiveOptions) -> dict[str, float]:
    return _moments(inputs, ratio_pairs(inputs, options).margin.detach())


def _ln2(options: ObjectiveOptions) -> float:
    return math.log(2)


ROWS = (
    Objective(
        name="beta_dpo",
        title="beta-DPO: one beta per update",
        equation="-log sigma(b (r_w - r_l)),   b = max(beta (1 + beta_dpo_alpha (M - M0)), 0.001),   M the"
        " update's mean margin, M0 its running mean",
        source="2407.08639 Eq. 7-9",
        purpose="Looser where pairs are hard to tell apart, tighter where margins are large; pairs far from"
        " the usual margin are left out of an update.",
        evidence="Its paper finds higher win rates than fixed beta on HH and TL;DR with Pythia; a later one"
        " (2502.13177) puts it 3 points above DPO and 3 below epsilon-DPO on AlpacaEval 2.",
        loss=beta_dpo,
        reads="pairs",
        reference="sum",
        options=("beta", "label_smoothing", "beta_dpo_alpha", "beta_dpo_keep"),
        zero_margin=_ln2,
        without_reference="its running margin would start from the policy's own log-probs, hundreds of nats,"
        " and carry beta with it",
        couples=True,
        soft_labels=True,
        offsets=True,
        advance=_remember,
    ),
    Objective(
        name="epsilon_dpo",
        title="epsilon-DPO: one beta per pair",
        equation="-log sigma(b (r_w - r_l)),   b = beta / (1 + e) where log pi(y_w) - log pi(y_l) rises as"
        " the policy is tilted away from the reference by e, beta / (1 - e) where it falls, else beta",
        source="2502.13177 Eq. 9-10",
        purpose="Chooses for each pair whether to hold it tighter or looser, from the two models' logits.",
        evidence="Its paper reports AlpacaEval 2 LC 46.4 against DPO's 40.3 with Llama-3-8B-Instruct, at"
        " one seed.",
        loss=epsilon_dpo,
        reads="pairs",
        reference="live",
        options=("beta", "label_smoothing", "epsilon_dpo_epsilon"),
        zero_margin=_ln2,
        without_reference="it tilts the policy towards and away from a reference",
        soft_labels=True,
        offsets=True,
        default_beta=0.01,
    ),
)
