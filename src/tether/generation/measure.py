"""A model measured on its own samples: KL to where it started and to its reference, entropy, endings, scores.

Samples are drawn at temperature 1 without filters, up to the first stop token or the limit. KL is the
Rao-Blackwell estimator (Amini et al., arXiv 2504.10637): for a sample y of the policy,

    sum over t of KL( policy(. | x, y_<t) || other(. | x, y_<t) ),

exact per token given the prefix, unbiased for the KL of the distributions over completions cut at the limit,
never negative beyond rounding. Its standard error is over prompts: samples of one prompt are averaged first.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from tether.errors import TetherError, UsageError
from tether.generation.choice import sample_seeds
from tether.generation.divergence import Along, divergence
from tether.generation.engines import Decode, Generated, Sampling, completion_text, decoder, generate_ids
from tether.generation.streams import Context, Dial, Most, Source
from tether.records.protocols import Evaluator
from tether.records.results import Measurement
from tether.records.rows import Content, canonical_json

SAMPLES_AT_ONCE = 16
"""Samples written, and read again, together: what they need at once grows with it."""

MeasuredSample = dict[str, Any]
"""One sample and its numbers, ready for JSON; entropy, KL and log-ratios are sums over its tokens, in nats.

    prompt, sample      index of the prompt, and which of its samples
    completion, tokens  text without the end token; length with it
    ids                 token ids
    ended               false: cut at the limit
    entropy, logprob    of the policy
    kl_start, kl_reference                 Rao-Blackwell terms; None without that model
    log_ratio_start, log_ratio_reference   log policy - log other of this sample: the k1 estimate of it
    large_start         tokens of it with |log policy - log start| above 10 nats
    scores              per evaluator
