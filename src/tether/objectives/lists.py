"""Losses on ranked lists of completions: Plackett-Luce."""

import torch
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.errors import UsageError
from tether.objectives.objective import Objective
from tether.objectives.scores import log_ratios
from tether.records.tensors import LossInputs, LossOutput, LossTerm


def plackett_luce(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Likelihood of a whole ranking under the implicit rewards (2305.18290 App. A.3); K = 2 is `sigmoid`."""
    reward = options.beta * log_ratios(inputs)
    lists = rankings(inputs)
    values = [_surprise(reward[members]) for members in lists]
    rows = inputs.group_of[torch.stack([members[0] for members in lists])] if lists else inputs.group_of[:0]
    value = torch.stack(values) if values else reward.new_zeros(0)
    best = torch.stack([reward[members[0]] for members in lists]) if lists else value
    worst = torch.stack([reward[members[-1]] for members in lists]) if lists else value
    return LossOutput((LossTerm(value * inputs.weights[rows], "pairs"),), best, worst)


def rankings(inputs: LossInputs) -> list[Tensor]:
    """Return, per group that is ranked, its sequence indices best first.

    Raises:
        UsageError: a group holds fewer than two ranks, or a rank twice.

    """
    members: dict[int, list[tuple[int, int]]] = {}
    for index, (role, group) in enumerate(zip(inputs.roles, inputs.group_of.tolist(), strict=True)):
        if role.startswith("rank-"):
            members.setdefault(group, []).append((int(role.removeprefix("rank-")), index))
    for group, found in members.items():
        ranks = [rank for rank, _ in found]
        if len(ranks) < 2 or len(set(ranks)) != len(ranks):
            raise UsageError(
                f"plackett_luce needs at least two different ranks a row; row {group} has {ranks}"
            )
    device = inputs.policy.sums.device
    return [
        torch.tensor([index for _, index in sorted(found)], dtype=torch.int64, device=device)
        for found in members.values()
    ]


def _surprise(scores: Tensor) -> Tensor:
    return (torch.logcumsumexp(scores.flip(0), 0).flip(0) - scores).sum()


ROWS = (
    Objective(
        name="plackett_luce",
        title="Plackett-Luce DPO for ranked lists",
        equation="sum over ranks k of [log sum_{j >= k} e^(beta r_j) - beta r_k]",
        source="2305.18290 App. A.3",
        purpose="For K completions ranked best to worst; two completions give sigmoid exactly.",
        evidence="Derived in the DPO paper, not tried there.",
        loss=plackett_luce,
        reads="list",
        reference="sum",
        options=("beta",),
    ),
)
