"""One model measured for a study: held-out rows read by it, prompts answered by it, and a summary of both.

Every model of a study, the start model included, is measured on the same rows, prompts and noise, so any two
of them can be compared prompt by prompt. What a model is measured from is its saved folder: what ships.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.analysis.drift import Behaviour, degeneration, distinct, repetition
from tether.analysis.sequences import ranking
from tether.analysis.tokens import large_share
from tether.generation.measure import MeasuredSample, mean_and_error
from tether.records.study import CellMeasures
from tether.records.tensors import GroupBatch, SequenceLogProbs
from tether.study.tables import HeldOut, Samples, Tokens

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Read:
    """Held-out rows under three models: sums and tokens; reference None where it cannot answer."""

    policy: SequenceLogProbs
    start: SequenceLogProbs
    reference: Array | None
    """Sums per completion; 0 for `none`."""
    reference_tokens: Array | None


@dataclass(frozen=True)
class Measured:
    """Everything measured of one model."""

    held_out: HeldOut
    tokens: Tokens
    samples: Samples
    summary: CellMeasures


def held_out_table(batch: GroupBatch, read: Read) -> HeldOut:
    """Return one row per held-out completion."""
    nothing = np.full(batch.sequences, np.nan)
    return HeldOut(
        row_id=[batch.row_ids[int(group)] for group in batch.group_of],
        role=list(batch.roles),
        tokens=batch.scored_lengths.numpy().astype(np.int64),
        policy_logp=_double(read.policy.sums),
        start_logp=_double(read.start.sums),
        reference_logp=nothing if read.reference is None else read.reference,
    )


def token_table(batch: GroupBatch, read: Read, stop_ids: frozenset[int]) -> Tokens:
    """Return one row per token of the held-out completions."""
    lengths = batch.scored_lengths.numpy()
    completion = np.repeat(np.arange(batch.sequences), lengths)
    position = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else np.zeros(0)
    ids = batch.scored_ids.numpy().astype(np.int64)
    groups = batch.group_of.tolist()
    assert read.policy.tokens is not None and read.start.tokens is not None
    return Tokens(
        row_id=[batch.row_ids[groups[i]] for i in completion],
        role=[batch.roles[i] for i in completion],
        position=position.astype(np.int64),
        token_id=ids,
        policy_logp=_double(read.policy.tokens),
        start_logp=_double(read.start.tokens),
        reference_logp=np.full(len(ids), np.nan) if read.reference_tokens is None else read.reference_tokens,
        is_end=np.isin(ids, sorted(stop_ids)) & (position == lengths[completion] - 1),
    )


def sample_table(samples: Sequence[MeasuredSample], row_ids: Sequence[str]) -> Samples:
    """Return one row per sample; `row_ids` names the row of every prompt."""

    def column(name: str) -> Array:
        return np.array([math.nan if s[name] is None else s[name] for s in samples], dtype=np.float64)

    tokens, logprob = column("tokens"), column("logprob")
    ended = np.array([s["ended"] for s in samples], dtype=np.bool_)
    return Samples(
        row_id=[row_ids[int(s["prompt"])] for s in samples],
        sample=column("sample").astype(np.int64),
        text=[s["completion"] for s in samples],
        token_ids=[list(s["ids"]) for s in samples],
        tokens=tokens.astype(np.int64),
        ended=ended,
        cut=~ended,
        policy_logp=logprob,
        start_logp=logprob - column("log_ratio_start"),
        reference_logp=logprob - column("log_ratio_reference"),
        kl_start=column("kl_start"),
        kl_reference=column("kl_reference"),
        entropy=column("entropy") / tokens,
        scores={
            name: np.array([s["scores"][name] for s in samples], dtype=np.float64)
            for name in samples[0]["scores"]
        },
    )


def summarise(
    held_out: HeldOut,
    tokens: Tokens,
    samples: Samples,
    *,
    large: Array,
    prompt_of: Mapping[str, str],
    tie: Array,
    start: CellMeasures | None,
    loss: tuple[float, float | None] | None = None,
) -> CellMeasures:
    """Return means with standard errors over prompts, and the degeneration rules that fired.

    Args:
        held_out: and `tokens`, `samples`: the tables of one model.
        tokens: see above.
        samples: see above.
        large: tokens per sample whose log-ratio against the start model exceeds 10 nats.
        prompt_of: names the prompt of every row, so that rows of one prompt count as one cluster.
        tie: per pair, the margin in nats that rounding alone can make.
        start: the start model's summary; None for itself.
        loss: the cell's own held-out loss and its standard error.

    """
    prompts = samples.row_id
    kl, kl_se = mean_and_error(samples.kl_start.tolist(), _numbered(prompts))
    known = not np.isnan(samples.kl_reference).any()
    reference = mean_and_error(samples.kl_reference.tolist(), _numbered(prompts)) if known else (None, None)
    length, length_se = mean_and_error(samples.tokens.astype(float).tolist(), _numbered(prompts))
    per_token = _ratio(samples.kl_start, samples.tokens.astype(np.float64), prompts)
    entropy = float((samples.entropy * samples.tokens).sum() / samples.tokens.sum())
    scores = {name: _known(v, prompts) for name, v in samples.scores.items() if not np.isnan(v).all()}
    now = Behaviour(
        end_rate=float(samples.ended.mean()),
        entropy=entropy,
        tokens=length,
        repetition=repetition(samples.token_ids),
        distinct=distinct(samples.token_ids),
        large_share=float(large.sum() / samples.tokens.sum()),
    )
    pairs = _pairs(held_out, prompt_of, tie, trained=start is not None)
    return CellMeasures(
        pairs=0,
        prompts=len(set(prompts)),
        samples=len(prompts),
        loss=loss[0] if loss else None,
        loss_se=loss[1] if loss else None,
        large_share=large_share(tokens.policy_logp - tokens.start_logp),
        kl=kl,
        kl_se=kl_se,
        kl_per_token=per_token[0],
        kl_per_token_se=per_token[1],
        kl_reference=reference[0],
        kl_reference_se=reference[1],
        entropy=entropy,
        tokens=length,
        tokens_se=length_se,
        end_rate=now.end_rate,
        cut_share=float(samples.cut.mean()),
        repetition=now.repetition,
        distinct=now.distinct,
        large_share_samples=now.large_share,
        degenerate=() if start is None else tuple(str(r) for r in degeneration(now, behaviour(start))),
        scores={name: mean for name, (mean, _) in scores.items()},
        scores_se={name: error for name, (_, error) in scores.items() if error is not None},
    ).model_copy(update=pairs)


def _known(values: Array, prompts: Sequence[str]) -> tuple[float, float | None]:
    """Return mean and standard error of the values that are there (a judge may give no verdict)."""
    kept = np.flatnonzero(~np.isnan(values)).tolist()
    return mean_and_error(values[kept].tolist(), _numbered([prompts[i] for i in kept]))


def behaviour(summary: CellMeasures) -> Behaviour:
    """Return what the degeneration rules compare of a measured model."""
    return Behaviour(
        end_rate=summary.end_rate,
        entropy=summary.entropy,
        tokens=summary.tokens,
        repetition=summary.repetition,
        distinct=summary.distinct,
        large_share=summary.large_share_samples,
    )


def _pairs(
    held: HeldOut, prompt_of: Mapping[str, str], tie: Array, *, trained: bool
) -> dict[str, float | int | None]:
    """Return what the sums say about pairs: ranking accuracies, log-ratios of both sides, per token too."""
    roles = np.array(held.role)
    chosen, rejected = (np.flatnonzero(roles == role) for role in ("chosen", "rejected"))
    values: dict[str, float | int | None] = {"pairs": len(chosen) if len(chosen) == len(rejected) else 0}
    if not values["pairs"]:
        return values
    clusters = [prompt_of[held.row_id[i]] for i in chosen]
    ratio = held.policy_logp - held.start_logp
    reward = held.policy_logp - held.reference_logp
    per_token = held.policy_logp / held.tokens
    columns: dict[str, Array] = {
        "policy_accuracy": ranking(held.policy_logp[chosen], held.policy_logp[rejected], tie),
        "policy_accuracy_per_token": ranking(per_token[chosen], per_token[rejected]),
    }
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        columns[f"{name}_log_ratio"] = ratio[side]
        columns[f"{name}_log_ratio_per_token"] = ratio[side] / held.tokens[side]
    if trained and not np.isnan(reward).any():
        columns["implicit_accuracy"] = ranking(reward[chosen], reward[rejected], tie)
    for name, column in columns.items():
        values[name], values[f"{name}_se"] = _ratio(column, np.ones(len(column)), clusters)
    return values


def _ratio(values: Array, sizes: Array, clusters: Sequence[str]) -> tuple[float, float | None]:
    """Return sum(values) / sum(sizes) and its standard error over clusters (None with one cluster)."""
    place = _numbered(clusters)
    totals, counts = np.bincount(place, weights=values), np.bincount(place, weights=sizes)
    estimate, n = float(totals.sum() / counts.sum()), len(totals)
    if n < 2:
        return estimate, None
    influence = (totals - estimate * counts) / counts.mean()
    return estimate, float(np.sqrt((influence**2).sum() / (n * (n - 1))))


def _numbered(labels: Sequence[str]) -> list[int]:
    places: dict[str, int] = {}
    return [places.setdefault(label, len(places)) for label in labels]


def _double(values: Any) -> Array:
    return values.double().cpu().numpy()
