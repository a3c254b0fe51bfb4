"""Measured numbers agree with exact enumeration, with each other, and with what was generated."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.tiny import tiny_model, tiny_tokenizer
from tether.errors import ModelError, TetherError, UsageError
from tether.generation.divergence import divergence
from tether.generation.engines import decoder
from tether.generation.measure import MeasuredSample, mean_and_error, measure, same_vocabulary
from tether.generation.streams import Dial, Source, mix
from tether.records.results import Measurement
from tether.records.rows import Content

STOP = frozenset({1})
STEPS = 3
PROMPT_IDS = [[3, 4], [5], [2, 2, 6]]


class Length:
    name = "length"

    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        assert len(prompts) == len(completions)
        return [float(len(text)) for text in completions]


def small(seed: int, family: str = "llama", **options: Any) -> Any:
    """A 7-token model, its weights scaled down so that no token's share is nearly 0 or 1."""
    model = tiny_model(family, vocab_size=7, seed=seed, pad_token_id=None, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(0.4)
    return model


def run(policy: Any, **options: Any) -> tuple[Measurement, list[MeasuredSample]]:
    chosen: dict[str, Any] = {
        "prompts": [str(ids) for ids in PROMPT_IDS],
        "prompt_ids": PROMPT_IDS,
        "stop_ids": STOP,
        "decode": lambda ids: " ".join(map(str, ids)),
        "tokenizer": None,
        "step": 7,
        "max_new_tokens": STEPS,
    } | options
    return measure(policy, **chosen)


def next_logs(sources: dict[str, Any], prompt: Sequence[int], ids: Sequence[int]) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        return {n: m(tokens).logits[0, -1].double().log_softmax(-1) for n, m in sources.items()}


def exact(policy: Any, other: Any, prompt: Sequence[int], dial: float | None = None) -> dict[str, float]:
    """KL, entropy and tokens by enumerating every completion of up to 3 tokens, no cache, no batch."""
    total = {"kl": 0.0, "entropy": 0.0, "tokens": 0.0, "ended": 0.0}
    todo: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    while todo:
        ids, share = todo.pop()
        logs = next_logs({"policy": policy, "other": other}, prompt, ids)
        first = logs["policy"]
        if dial is not None:
            first = mix(logs["policy"], logs["other"], dial).log_softmax(-1)
        p = first.exp()
        total["kl"] += share * float((p * (first - logs["other"])).sum())
        total["entropy"] -= share * float((p * first).sum())
        total["tokens"] += share
        for token, probability in enumerate(p.tolist()):
            if token == 1:
                total["ended"] += share * probability
            elif len(ids) + 1 < STEPS:
                todo.append(((*ids, token), share * probability))
    return total


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return small(0), small(1)


def test_kl_entropy_lengths_and_endings_agree_with_enumeration(models: tuple[Any, Any]) -> None:
    """60 repetitions: the mean of each estimate lies within 3 of its standard errors, and so does k1."""
    policy, other = models
    truth = [exact(policy, other, prompt) for prompt in PROMPT_IDS]
    expected = {name: float(np.mean([one[name] for one in truth])) for name in truth[0]}
    assert expected["kl"] > 0.2 and 0.1 < expected["ended"] < 0.9
    found: dict[str, list[float]] = {name: [] for name in ("kl", "k1", "tokens", "ended", "entropy")}
    for repetition in range(60):
        result, samples = run(policy, reference=other, seed=repetition, samples_per_prompt=8, batch_size=24)
        assert result.kl_start is None and result.kl_reference is not None
        found["kl"].append(result.kl_reference)
        found["k1"].append(float(np.mean([s["log_ratio_reference"] for s in samples])))
        found["tokens"].append(result.tokens)
        found["ended"].append(result.end_rate)
        found["entropy"].append(result.entropy * result.tokens)
    for name, values in found.items():
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        assert abs(np.mean(values) - expected["kl" if name == "k1" else name]) < 3 * error, name
    assert np.std(found["kl"]) < np.std(found["k1"])


def test_the_standard_error_is_over_prompts_as_clusters(models: tuple[Any, Any]) -> None:
    result, samples = run(models[0], start=models[1], samples_per_prompt=4, evaluators=[Length()])
    means = [np.mean([s["kl_start"] for s in samples if s["prompt"] == p]) for p in range(3)]
    assert result.kl_start == pytest.approx(np.mean(means))
    assert result.kl_start_se == pytest.approx(np.std(means, ddof=1) / math.sqrt(3))
    assert mean_and_error([1.0, 3.0, 5.0], [0, 0, 0]) == (3.0, None)
    assert result.scores["length"] == pytest.approx(np.mean([len(s["completion"]) for s in samples]))
    assert set(result.scores_se) == {"length"}
    assert (result.prompts, result.samples, result.step) == (3, 12, 7)
    assert [(s["prompt"], s["sample"]) for s in samples] == [(p, n) for p in range(3) for n in range(4)]


def test_kl_to_itself_is_exactly_zero(models: tuple[Any, Any]) -> None:
    policy = models[0]
    for start in (policy, small(0)):
        result, samples = run(policy, start=start, reference=start, samples_per_prompt=3)
        assert (result.kl_start, result.kl_reference) == (0.0, 0.0)
        assert all(s["kl_start"] == s["log_ratio_start"] == 0.0 for s in samples)


def test_an_adapter_is_measured_against_its_base_by_switching_it_off() -> None:
    def adapted(init: bool) -> Any:
        options: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": init}
        return get_peft_model(tiny_model(), LoraConfig(**options))

    ids = [[7, 8, 9], [20, 30]]
    options: dict[str, Any] = {"prompts": ["a", "b"], "prompt_ids": ids, "max_new_tokens": 6}
    fresh = adapted(True)
    assert run(fresh, start_context=fresh.disable_adapter, **options)[0].kl_start == 0.0
    moved = adapted(False)
    inside = run(moved, start_context=moved.disable_adapter, **options)[0].kl_start
    outside = run(moved, start=tiny_model(), **options)[0].kl_start
    assert inside is not None and inside > 0.1
    assert inside == pytest.approx(outside, rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3_text", "gemma2", "bloom"])
def test_numbers_do_not_depend_on_batch_or_piece_and_match_a_plain_forward(family: str) -> None:
    options: dict[str, Any] = {"mistral": {"sliding_window": 4}, "gemma3_text": {"sliding_window": 4}}.get(
        family, {}
    )
    if family == "bloom":
        options = {"n_head": 4, "n_layer": 2}
    policy, other = tiny_model(family, **options), tiny_model(family, seed=1, **options)
    prompts = [[7, 8, 9, 10, 11, 12], [20], [30, 31, 32]]
    completions = [[40, 41, 42, 43, 44, 45, 46, 1], [50, 51, 1], [60]]
    results = [
        divergence(Source(policy), {"o": Source(other)}, prompts, completions, batch_size=size, piece=piece)
        for size, piece in ((1, 2**24), (3, 2**24), (2, 384 * 2 * 3), (3, 1))
    ]
    for result in results:
        for one, first in zip(
            (result.entropy, result.logprob, result.kl["o"], result.log_ratio["o"]),
            (results[0].entropy, results[0].logprob, results[0].kl["o"], results[0].log_ratio["o"]),
            strict=True,
        ):
            # Scores of about 30 in fp32 carry errors of about 30 * 2^-23 each; sums of up to 8 tokens.
            assert torch.allclose(one, first, rtol=1e-6, atol=3e-5)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        kl = entropy = ratio = 0.0
        for place, token in enumerate(completion):
            logs = next_logs({"p": policy, "o": other}, prompt, completion[:place])
            kl += float((logs["p"].exp() * (logs["p"] - logs["o"])).sum())
            entropy -= float((logs["p"].exp() * logs["p"]).sum())
            ratio += float(logs["p"][token] - logs["o"][token])
        assert float(results[1].kl["o"][row]) == pytest.approx(kl, rel=1e-5, abs=3e-5)
        assert float(results[1].entropy[row]) == pytest.approx(entropy, rel=1e-5, abs=3e-5)
        assert float(results[1].log_ratio["o"][row]) == pytest.approx(ratio, rel=1e-5, abs=1e-4)


def test_measure_itself_does_not_depend_on_the_batch(models: tuple[Any, Any]) -> None:
    results = [run(models[0], start=models[1], samples_per_prompt=5, batch_size=b) for b in (1, 4, 15)]
    for result, samples in results[1:]:
        assert [s["ids"] for s in samples] == [s["ids"] for s in results[0][1]]
        assert result.kl_start == pytest.approx(results[0][0].kl_start, rel=1e-6, abs=1e-6)
        assert result.entropy == pytest.approx(results[0][0].entropy, rel=1e-6)


@pytest.mark.parametrize("value", [0.5, 2.0])
def test_the_kl_of_a_dial_is_that_of_the_dialled_distribution(models: tuple[Any, Any], value: float) -> None:
    policy, other = models
    truth = float(np.mean([exact(policy, other, prompt, value)["kl"] for prompt in PROMPT_IDS]))
    source = Source(other)
    result, _ = run(policy, reference=other, dial=Dial(value, source), samples_per_prompt=200, batch_size=200)
    assert result.kl_reference_se is not None and result.kl_reference is not None
    # The 600 samples' own error: the prompts are the same ones the truth is averaged over.
    assert result.kl_reference == pytest.approx(truth, rel=0.1)
    plain, _ = run(policy, reference=other, samples_per_prompt=200, batch_size=200)
    assert (result.kl_reference > plain.kl_reference) == (value > 1)
    zero, _ = run(policy, reference=other, dial=Dial(0.0, source))
    assert zero.kl_reference == 0.0


def test_endings_and_text_are_told(models: tuple[Any, Any]) -> None:
    result, samples = run(models[0], samples_per_prompt=20)
    assert result.end_rate == pytest.approx(np.mean([s["ids"][-1] == 1 for s in samples]))
    assert result.end_rate + result.cut_share == pytest.approx(1)
    assert result.tokens == pytest.approx(np.mean([len(s["ids"]) for s in samples]))
    assert all(s["completion"] == " ".join(map(str, [i for i in s["ids"] if i != 1])) for s in samples)
    assert all(s["ended"] or len(s["ids"]) == STEPS for s in samples)


def test_wider_embedding_is_compared_over_the_ids_both_have() -> None:
    policy = small(0)
    wide = small(0, tie_word_embeddings=False)
    wide.resize_token_embeddings(9)
    with torch.no_grad():
        wide.lm_head.weight[:7] = policy.lm_head.weight
        wide.model.embed_tokens.weight[:7] = policy.model.embed_tokens.weight
    result, _ = run(policy, reference=wide)
    assert result.kl_reference == pytest.approx(0, abs=1e-6)
    with pytest.raises(ModelError, match="holds token id 8 and its embedding has 7 rows"):
        divergence(Source(wide), {"reference": Source(policy)}, [[3]], [[8]])


def test_an_infinite_kl_is_refused_by_name() -> None:
    class Mute(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            scores = self.head(hidden)
            return scores.index_fill(-1, torch.tensor([4]), -torch.inf)

    other = small(1)
    mute = Mute()
    mute.head = other.lm_head
    other.lm_head = mute
    with pytest.raises(ModelError, match="reference rules out a token"):
        run(small(0), reference=other)
    # The other way round nothing is infinite: 0 log 0 = 0.
    result, _ = run(other, reference=small(0))
    assert result.kl_reference is not None and math.isfinite(result.kl_reference)


class Short(Length):
    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        return [1.0]


class Nan(Length):
    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        return [math.nan] * len(completions)


def test_bad_calls_and_bad_evaluators_are_refused(models: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match="needs prompts"):
        run(models[0], prompts=[], prompt_ids=[])
    with pytest.raises(TetherError, match="length: 1 scores for 3"):
        run(models[0], evaluators=[Short()])
    with pytest.raises(TetherError, match="score nan for completion 0"):
        run(models[0], evaluators=[Nan()])


def test_same_vocabulary_compares_tokens_and_ids() -> None:
    assert same_vocabulary(tiny_tokenizer(), tiny_tokenizer())
    assert not same_vocabulary(tiny_tokenizer(), tiny_tokenizer(300))


def test_completions_are_spelt_by_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    options: dict[str, Any] = {"prompts": ["a"], "prompt_ids": [[7, 8]], "decode": decoder(tokenizer)}
    _, samples = run(tiny_model(), max_new_tokens=6, **options)
    said = [i for i in samples[0]["ids"] if i != 1]
    assert samples[0]["completion"] == tokenizer.decode(said, skip_special_tokens=False)
