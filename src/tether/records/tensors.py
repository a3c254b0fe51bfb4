"""Tensors that pass between stages.

Shape letters, used in every docstring of the project:

    G groups (prompts)     P pairs     S sequences (completions)     T tokens     V vocabulary

A `GroupBatch` is ragged and knows no layout: `policies/` turns it into padded, shared or packed model
inputs. Everything here is on the CPU unless a function says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class GroupBatch:
    """G prompts with S >= G completions; the completions of a group are neighbours, groups in order."""

    row_ids: tuple[str, ...]
    """G names, for messages."""
    prompt_ids: Int64[Tensor, " prompt_tokens"]
    """Token ids of all prompts, one after the other."""
    prompt_lengths: Int64[Tensor, " G"]
    completion_ids: Int64[Tensor, " T"]
    """Token ids of all completions, one after the other; each ends with its first stop token unless cut."""
    completion_lengths: Int64[Tensor, " S"]
    group_of: Int64[Tensor, " S"]
    """Index of the group each completion belongs to; never decreases."""
    roles: tuple[str, ...]
    """S roles (see `records.rows`)."""
    keys: tuple[str, ...]
    """S text keys: how the reference's value of a completion is looked up."""
    weights: Float[Tensor, " G"]
    margins: Float[Tensor, " G"]
    probabilities: Float[Tensor, " G"]
    scored: Bool[Tensor, " T"] | None = None
    """Which completion tokens are scored; None means all. The others are context (turns of others)."""

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def sequences(self) -> int:
        """S, the number of completions."""
        return len(self.roles)

    @property
    def scored_ids(self) -> Int64[Tensor, " N"]:
        """Token ids of the completions that are scored, one completion after the other."""
        return self.completion_ids if self.scored is None else self.completion_ids[self.scored]

    @property
    def scored_lengths(self) -> Int64[Tensor, " S"]:
        """How many tokens of each completion are scored."""
        if self.scored is None:
            return self.completion_lengths
        parts = self.scored.split(self.completion_lengths.tolist())
        return torch.stack([part.sum() for part in parts])

    def with_role(self, *names: str) -> Int64[Tensor, " n"]:
        """Return the sequence indices whose role is one of `names`, in order."""
        return torch.tensor([i for i, role in enumerate(self.roles) if role in names], dtype=torch.int64)

    @property
    def sizes(self) -> Int64[Tensor, " G"]:
        """How many completions each group has."""
        return torch.bincount(self.group_of, minlength=len(self))

    @property
    def group_lengths(self) -> Int64[Tensor, " G"]:
        """Tokens of each group: its prompt once, and all its completions."""
        return self.prompt_lengths.clone().index_add_(0, self.group_of, self.completion_lengths)

    def sequences_of(self, groups: Sequence[int]) -> Int64[Tensor, " m"]:
        """Return the sequence indices of these groups, group after group."""
        return places(self.sizes, torch.tensor(list(groups), dtype=torch.int64))

    def select(self, groups: Sequence[int]) -> "GroupBatch":
        """Return the batch of these groups, in this order."""
        index, sizes = torch.tensor(list(groups), dtype=torch.int64), self.sizes
        chosen = places(sizes, index)
        order = chosen.tolist()
        tokens = places(self.completion_lengths, chosen)
        return replace(
            self,
            row_ids=tuple(self.row_ids[group] for group in groups),
            prompt_ids=self.prompt_ids[places(self.prompt_lengths, index)],
            prompt_lengths=self.prompt_lengths[index],
            completion_ids=self.completion_ids[tokens],
            completion_lengths=self.completion_lengths[chosen],
            group_of=torch.arange(len(index)).repeat_interleave(sizes[index]),
            roles=tuple(self.roles[sequence] for sequence in order),
            keys=tuple(self.keys[sequence] for sequence in order),
            weights=self.weights[index],
            margins=self.margins[index],
            probabilities=self.probabilities[index],
            scored=None if self.scored is None else self.scored[tokens],
        )


