"""Exact quantities of a model in a listable language, by walking the tree of all prefixes.

`conditionals` asks the model for its next-token distribution after every sequence of up to `length` words;
everything else is arithmetic on two such tables in fp64. What is measured is the model sampled at temperature
1, without filters, for at most length + 1 tokens. Such a sample is one of

    listed   at most `length` words, then the end token: the N sequences of the language
    cut      length + 1 words and no end token
    stray    a token that is neither a word of the language nor the end token, read no further

and the three shares sum to 1. KL and entropy are those of the whole distribution up to the stray token.
Shape letters here: P prompts, W words, V vocabulary, N listed sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tether.worlds.language import Language

ROWS = 8192
"""Prefixes evaluated at once; bounds memory, not results."""


@dataclass(frozen=True)
class Conditionals:
    """A model's next-token log-probs, fp64: `levels[k]` is [P, W^k, V], after every sequence of k words."""

    levels: tuple[Tensor, ...]
    words: Tensor
    """[W] token ids of the words, in the language's order."""
    end: int


@dataclass(frozen=True)
class Exact:
    """Exact expectations over samples of at most length + 1 tokens; means over prompts, each also per prompt.

    `log_probs` [P, N] are the listed sequences' log-probs, end token included.
    """

    reward: float
    kl: float
    """KL(policy || reference), nats per sequence."""
    entropy: float
    """Entropy of the whole completion, nats."""
    words: float
    """Mean number of words."""
    tokens: float
    """Mean number of tokens sampled, end token included."""
    end_rate: float
    """Share of listed sequences: those that end by themselves."""
    cut: float
    stray: float
    fluent: float
    """Share of sequences with no illegal bigram that end by themselves."""
    win_rate: float
    """Probability that a policy sample has more reward than a reference sample (tie: 1/2), both listed."""
    reward_by_prompt: tuple[float, ...]
    kl_by_prompt: tuple[float, ...]
    log_probs: Tensor


@torch.no_grad()
def conditionals(
    model: Any, tokenizer: Any, language: Language, prompts: Sequence[Sequence[int]]
) -> Conditionals:
    """Evaluate the model after every prefix of the language; `prompts` are the P generation prompts' ids.

    The model is used as it is: put it in eval mode first.
    """
    words = torch.tensor(tokenizer.convert_tokens_to_ids(list(language.words)))
    per_prompt = [_walk(model, torch.tensor(list(prompt)), words, language.length) for prompt in prompts]
    levels = tuple(torch.stack(level) for level in zip(*per_prompt, strict=True))
    return Conditionals(levels, words, int(tokenizer.eos_token_id))


Cached = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer: [rows, heads, tokens, width]."""


def _walk(model: Any, prompt: Tensor, words: Tensor, depth: int) -> list[Tensor]:
    level, cached = _step(model, prompt[None], [])
    levels = [level]
    for _ in range(depth):
        parents = torch.arange(len(levels[-1])).repeat_interleave(len(words))
        tokens = words.repeat(len(levels[-1]))[:, None]
        chunks = [
            _step(model, tokens[rows], [(key[parents[rows]], value[parents[rows]]) for key, value in cached])
            for rows in (slice(start, start + ROWS) for start in range(0, len(parents), ROWS))
        ]
        levels.append(torch.cat([level for level, _ in chunks]))
        if len(levels) <= depth:
            cached = [
                (torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer]))
                for layer in zip(*(cached for _, cached in chunks), strict=True)
            ]
        del chunks
    return levels


def _step(model: Any, tokens: Tensor, cached: Cached) -> tuple[Tensor, Cached]:
    cache: Any = DynamicCache()
    for index, (key, value) in enumerate(cached):
        cache.update(key, value, index)
    logits = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    level = torch.log_softmax(logits[:, -1].double(), dim=-1)
    return level, [(layer.keys, layer.values) for layer in cache.layers]


def prefix_log_probs(table: Conditionals) -> list[Tensor]:
    """Return log-probs of all prefixes: [P, W^k] for k = 0 ... length + 1 words, without an end token."""
    prefixes = [table.levels[0].new_zeros(len(table.levels[0]), 1)]
    for level in table.levels:
        prefixes.append((prefixes[-1][:, :, None] + level[:, :, table.words]).flatten(1))
    return prefixes


def listed_log_probs(table: Conditionals) -> Tensor:
    """Return log-probs [P, N] of every listed sequence with its end token, in the language's order."""
    prefixes = prefix_log_probs(table)
    return torch.cat(
        [before + level[:, :, table.end] for before, level in zip(prefixes, table.levels, strict=False)],
        dim=1,
    )


