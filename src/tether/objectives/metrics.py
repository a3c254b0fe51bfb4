"""What is reported about pairs: one value per pair, so that every mean is over pairs, whatever the batch.

rewards/*             beta x log-ratio sums, TRL's definition, whatever the objective is
objective/*           what the loss compared; objective/beta where it chooses beta itself
logps/*               summed log-probs of the policy, nats
logratios/*           log-ratios per completion token, nats
ties                  1 where the reward margin is within rounding; a tie counts one half in accuracies
policy_accuracy       1 where the policy itself gives the chosen text the higher log-prob
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.objectives.lists import rankings
from tether.objectives.scores import log_ratios, pair_indices, role_indices
from tether.objectives.table import compute
from tether.records.tensors import LossInputs

_FP32 = 2.0**-23


def pair_metrics(
    inputs: LossInputs, options: ObjectiveOptions, *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return per-pair vectors; for unpaired rows, vectors over desirable and over undesirable rows.

    `dtype` is what the model computed in; it sets how close two log-probs must be to be called equal.
    Ranked lists are reported as pairs of their best and worst completion. Without a reference its log-probs
    count as 0. All values are detached.
    """
    chosen, rejected = _ends(inputs)
    if chosen.numel() == 0:
        return _unpaired(inputs, options)
    policy, ratio = inputs.policy.sums.detach(), log_ratios(inputs).detach()
    counts = inputs.policy.counts.to(policy.dtype).clamp(min=1)
    tolerance = tie_tolerance(inputs, dtype)
    margin = ratio[chosen] - ratio[rejected]
    with torch.no_grad():
        output = compute(options, inputs)
    per_token = ratio / counts
    metrics = {
        "rewards/chosen": options.beta * ratio[chosen],
        "rewards/rejected": options.beta * ratio[rejected],
        "rewards/margins": options.beta * margin,
        "rewards/accuracies": _accuracy(margin, tolerance),
        "ties": (margin.abs() <= tolerance).to(margin.dtype),
        "policy_accuracy": _accuracy(policy[chosen] - policy[rejected], tolerance),
        "logps/chosen": policy[chosen],
        "logps/rejected": policy[rejected],
        "logratios/chosen": per_token[chosen],
        "logratios/rejected": per_token[rejected],
        "objective/chosen": output.chosen,
        "objective/rejected": output.rejected,
        "objective/margin": output.chosen - output.rejected,
    }
    if output.beta is not None:
        metrics["objective/beta"] = output.beta
    return metrics


def tie_tolerance(inputs: LossInputs, dtype: torch.dtype = torch.float32) -> Float[Tensor, " P"]:
    """Return per pair the margin, in nats, that rounding alone can make.

    Every token's log-prob carries an error of about one step of `dtype`, adding up like a random walk over
    the pair's tokens; the sums, and their differences, are rounded to fp32 once each.
    """
    chosen, rejected = _ends(inputs)
    tokens = (inputs.policy.counts[chosen] + inputs.policy.counts[rejected]).to(inputs.policy.sums.dtype)
    size = inputs.policy.sums.detach().abs()
    if inputs.reference is not None:
        size = size + inputs.reference.sums.abs()
    return torch.finfo(dtype).eps * tokens.sqrt() + _FP32 * (size[chosen] + size[rejected])


@dataclass(frozen=True)
class MarginDecomposition:
    """Where a mean margin comes from, in nats per token."""

    chosen_up: float
    """Mean log-ratio of the chosen texts; negative when they became less likely."""
    rejected_down: float
    """Minus the mean log-ratio of the rejected texts; negative when they became more likely."""
    chosen_share: float | None
    """chosen_up / (chosen_up + rejected_down); negative when the chosen texts fell. None without a margin."""
    both_fell: bool

    def explain(self) -> str:
        """Return one sentence for a person who watches the run."""
        per_token = f"({-self.chosen_up:.2g} and {self.rejected_down:.2g} nats per token)"
        if self.both_fell and self.rejected_down > -self.chosen_up:
            return (
                "Chosen and rejected texts both became less likely than under the reference, the rejected"
                f" ones more {per_token}: the margin comes from pushing rejected texts down, not from raising"
                " chosen ones. Common, and no bug; a larger beta, sft as an addend or dpop counter it."
            )
        if self.both_fell:
            return (
                "Chosen texts became less likely than under the reference and, per token, no less so than"
                f" rejected ones {per_token}: no margin is left. Lower the learning rate or raise beta."
            )
        if self.chosen_share is None:
            return "Per token, chosen and rejected texts moved alike: no margin yet."
        return (
            f"Per token, {100 * self.chosen_share:.0f} % of the margin comes from chosen texts becoming more"
            f" likely, {100 * (1 - self.chosen_share):.0f} % from rejected ones becoming less likely."
        )


def margin_decomposition(metrics: Mapping[str, float]) -> MarginDecomposition:
    """Split the mean margin per token between chosen texts going up and rejected ones going down.

    `metrics` holds the means of `logratios/chosen` and `logratios/rejected` over pairs.
    """
    up, down = metrics["logratios/chosen"], -metrics["logratios/rejected"]
    margin = up + down
    share = up / margin if margin > 0 else None
    return MarginDecomposition(up, down, share, up < 0 < down)


def _accuracy(margin: Float[Tensor, " P"], tolerance: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    won = (margin > 0).to(margin.dtype)
    return torch.where(margin.abs() <= tolerance, torch.full_like(margin, 0.5), won)


def _ends(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Return the indices of the pairs, or of best and worst completion of each ranked list."""
    chosen, rejected = pair_indices(inputs)
    if chosen.numel() or not any(role.startswith("rank-") for role in inputs.roles):
        return chosen, rejected
    lists = rankings(inputs)
    return torch.stack([order[0] for order in lists]), torch.stack([order[-1] for order in lists])


def _unpaired(inputs: LossInputs, options: ObjectiveOptions) -> dict[str, Tensor]:
    policy, ratio = inputs.policy.sums.detach(), log_ratios(inputs).detach()
    metrics: dict[str, Tensor] = {}
    for name, role in (("chosen", "desirable"), ("rejected", "undesirable")):
        rows = role_indices(inputs, role)
        if rows.numel():
            metrics[f"rewards/{name}"] = options.beta * ratio[rows]
            metrics[f"logps/{name}"] = policy[rows]
    mismatched = role_indices(inputs, "kl")
    if mismatched.numel():
        metrics["logratios/mismatched"] = ratio[mismatched]
    return metrics
