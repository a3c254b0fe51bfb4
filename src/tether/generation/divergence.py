"""How far two models are apart along given completions: the whole next-token distribution at every position.

Teacher-forced reading with a cache, a piece of the sequence at a time, so that no tensor of
[sequences, tokens, vocabulary] exists beyond one piece. Prompts are padded on the left and completions on the
right, so all completions of a batch begin in one column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tether.errors import ModelError
from tether.generation.streams import Dial, Dialled, Most, Source, evaluating, left_padded, vocabulary_size
from tether.records.results import LARGE

PIECE = 2**22
"""Scores per model held at once (fp32: 16 MiB); a piece of a sequence is as long as this allows."""

SHORTEST = 8
"""Tokens a piece has at least: with a huge vocabulary, reading token by token would cost more than memory."""


@dataclass(frozen=True)
class Along:
    """Sums over the tokens of each of S completions, in nats."""

    entropy: Float64[Tensor, " S"]
    """Entropy of the policy's next-token distribution."""
    logprob: Float64[Tensor, " S"]
    """Log-prob of the completion under the policy."""
    kl: dict[str, Float64[Tensor, " S"]]
    """KL(policy || other) of the next-token distributions, per other model."""
    log_ratio: dict[str, Float64[Tensor, " S"]]
    """log policy - log other of the completion itself."""
    large: dict[str, Float64[Tensor, " S"]]
    """Tokens of the completion with |log policy - log other| above `LARGE`."""


def divergence(
    policy: Source,
    others: Mapping[str, Source],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int = 0,
    batch_size: int = 16,
    dial: Dial | None = None,
    piece: int | None = None,
    most: Most = int,
) -> Along:
    """Compare the policy with other models along completions; with a dial, the dialled distribution.

    Where embeddings differ in size (one padded further than the other), both distributions are taken over the
    ids both have and renormalised. Equal models give exactly 0: they are read alike, or one of them only.
    Of models in shards every process compares as many completions, and passes its `most`.

    Raises:
        ModelError: a completion holds an id another model has no row for, or a model rules out (probability
            exactly 0) a token the policy can write: the KL is infinite.

    """
    count = len(completions)
    names = ["", *others]
    entropy, logprob = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    kl = {name: torch.zeros(count, dtype=torch.float64) for name in others}
    ratio = {name: torch.zeros(count, dtype=torch.float64) for name in others}
    large = {name: torch.zeros(count, dtype=torch.float64) for name in others}
    _check_ids(others, completions)
    models = [policy.model, *(s.model for s in others.values()), *([dial.reference.model] if dial else [])]
    order = sorted(range(count), key=lambda i: -(len(prompts[i]) + len(completions[i])))
    with evaluating(*models):
        for start in range(0, count, batch_size):
            rows = order[start : start + batch_size]
            plain = dial is None or dial.value == 1
            readers: dict[str, Dialled] = {"": Dialled(policy, dial)}
            for name, other in others.items():
                # The same model in the same context needs no second reading.
                if not (plain and other.same(policy)):
                    readers[name] = Dialled(other)
            width = most(max(len(completions[i]) for i in rows))
            batch = _Batch([prompts[i] for i in rows], [completions[i] for i in rows], pad_id, width)
            per_token = max(vocabulary_size(model) for model in models) * len(rows)
            room = piece or max(PIECE, SHORTEST * per_token)
            step = batch.width if any(r.recurrent for r in readers.values()) else max(1, room // per_token)
            index = torch.tensor(rows)
            for first in range(0, batch.width, step):
                logs = {n: batch.read(reader, first, step).log_softmax(-1) for n, reader in readers.items()}
                targets, mask = batch.targets(first, step)
                for name in names:
                    sums = _compare(logs[""], logs.get(name, logs[""]), targets, mask)
                    if name:
                        kl[name][index] += sums[2]
                        ratio[name][index] += sums[3]
                        large[name][index] += sums[4]
                    else:
                        entropy[index] += sums[0]
                        logprob[index] += sums[1]
    for name, values in kl.items():
        if not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"KL(policy || {name}) is infinite: {name} rules out a token the policy can write"
            )
    return Along(entropy, logprob, kl, ratio, large)


def _check_ids(others: Mapping[str, Source], completions: Sequence[Sequence[int]]) -> None:
    largest = max((max(ids) for ids in completions if ids), default=0)
    for name, other in others.items():
        if largest >= (rows := vocabulary_size(other.model)):
            raise ModelError(f"{name}: a sample holds token id {largest} and its embedding has {rows} rows")


class _Batch:
    """Left-padded prompts, right-padded completions: column `start` holds every first completion token."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int, width: int
    ) -> None:
        ids, mask = left_padded(prompts, pad_id)
        self.start = ids.shape[1]
        self.width = width
        tail = torch.full((len(completions), self.width), pad_id, dtype=torch.int64)
        self._kept = torch.zeros_like(tail)
        for row, completion in enumerate(completions):
            tail[row, : len(completion)] = torch.tensor(list(completion), dtype=torch.int64)
            self._kept[row, : len(completion)] = 1
        self._ids = torch.cat([ids, tail], dim=1)
        self._mask = torch.cat([mask, self._kept], dim=1)

    def read(self, reader: Dialled, first: int, step: int) -> Float[Tensor, "B n V"]:
        """Return the scores that predict completion tokens first ... first + step - 1."""
        last = min(first + step, self.width)
        begin = 0 if first == 0 else self.start + first - 1
        end = self.start + last - 1
        return reader.read(self._ids[:, begin:end], self._mask[:, :end], last - first)

    def targets(self, first: int, step: int) -> tuple[Int64[Tensor, "B n"], Int64[Tensor, "B n"]]:
        """Return those tokens and which of them are real."""
        last = min(first + step, self.width)
        return self._ids[:, self.start + first : self.start + last], self._kept[:, first:last]


def _compare(
    policy: Float[Tensor, "B n V"],
    other: Float[Tensor, "B n W"],
    targets: Int64[Tensor, "B n"],
    mask: Int64[Tensor, "B n"],
) -> Float64[Tensor, "5 B"]:
    """Return sums over tokens: entropy, policy log-prob, KL(policy || other), log-ratio, large log-ratios."""
    first, second = policy, other.to(policy.device)
    if first.shape[-1] != second.shape[-1]:
        shared = min(first.shape[-1], second.shape[-1])
        first, second = (logs[..., :shared].log_softmax(-1) for logs in (first, second))
    probability = first.exp()
    # 0 log 0 = 0: a token switched off (-inf) must not make a NaN.
    entropy = -(probability * first.masked_fill(probability == 0, 0)).sum(-1)
    kl = (probability * (first - second).masked_fill(probability == 0, 0)).sum(-1)
    place = targets.to(first.device).unsqueeze(-1)
    logprob, other_logprob = first.gather(-1, place).squeeze(-1), second.gather(-1, place).squeeze(-1)
    ratio = logprob - other_logprob
    values = torch.stack([entropy, logprob, kl, ratio, (ratio.abs() > LARGE).to(ratio)]).double().cpu()
    return values.masked_fill(mask == 0, 0).sum(-1)