def places(lengths: Int64[Tensor, " S"], index: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """Return where the elements of the pieces at `index` stand among S neighbours of these lengths."""
    index = index.to(lengths.device)
    kept = lengths[index]
    return starts_of(lengths)[index].repeat_interleave(kept) + within(kept)


def within(lengths: Int64[Tensor, " n"]) -> Int64[Tensor, " total"]:
    """Return 0, 1, ..., length - 1 for each length, one after the other."""
    count = torch.arange(int(lengths.sum()), device=lengths.device)
    return count - starts_of(lengths).repeat_interleave(lengths)


def starts_of(lengths: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return where each of n stretches begins when they stand one after the other."""
    return lengths.cumsum(0) - lengths


@dataclass(frozen=True)
class SequenceLogProbs:
    """Log-probs of S completions under one model, in nats, fp32.

    `tokens` holds the T per-token values one completion after the other (`counts` of them each), where they
    are known: a policy always has them, a reference table only when it was scored with `--token-values`.
    """

    sums: Float[Tensor, " S"]
    counts: Int64[Tensor, " S"]
    tokens: Float[Tensor, " T"] | None = None

    def __getitem__(self, index: Int64[Tensor, " n"]) -> "SequenceLogProbs":
        """Return the sequences at `index`; per-token values follow."""
        tokens = None
        if self.tokens is not None:
            tokens = self.tokens[places(self.counts, index)]
        return SequenceLogProbs(self.sums[index], self.counts[index], tokens)

    def detach(self) -> "SequenceLogProbs":
        """Return the same values without their graph."""
        return SequenceLogProbs(
            self.sums.detach(), self.counts, None if self.tokens is None else self.tokens.detach()
        )


@dataclass(frozen=True)
class Tilted:
    """Summed log-probs of S completions under the policy tilted a step away from, and towards, the reference.

    Token by token softmax((1 + e) z - e z_ref) for `away` and softmax((1 - e) z + e z_ref) for `towards`,
    z the logits of policy and reference (2502.13177): needs the reference as a live distribution.
    """

    away: Float[Tensor, " S"]
    towards: Float[Tensor, " S"]

    def __getitem__(self, index: Int64[Tensor, " n"]) -> "Tilted":
        """Return the sequences at `index`."""
        return Tilted(self.away[index], self.towards[index])


@dataclass(frozen=True)
class LossInputs:
    """What an objective sees: policy and reference log-probs of the same S completions, and who is who.

    `chosen` and `rejected` are sequence indices of the P pairs, in step. Objectives on single completions
    use `roles`. `reference` is None where the run has none; objectives that need one are refused before.
    """

    policy: SequenceLogProbs
    reference: SequenceLogProbs | None
    roles: tuple[str, ...]
    group_of: Int64[Tensor, " S"]
    chosen: Int64[Tensor, " P"]
    rejected: Int64[Tensor, " R"]
    """As many as chosen where rows are pairs; none where they are single completions."""
    weights: Float[Tensor, " G"]
    margins: Float[Tensor, " G"]
    probabilities: Float[Tensor, " G"]
    state: Mapping[str, float] = field(default_factory=dict[str, float])
    """What an objective remembers of earlier updates (running means); empty before the first."""
    training: bool = True
    """False where held-out rows are scored: the state then stands, and no row is filtered."""
    tilted: Tilted | None = None


@dataclass(frozen=True)
class LossTerm:
    """One addend of a loss: per-unit values and the unit whose global count divides their sum.

    `unit` is `pairs`, `sequences`, `tokens` (all completion tokens) or `chosen_tokens`; the training loop
    knows the count of each over the whole update and all processes, so micro-batches never change a loss.
    """

    values: Float[Tensor, " units"]
    unit: str
    weight: float = 1.0


@dataclass(frozen=True)
class LossOutput:
    """Terms of the loss, and the per-pair margins the loss used, for the `objective/*` metrics."""

    terms: tuple[LossTerm, ...]
    chosen: Float[Tensor, " P"]
    """What the objective treats as the chosen completion's score (`objective/chosen`)."""
    rejected: Float[Tensor, " P"]
    beta: Float[Tensor, " P"] | None = None
    """The beta of each pair, where the objective chooses it (`objective/beta`)."""
