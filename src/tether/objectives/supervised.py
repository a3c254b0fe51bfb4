"""Losses on the text itself: likelihood of the chosen, unlikelihood of the rejected."""

import torch

from tether.config.objective import ObjectiveOptions
from tether.objectives.objective import Objective
from tether.objectives.scores import log1mexp, pair_indices, policy_pairs, role_indices, token_values
from tether.records.tensors import LossInputs, LossOutput, LossTerm


def chosen_nll(inputs: LossInputs, weight: float = 1.0) -> LossTerm:
    """Return -log pi of every chosen text (or the only one), to be divided by their tokens."""
    texts = role_indices(inputs, "chosen", "completion")
    rows = inputs.group_of[texts]
    return LossTerm(-inputs.policy.sums[texts] * inputs.weights[rows], "chosen_tokens", weight)


def sft(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """Supervised fine-tuning: mean negative log-likelihood per token of the chosen text."""
    pairs = policy_pairs(inputs).per_token()
    return LossOutput((chosen_nll(inputs),), pairs.chosen, pairs.rejected)


def unlikelihood(inputs: LossInputs, options: ObjectiveOptions) -> LossOutput:
    """NLL of the chosen text plus -log(1 - p) per rejected token (1908.04319)."""
    _, rejected = pair_indices(inputs)
    tokens = token_values(inputs.policy, "policy", "unlikelihood")
    counts = inputs.policy.counts
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    sums = torch.zeros_like(inputs.policy.sums).index_add(0, owner, -log1mexp(tokens))
    values = sums[rejected] / counts[rejected].clamp(min=1) * inputs.weights[inputs.group_of[rejected]]
    pairs = policy_pairs(inputs).per_token()
    return LossOutput(
        (chosen_nll(inputs), LossTerm(values, "pairs", options.unlikelihood_alpha)),
        pairs.chosen,
        -values,
    )


ROWS = (
    Objective(
        name="sft",
        title="Supervised fine-tuning on the chosen text",
        equation="-p_w per chosen token",
        source="maximum likelihood; as an addend RPO, 2405.16436, and iterative RPO, 2404.19733",
        purpose="Teaches the texts themselves; beside a preference loss it keeps the chosen text likely.",
        evidence="As an anchor it raised GSM8K from 61.8 to 73.1 (2404.19733); alone it stays at a reward"
        " of about 0.62 on the DPO paper's sentiment task, where DPO reaches 0.98.",
        loss=sft,
        reads="chosen",
        reference="none",
        options=(),
        trl="sft",
        trl_difference="TRL averages per micro-batch; ours is divided by the tokens of the whole update.",
        units=("chosen_tokens",),
        length_rule="mean",
        default_beta=None,
        usual_beta=None,
    ),
    Objective(
        name="unlikelihood",
        title="Unlikelihood training",
        equation="-p_w per chosen token  +  unlikelihood_alpha mean over rejected tokens of -log(1 -"
        " e^p_t) per pair",
        source="1908.04319; as a baseline in 2305.18290",
        purpose="A baseline: raise the chosen text, push down each token of the rejected one.",
        evidence="On the DPO paper's sentiment task it reaches a reward of 0.77 at KL 4, DPO 0.98; left"
        " out of its dialogue tasks, as it repeats tokens.",
        loss=unlikelihood,
        reads="pairs",
        reference="none",
        options=("unlikelihood_alpha",),
        units=("chosen_tokens", "pairs"),
        combines=False,
        length_rule="mean",
        tokens=True,
        default_beta=None,
        usual_beta=None,
    ),
)
