"""The dial in a listable language: what mixing token by token gives, and what it should give.

Decode-time realignment (DeRa, arXiv 2402.02992) asks for the law over whole completions

    realigned(y)  =  policy(y)^d reference(y)^(1-d) / Z,

and a sampler mixes next-token distributions instead (`dialled`, what `tether generate --dial` draws from).
Both are exact here, over everything a sample of at most length + 1 tokens can be: listed, cut, stray (see
`exact`). They are one law for d = 0, d = 1 and completions of one token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.errors import UsageError
from tether.worlds.exact import Conditionals, exact
from tether.worlds.language import Language


@dataclass(frozen=True)
class DialGap:
    """What token-level dialling gives beside the law it approximates; means over prompts, KL in nats."""

    value: float
    token_reward: float
    token_kl: float
    """KL(dialled || reference)."""
    sequence_reward: float
    sequence_kl: float
    """KL(realigned || reference)."""
    gap: float
    """KL(dialled || realigned): 0 where the approximation is exact."""
    gap_back: float
    """KL(realigned || dialled)."""


def dialled(policy: Conditionals, reference: Conditionals, value: float) -> Conditionals:
    """Return policy^value * reference^(1 - value), renormalised after every prefix."""
    levels = [level.log_softmax(-1) for level in _mixed(policy, reference, value)]
    return Conditionals(tuple(levels), policy.words, policy.end)


def realigned(policy: Conditionals, reference: Conditionals, value: float) -> Conditionals:
    """Return the next-token distributions of policy(y)^value * reference(y)^(1 - value) / Z.

    Each is the mixture times the Z of what may follow, summed from the last word backwards.
    """
    levels: list[Tensor] = []
    following: Tensor | None = None
    for level in reversed(_mixed(policy, reference, value)):
        if following is not None:
            level[:, :, policy.words] += following.unflatten(1, (level.shape[1], len(policy.words)))
        following = level.logsumexp(-1)
        levels.append(level - following[:, :, None])
    return Conditionals(tuple(reversed(levels)), policy.words, policy.end)


def dial_gap(policy: Conditionals, reference: Conditionals, language: Language, value: float) -> DialGap:
    """Return exact reward and KL of both laws, and the KL between them."""
    token, sequence = dialled(policy, reference, value), realigned(policy, reference, value)
    ours, theirs = exact(token, reference, language), exact(sequence, reference, language)
    return DialGap(
        value=value,
        token_reward=ours.reward,
        token_kl=ours.kl,
        sequence_reward=theirs.reward,
        sequence_kl=theirs.kl,
        gap=exact(token, sequence, language).kl,
        gap_back=exact(sequence, token, language).kl,
    )


def _mixed(policy: Conditionals, reference: Conditionals, value: float) -> list[Tensor]:
    if policy.end != reference.end or not torch.equal(policy.words, reference.words):
        raise UsageError("dial: both tables must be of one language under one tokenizer")
    return [
        value * first + (1 - value) * second
        for first, second in zip(policy.levels, reference.levels, strict=True)
    ]
