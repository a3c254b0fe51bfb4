"""Small batches of log-probs, built by hand or at random, for the tests of objectives."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tether.config.objective import ObjectiveOptions
from tether.objectives import OBJECTIVES, compute
from tether.records.tensors import LossInputs, LossOutput, SequenceLogProbs, Tilted

Side = tuple[float, ...] | list[float]


def log_probs(texts: Sequence[Sequence[float]]) -> SequenceLogProbs:
    tokens = torch.tensor([value for text in texts for value in text], dtype=torch.float32)
    counts = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    return from_tokens(tokens, counts)


def from_tokens(tokens: torch.Tensor, counts: torch.Tensor) -> SequenceLogProbs:
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), dtype=tokens.dtype).index_add(0, owner, tokens)
    return SequenceLogProbs(sums, counts, tokens)


def rows(
    roles: Sequence[str],
    group_of: Sequence[int],
    policy: SequenceLogProbs,
    reference: SequenceLogProbs | None,
    *,
    weights: Sequence[float] | None = None,
    margins: Sequence[float] | None = None,
    probabilities: Sequence[float] | None = None,
) -> LossInputs:
    groups = max(group_of) + 1 if group_of else 0

    def of(values: Sequence[float] | None, default: float) -> torch.Tensor:
        return torch.tensor(list(values or [default] * groups), dtype=torch.float32)

    def with_role(*names: str) -> torch.Tensor:
        return torch.tensor([i for i, role in enumerate(roles) if role in names], dtype=torch.int64)

    return LossInputs(
        policy=policy,
        reference=reference,
        roles=tuple(roles),
        group_of=torch.tensor(list(group_of), dtype=torch.int64),
        chosen=with_role("chosen", "completion"),
        rejected=with_role("rejected"),
        weights=of(weights, 1.0),
        margins=of(margins, 0.0),
        probabilities=of(probabilities, 1.0),
        tilted=Tilted(policy.sums, policy.sums),
    )


def pairs(
    policy: Sequence[tuple[Side, Side]],
    reference: Sequence[tuple[Side, Side]] | None = None,
    **extra: Sequence[float],
) -> LossInputs:
    """Pairs from per-token log-probs: one (chosen, rejected) each."""
    flat = [text for pair in policy for text in pair]
    other = None if reference is None else log_probs([text for pair in reference for text in pair])
    roles = ["chosen", "rejected"] * len(policy)
    group_of = [i for i in range(len(policy)) for _ in range(2)]
    return rows(roles, group_of, log_probs(flat), other, **extra)


def one_pair(
    chosen: float,
    rejected: float,
    ref_chosen: float = 0.0,
    ref_rejected: float = 0.0,
    **extra: Sequence[float],
) -> LossInputs:
    """One pair of one-token texts, so that sums, means and tokens are the same numbers."""
    return pairs([([chosen], [rejected])], [([ref_chosen], [ref_rejected])], **extra)


def kind(name: str) -> tuple[list[str], list[int]]:
    """Roles and groups of a small update this objective can read."""
    reads = OBJECTIVES[name].reads
    if reads == "unpaired":
        good = [
            "desirable",
            "kl",
            "undesirable",
            "kl",
            "desirable",
            "kl",
            "undesirable",
            "kl",
            "desirable",
            "kl",
        ]
        return good, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    if reads == "list":
        return ["rank-0", "rank-1", "rank-2", "rank-0", "rank-1"] * 2, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    return ["chosen", "rejected"] * 5, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def random_rows(name: str, seed: int = 0, *, spread: float = 0.3) -> LossInputs:
    """Random texts of 1 to 6 tokens; the policy is the reference plus noise of `spread` a token."""
    generator = torch.Generator().manual_seed(seed)
    roles, group_of = kind(name)
    counts = torch.randint(1, 7, (len(roles),), generator=generator)
    total = int(counts.sum())
    reference = -torch.rand(total, generator=generator) * 3 - 0.2
    noise = torch.randn(total, generator=generator) * spread
    policy = (reference + noise).clamp(max=-0.01)
    inputs = rows(roles, group_of, from_tokens(policy, counts), from_tokens(reference, counts))
    moved = torch.randn((2, len(roles)), generator=generator) * 0.1
    sums = inputs.policy.sums
    return replace(inputs, tilted=Tilted(sums + moved[0], sums + moved[1]))


def options_for(name: str, **extra: object) -> ObjectiveOptions:
    values: dict[str, object] = {"loss_type": name, **extra}
    if name == "exo_pair":
        values.setdefault("label_smoothing", 0.001)
    if name == "beta_dpo":
        # All pairs, so that general promises about rows can be stated; the draw has tests of its own.
        values.setdefault("beta_dpo_keep", 1.0)
        # Gentle, so that random margins of several nats do not put beta on its floor.
        values.setdefault("beta_dpo_alpha", 0.1)
    return ObjectiveOptions.model_validate(values)


def counts_of(inputs: LossInputs) -> dict[str, int]:
    chosen = [i for i, role in enumerate(inputs.roles) if role in ("chosen", "completion")]
    return {
        "pairs": len(inputs.weights),
        "sequences": len(inputs.roles),
        "tokens": int(inputs.policy.counts.sum()),
        "chosen_tokens": int(inputs.policy.counts[chosen].sum()),
    }


def total(output: LossOutput, counts: dict[str, int]) -> torch.Tensor:
    value = torch.zeros((), dtype=torch.float32)
    for term in output.terms:
        value = value + term.weight * term.values.sum() / max(counts[term.unit], 1)
    return value


def loss_of(options: ObjectiveOptions, inputs: LossInputs) -> torch.Tensor:
    return total(compute(options, inputs), counts_of(inputs))
