"""Samples belong to their prompt and seed, follow the distribution asked for, and end where they should."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model, tiny_tokenizer
from tether.errors import DataError, ModelError, UsageError
from tether.generation.choice import draw, noise, sample_seeds, warpers
from tether.generation.engines import Generated, Sampling, completion_text, decoder, generate_ids
from tether.generation.streams import Dial, Source, mix

STOP = frozenset({1})
FAMILIES = ("llama", "gpt2", "qwen3", "gemma2", "gemma3_text", "mistral", "gpt_neox", "bloom")


def model_of(family: str) -> Any:
    if family == "mistral":
        return tiny_model(family, sliding_window=5)
    if family == "gemma3_text":
        return tiny_model(family, sliding_window=5)
    if family == "bloom":
        return tiny_model(family, n_head=4, n_layer=2)
    return tiny_model(family)


def prompts_of(count: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(6, 384, (n,), generator=generator).tolist() for n in lengths]


def sample(model: Any, prompts: list[list[int]], sampling: Sampling, **options: Any) -> list[Generated]:
    keys = [str(prompt) for prompt in prompts]
    options = {"stop_ids": STOP, "seeds": sample_seeds(sampling.seed, keys)} | options
    return generate_ids(model, prompts, sampling, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_depend_on_batch_size_or_order(family: str) -> None:
    model, prompts = model_of(family), prompts_of(8)
    sampling = Sampling(max_new_tokens=16, seed=3, temperature=0.8)
    alone = [result.ids for result in sample(model, prompts, sampling, batch_size=1)]
    assert len({tuple(ids) for ids in alone}) > 4
    for size in (3, 8):
        assert [result.ids for result in sample(model, prompts, sampling, batch_size=size)] == alone
    turned = [result.ids for result in sample(model, prompts[::-1], sampling, batch_size=3)]
    assert turned[::-1] == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_argmax_of_a_forward_without_cache_or_padding(family: str) -> None:
    model, prompts = model_of(family), prompts_of(5)
    for prompt, result in zip(
        prompts, sample(model, prompts, Sampling(temperature=0, max_new_tokens=8)), strict=True
    ):
        ids = list(prompt)
        for token in result.ids:
            with torch.no_grad():
                assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)
        assert result.ended == (ids[-1] == 1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_equals_transformers_generate_whatever_its_generation_config(family: str) -> None:
    model, prompts = tiny_model(family), prompts_of(4)
    expected = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=2,
        )
        expected.append(out[0, len(prompt) :].tolist())
    model.generation_config.repetition_penalty = 9.0
    model.generation_config.forced_eos_token_id = 7
    model.generation_config.pad_token_id = None
    model.config.pad_token_id = None
    assert [r.ids for r in sample(model, prompts, Sampling(temperature=0, max_new_tokens=10))] == expected


def test_a_prompt_with_several_samples_is_read_once_and_answers_as_if_alone() -> None:
    model, prompts = tiny_model(), prompts_of(3)
    seeds = sample_seeds(0, [str(p) for p in prompts], 4)
    repeated = [prompt for prompt in prompts for _ in range(4)]
    reads: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: reads.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    sampling = Sampling(max_new_tokens=6)
    together = generate_ids(model, repeated, sampling, stop_ids=STOP, seeds=seeds, batch_size=12)
    handle.remove()
    assert reads[0] == 3
    alone = generate_ids(model, repeated, sampling, stop_ids=STOP, seeds=seeds, batch_size=1)
    assert [r.ids for r in together] == [r.ids for r in alone]
    assert len({tuple(r.ids) for r in together[:4]}) > 1


def test_more_tokens_continue_the_same_sample() -> None:
    model, prompts = tiny_model(), prompts_of(4)
    short = sample(model, prompts, Sampling(max_new_tokens=5))
    long = sample(model, prompts, Sampling(max_new_tokens=12))
    assert [r.ids for r in short] == [r.ids[:5] for r in long]


def test_seeds_know_the_prompt_the_sample_and_the_repetition_only() -> None:
    assert sample_seeds(0, ["a", "b"], 2)[2:] == sample_seeds(0, ["b"], 2)
    assert sample_seeds(0, ["b", "a"], 2)[2:] == sample_seeds(0, ["a"], 2)
    everything = sample_seeds(0, ["a", "a", "b", "a"], 2) + sample_seeds(1, ["a", "a", "b", "a"], 2)
    assert len(set(everything)) == 16


def test_dropout_modes_and_random_state_are_left_as_they_were() -> None:
    model = tiny_model("gpt2")
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    first = sample(model, prompts_of(3), Sampling(max_new_tokens=4))
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(not p.requires_grad or p.grad is None for p in model.parameters())
    assert [r.ids for r in first] == [
        r.ids for r in sample(model.eval(), prompts_of(3), Sampling(max_new_tokens=4))
    ]


def test_an_adapter_and_bf16_autocast_sample_too() -> None:
    model = get_peft_model(
        tiny_model(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    prompts = prompts_of(3)
    adapted = sample(model, prompts, Sampling(max_new_tokens=6, temperature=0))
    with model.disable_adapter():
        plain = sample(model, prompts, Sampling(max_new_tokens=6, temperature=0))
    assert [r.ids for r in plain] == [
        r.ids for r in sample(tiny_model(), prompts, Sampling(max_new_tokens=6, temperature=0))
    ]
    assert [r.ids for r in plain] != [r.ids for r in adapted]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(r.ids for r in sample(model, prompts, Sampling(max_new_tokens=6)))


# The distribution


def test_sampled_sequences_follow_the_enumerated_distribution() -> None:
    """2,000 draws of up to 3 tokens over a vocabulary of 5: chi-square at 1e-3 on a fixed seed."""
    model = tiny_model(vocab_size=5, pad_token_id=None)
    exact = enumerate_sequences(model, [3, 4], 3, 0.9)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    seeds = sample_seeds(0, ["p"], 2000)
    sampling = Sampling(temperature=0.9, max_new_tokens=3)
    drawn = generate_ids(model, [[3, 4]] * 2000, sampling, stop_ids=STOP, seeds=seeds, batch_size=500)
    counts = {key: 0 for key in exact}
    for result in drawn:
        counts[tuple(result.ids)] += 1
    large = [key for key in exact if exact[key] * 2000 >= 5]
    observed = [counts[key] for key in large] + [sum(counts[key] for key in exact if key not in large)]
    expected = [2000 * exact[key] for key in large]
    expected.append(2000 - sum(expected))
    assert len(large) >= 8
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def enumerate_sequences(
    model: Any, prompt: list[int], steps: int, temperature: float
) -> dict[tuple[int, ...], float]:
    """Every completion of up to `steps` tokens (1 ends it) and its probability, without a cache."""
    result: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(steps):
        grown: dict[tuple[int, ...], float] = {}
        for ids, probability in open_.items():
            with torch.no_grad():
                scores = model(torch.tensor([prompt + list(ids)])).logits[0, -1].double() / temperature
            for token, share in enumerate(scores.softmax(-1).tolist()):
                done = token == 1 or step == steps - 1
                (result if done else grown)[(*ids, token)] = probability * share
        open_ = grown
    return result


@settings(max_examples=60)
@given(
    st.lists(st.floats(-6, 6), min_size=2, max_size=12, unique=True),
    st.integers(0, 12),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
    st.floats(0.2, 3),
)
def test_filters_keep_exactly_the_tokens_their_definitions_keep(
    scores: list[float], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    warped = torch.tensor([scores], dtype=torch.float64) / temperature
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = order[: top_k or None]
    shares = dict(zip(kept, warped[0, kept].softmax(-1).tolist(), strict=True))
    sums = list(itertools.accumulate(shares[i] for i in kept))
    # A sum at the limit itself may fall on either side of it by rounding.
    near = any(abs(total - top_p) < 1e-6 for total in sums[:-1])
    kept = [i for n, i in enumerate(kept) if n == 0 or sums[n - 1] < top_p]
    near = near or any(abs(shares[i] / shares[kept[0]] - min_p) < 1e-6 for i in kept)
    kept = [i for i in kept if shares[i] >= min_p * shares[kept[0]]]
    chain = warpers(temperature, top_k, top_p, min_p)
    result: Any = chain(None, torch.tensor([scores], dtype=torch.float64))  # type: ignore[arg-type]
    alive = set(torch.isfinite(result[0]).nonzero().flatten().tolist())
    assert near or alive == set(kept)
    uniforms = torch.linspace(0, 1 - 2**-53, 50, dtype=torch.float64)
    assert set(draw(result.expand(50, -1).float(), uniforms).tolist()) <= alive


def test_draw_inverts_the_cumulative_distribution_and_never_takes_a_token_of_probability_zero() -> None:
    scores = (
        torch.tensor([[-torch.inf, 0.5, 0.25, -torch.inf, 0.25, -torch.inf]]).log().nan_to_num(nan=-torch.inf)
    )
    uniforms = torch.tensor([0.0, 0.499999, 0.500001, 0.749999, 0.750001, 1 - 2**-53], dtype=torch.float64)
    assert draw(scores.expand(6, -1), uniforms).tolist() == [1, 1, 2, 2, 4, 4]


def test_noise_is_fixed_for_ever() -> None:
    assert noise([0, 7], 2).tolist() == [
        [0.011546754286331562, 0.24154919656271812],
        [0.8720734548204873, 0.29536538151378355],
    ]


# The dial


def test_dial_one_is_the_policy_and_zero_the_reference_bit_for_bit() -> None:
    policy, reference, prompts = tiny_model(), tiny_model(seed=1), prompts_of(4)
    sampling = Sampling(max_new_tokens=8)
    for value, same in ((1.0, policy), (0.0, reference)):
        dial = Dial(value, Source(reference))
        expected = [r.ids for r in sample(same, prompts, sampling)]
        assert [r.ids for r in sample(policy, prompts, sampling, dial=dial)] == expected
    between = sample(policy, prompts, sampling, dial=Dial(0.5, Source(reference)))
    assert [r.ids for r in between] != [r.ids for r in sample(policy, prompts, sampling)]
    assert [r.ids for r in between] == [
        r.ids for r in sample(policy, prompts, sampling, dial=Dial(0.5, Source(reference)), batch_size=1)
    ]


@pytest.mark.parametrize("value", [-1.0, 0.3, 2.0])
def test_the_mix_is_the_renormalised_product_of_powers(value: float) -> None:
    policy, reference = torch.randn(3, 6), torch.randn(3, 6)
    policy[0, 2] = -torch.inf
    product = policy.softmax(-1) ** value * reference.softmax(-1) ** (1 - value)
    product[0, 2] = 0
    expected = product / product.sum(-1, keepdim=True)
    assert torch.allclose(mix(policy, reference, value).softmax(-1), expected, atol=1e-6)


def test_the_dial_of_an_adapter_against_its_own_base() -> None:
    model = get_peft_model(
        tiny_model(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    prompts, sampling = prompts_of(3), Sampling(max_new_tokens=6)
    inside = sample(model, prompts, sampling, dial=Dial(1.5, Source(model, model.disable_adapter)))
    outside = sample(model, prompts, sampling, dial=Dial(1.5, Source(tiny_model())))
    assert [r.ids for r in inside] == [r.ids for r in outside]


# Endings and refusals


def test_every_ending_is_named() -> None:
    model = tiny_model()
    prompt = prompts_of(1)[0]
    free = sample(model, [prompt], Sampling(temperature=0, max_new_tokens=8), stop_ids=frozenset())[0]
    assert (len(free.ids), free.stopped_by, free.ended) == (8, "limit", False)
    ended = sample(
        model, [prompt], Sampling(temperature=0, max_new_tokens=8), stop_ids=frozenset({free.ids[3]})
    )[0]
    first = free.ids.index(free.ids[3])
    assert (ended.ids, ended.stopped_by, ended.ended) == (free.ids[: first + 1], "stop_token", True)
    short = tiny_model(max_position_embeddings=len(prompt) + 3)
    cut = sample(short, [prompt], Sampling(temperature=0, max_new_tokens=8), stop_ids=frozenset())[0]
    assert (len(cut.ids), cut.stopped_by, cut.ended) == (3, "context", False)


def test_a_stop_text_ends_the_completion_at_once_and_is_cut_from_its_text() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    decode = decoder(tokenizer)
    prompts = prompts_of(6, seed=5)
    sampling = Sampling(max_new_tokens=40, temperature=1.3)
    free = sample(model, prompts, sampling, decode=decode)
    for prompt, whole in zip(prompts, free, strict=True):
        text = completion_text(whole.ids, decode, STOP)
        if len(text) < 20 or "�" in text:
            continue
        stop = text[10:14]
        stopped = sample(
            model,
            [prompt],
            Sampling(max_new_tokens=40, temperature=1.3, stop=(stop, "never there")),
            decode=decode,
        )[0]
        assert stopped.stopped_by == "stop_string"
        assert stopped.ids == whole.ids[: len(stopped.ids)]
        assert stop in decode(stopped.ids) and stop not in decode(stopped.ids[:-1])
        assert completion_text(stopped.ids, decode, STOP, (stop,)) == text[: text.index(stop)]


def test_a_completion_is_spelt_out_without_its_end_token() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a  b ,", add_special_tokens=False).input_ids
    assert completion_text([*ids, 1], decoder(tokenizer), STOP) == "a  b ,"
    assert completion_text([*ids, 3, *ids], decoder(tokenizer), STOP) == "a  b ,<|user|>a  b ,"


def test_a_completion_keeps_the_space_it_begins_with_whatever_the_tokenizer() -> None:
    words = {"<unk>": 0, "</s>": 1, "▁a": 2, "▁b": 3, "c": 4, "▁": 5, "\n": 6}
    made = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    sentencepiece = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    assert sentencepiece.decode([2, 3]) == "a b"
    assert completion_text([2, 3, 1], decoder(sentencepiece), STOP) == " a b"
    assert completion_text([4, 3, 1], decoder(sentencepiece), STOP) == "c b"
    ids = tiny_tokenizer()(" a b", add_special_tokens=False).input_ids
    assert completion_text([*ids, 1], decoder(tiny_tokenizer()), STOP) == " a b"


def test_a_model_set_up_for_training_with_checkpointing_samples_the_same() -> None:
    model, prompts, sampling = tiny_model(), prompts_of(3), Sampling(max_new_tokens=5)
    expected = [r.ids for r in sample(model, prompts, sampling)]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    model.train()
    assert [r.ids for r in sample(model, prompts, sampling)] == expected


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[5], []], "prompt 1: the prompt has no tokens"),
        ([[5] * 600], "prompt 0: the prompt has 600 tokens and the model reads at most 512"),
        ([[5, 999]], "prompt 0: token id 999 is beyond the model's 384 embedding rows"),
    ],
)
def test_prompts_that_cannot_be_answered_are_named(prompts: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample(tiny_model(), prompts, Sampling())


@pytest.mark.parametrize(
    "option",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0},
     {"max_new_tokens": 0}, {"stop": ("",)}, {"seed": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        Sampling(**option)


def test_broken_weights_are_said_to_be_broken() -> None:
    model = tiny_model()
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        sample(model, prompts_of(1), Sampling())