def exact(policy: Conditionals, reference: Conditionals, language: Language) -> Exact:
    """Return the policy's exact reward, KL to the reference, entropy, lengths and win rate."""
    prefixes = [p.exp() for p in prefix_log_probs(policy)]
    listed = listed_log_probs(policy)
    shares = listed.exp()
    rewards = torch.from_numpy(language.rewards)
    counts = torch.from_numpy(language.counts).double()
    reward, words = (shares * rewards).sum(1), (shares * counts).sum(1)
    kl, entropy, tokens, stray = (reward.new_zeros(len(reward)) for _ in range(4))
    usual = torch.zeros(policy.levels[0].shape[-1], dtype=torch.bool)
    usual[policy.words] = True
    usual[policy.end] = True
    for count, (alive, level, other) in enumerate(
        zip(prefixes, policy.levels, reference.levels, strict=False)
    ):
        step = level.exp()
        kl += (alive * (step * (level - other)).sum(-1)).sum(1)
        entropy -= (alive * (step * level).sum(-1)).sum(1)
        tokens += alive.sum(1)
        lost = alive * step[:, :, ~usual].sum(-1)
        worth, illegal = (torch.from_numpy(table) for table in language.level(count))
        score = worth - language.illegal_weight * (illegal + 1) - language.length_penalty(count + 1)
        reward += (lost * score).sum(1)
        words += lost.sum(1) * (count + 1)
        stray += lost.sum(1)
    over = language.length + 1
    worth, illegal = (torch.from_numpy(table) for table in language.level(over))
    reward += (
        prefixes[-1] * (worth - language.illegal_weight * illegal - language.length_penalty(over))
    ).sum(1)
    words += prefixes[-1].sum(1) * over
    return Exact(
        reward=_mean(reward),
        kl=_mean(kl),
        entropy=_mean(entropy),
        words=_mean(words),
        tokens=_mean(tokens),
        end_rate=_mean(shares.sum(1)),
        cut=_mean(prefixes[-1].sum(1)),
        stray=_mean(stray),
        fluent=_mean((shares * torch.from_numpy(language.fluent)).sum(1)),
        win_rate=_mean(win_rate(listed, listed_log_probs(reference), rewards)),
        reward_by_prompt=tuple(reward.tolist()),
        kl_by_prompt=tuple(kl.tolist()),
        log_probs=listed,
    )


def win_rate(policy: Tensor, reference: Tensor, rewards: Tensor) -> Tensor:
    """Return P(r(y) > r(y')) + P(r(y) = r(y')) / 2 per prompt, y from the policy, y' from the reference.

    All three are [P, N], the first two log-probs, normalised here over the listed sequences. Rewards closer
    than 1e-9 are equal: sums of the same words in another order are.
    """
    mine, theirs = torch.softmax(policy, dim=1), torch.softmax(reference, dim=1)
    found: list[Tensor] = []
    for p, q, r in zip(mine, theirs, rewards, strict=True):
        _, group = torch.unique((r * 1e9).round(), return_inverse=True)
        size = int(group.max()) + 1
        mass = torch.zeros(size, dtype=q.dtype).index_add(0, group, q)
        below = mass.cumsum(0) - mass
        found.append((p * (below + 0.5 * mass)[group]).sum())
    return torch.stack(found)


@dataclass(frozen=True)
class Optimum:
    """pi_ref(y) exp(r(y) / beta) / Z over the listed sequences: the best any policy can do at this beta.

    The reference is normalised over the listed sequences first. Means over prompts.
    """

    beta: float
    reward: float
    kl: float
    entropy: float
    words: float
    fluent: float
    win_rate: float
    objective: float
    """reward - beta x kl, which equals beta x mean log Z: no distribution has more."""
    log_z: tuple[float, ...]
    """Per prompt, log of sum over y of pi_ref(y) exp(r(y) / beta)."""
    log_probs: Tensor
    """[P, N]"""


def optimum(reference: Conditionals, language: Language, beta: float) -> Optimum:
    """Return the exact optimum of E[r] - beta KL(pi || reference): DPO (arXiv 2305.18290) eq. 4."""
    rewards = torch.from_numpy(language.rewards)
    start = torch.log_softmax(listed_log_probs(reference), dim=1)
    tilted = start + rewards / beta
    log_z = torch.logsumexp(tilted, dim=1)
    best = tilted - log_z[:, None]
    shares = best.exp()
    reward, kl = _mean((shares * rewards).sum(1)), _mean((shares * (best - start)).sum(1))
    return Optimum(
        beta=beta,
        reward=reward,
        kl=kl,
        entropy=_mean(-(shares * best).sum(1)),
        words=_mean((shares * torch.from_numpy(language.counts)).sum(1)),
        fluent=_mean((shares * torch.from_numpy(language.fluent)).sum(1)),
        win_rate=_mean(win_rate(best, start, rewards)),
        objective=reward - beta * kl,
        log_z=tuple(log_z.tolist()),
        log_probs=best,
    )


def _mean(values: Tensor) -> float:
    return float(values.mean())