"""


def measure(
    policy: Any,
    *,
    prompts: Sequence[Content],
    prompt_ids: Sequence[Sequence[int]],
    tokenizer: Any,
    stop_ids: frozenset[int],
    step: int,
    max_new_tokens: int,
    samples_per_prompt: int = 1,
    seed: int = 0,
    start: Any = None,
    start_context: Context | None = None,
    reference: Any = None,
    reference_context: Context | None = None,
    dial: Dial | None = None,
    evaluators: Sequence[Evaluator] = (),
    decode: Decode | None = None,
    pad_id: int = 0,
    batch_size: int = SAMPLES_AT_ONCE,
    most: Most = int,
) -> tuple[Measurement, list[MeasuredSample]]:
    """Sample the policy and measure it; the same seed gives the same noise at every step of a run.

    `start` is the model training began from; where that is the policy in another context (an adapter switched
    off) only `start_context` is given. The same holds for `reference`, which must share the policy's
    token-to-id map (`same_vocabulary`). With `dial` everything is measured on the dialled distribution. The
    samples come back prompt by prompt (`MeasuredSample`), for paired comparisons. `decode` replaces the
    tokenizer's. Of a model in shards every process measures as many prompts, and passes its `most`.

    Raises:
        UsageError: no prompts, or lists of different lengths.
        DataError: a prompt that leaves the model no room to write.
        ModelError: broken scores, or a KL that is infinite.
        TetherError: an evaluator gave the wrong number of scores, or one that is not finite.

    """
    if not prompts or len(prompts) != len(prompt_ids) or samples_per_prompt < 1:
        raise UsageError(
            f"measuring needs prompts: got {len(prompts)}, {len(prompt_ids)} of them as ids, "
            f"{samples_per_prompt} samples each"
        )
    decode = decoder(tokenizer) if decode is None else decode
    keys = [canonical_json(prompt) for prompt in prompts]
    repeated = [ids for ids in prompt_ids for _ in range(samples_per_prompt)]
    generated = generate_ids(
        policy,
        repeated,
        Sampling(max_new_tokens=max_new_tokens, seed=seed),
        stop_ids=stop_ids,
        seeds=sample_seeds(seed, keys, samples_per_prompt),
        pad_id=pad_id,
        batch_size=batch_size,
        dial=dial,
        most=most,
    )
    others = {"start": _source(policy, start, start_context)}
    others["reference"] = _source(policy, reference, reference_context)
    along = divergence(
        Source(policy),
        {name: source for name, source in others.items() if source is not None},
        repeated,
        [result.ids for result in generated],
        pad_id=pad_id,
        batch_size=batch_size,
        dial=dial,
        most=most,
    )
    texts = [completion_text(result.ids, decode, stop_ids) for result in generated]
    asked = [prompt for prompt in prompts for _ in range(samples_per_prompt)]
    scores = {evaluator.name: _scores(evaluator, asked, texts) for evaluator in evaluators}
    samples = _samples(generated, texts, along, scores, samples_per_prompt)
    return summarise(samples, step), samples


def measure_dials(
    policy: Any,
    values: Sequence[float],
    *,
    start: Any = None,
    start_context: Context | None = None,
    **options: Any,
) -> list[tuple[Measurement, list[MeasuredSample]]]:
    """Measure what a dial between the start model and the policy gives, value by value.

    At `value` the samples, their entropy, `logprob` and KL(. || start) are those of the dialled distribution
    policy^value * start^(1 - value), token by token. All values share prompts and noise, so differences
    between them are paired. `start` and `start_context` name the start model as in `measure`, whose other
    options `options` are; its vocabulary must be the policy's (`same_vocabulary`).

    Raises:
        UsageError: neither start nor start_context, or a dial out of range.

    """
    source = _source(policy, start, start_context)
    if source is None:
        raise UsageError("measuring dials needs the model the dial turns to: start or start_context")
    given: dict[str, Any] = {**options, "start": start, "start_context": start_context}
    return [measure(policy, dial=Dial(value, source), **given) for value in values]


def _source(policy: Any, model: Any, context: Context | None) -> Source | None:
    if model is None and context is None:
        return None
    return Source(policy if model is None else model, nullcontext if context is None else context)


def _scores(evaluator: Evaluator, prompts: Sequence[Content], texts: Sequence[str]) -> list[float]:
    scores = [float(score) for score in evaluator(prompts, texts)]
    if len(scores) != len(texts):
        raise TetherError(f"evaluator {evaluator.name}: {len(scores)} scores for {len(texts)} completions")
    bad = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
    if bad is not None:
        raise TetherError(f"evaluator {evaluator.name}: score {scores[bad]} for completion {bad}")
    return scores


def _samples(
    generated: Sequence[Generated],
    texts: Sequence[str],
    along: Along,
    scores: Mapping[str, Sequence[float]],
    samples_per_prompt: int,
) -> list[MeasuredSample]:
    def value(table: Mapping[str, Any], name: str, index: int) -> float | None:
        return float(table[name][index]) if name in table else None

    return [
        {
            "prompt": index // samples_per_prompt,
            "sample": index % samples_per_prompt,
            "completion": texts[index],
            "tokens": len(result.ids),
            "ids": result.ids,
            "ended": result.ended,
            "entropy": float(along.entropy[index]),
            "logprob": float(along.logprob[index]),
            "kl_start": value(along.kl, "start", index),
            "kl_reference": value(along.kl, "reference", index),
            "log_ratio_start": value(along.log_ratio, "start", index),
            "log_ratio_reference": value(along.log_ratio, "reference", index),
            "large_start": value(along.large, "start", index),
            "scores": {name: column[index] for name, column in scores.items()},
        }
        for index, result in enumerate(generated)
    ]


def summarise(samples: Sequence[MeasuredSample], step: int) -> Measurement:
    """Return means and standard errors over prompts; with a single prompt there is no standard error."""
    prompts = [sample["prompt"] for sample in samples]
    tokens = sum(sample["tokens"] for sample in samples)
    ended = sum(sample["ended"] for sample in samples) / len(samples)

    def kl(name: str) -> tuple[float | None, float | None]:
        values = [sample[name] for sample in samples]
        return (None, None) if values[0] is None else mean_and_error(values, prompts)

    kl_start, kl_start_se = kl("kl_start")
    kl_reference, kl_reference_se = kl("kl_reference")
    scores = {
        name: mean_and_error([sample["scores"][name] for sample in samples], prompts)
        for name in samples[0]["scores"]
    }
    return Measurement(
        step=step,
        prompts=len(set(prompts)),
        samples=len(samples),
        kl_start=kl_start,
        kl_start_se=kl_start_se,
        kl_reference=kl_reference,
        kl_reference_se=kl_reference_se,
        entropy=sum(sample["entropy"] for sample in samples) / tokens,
        tokens=tokens / len(samples),
        end_rate=ended,
        cut_share=1 - ended,
        scores={name: mean for name, (mean, _) in scores.items()},
        scores_se={name: error for name, (_, error) in scores.items() if error is not None},
    )


def mean_and_error(values: Sequence[float], clusters: Sequence[int]) -> tuple[float, float | None]:
    """Return the mean over clusters of their means, and its standard error (None with one cluster)."""
    members: dict[int, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    means = [float(np.mean(group)) for group in members.values()]
    error = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    return float(np.mean(means)), error


def same_vocabulary(first: Any, second: Any) -> bool:
    """Whether two tokenizers map the same tokens to the same ids: the condition for any KL between models."""
    return first is second or first.get_vocab() == second.get_vocab()
