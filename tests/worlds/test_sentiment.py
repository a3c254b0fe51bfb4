"""The readable world: its grammar, its reward by hand, and the base model that comes with it."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.worlds import WORLDS, replies, sentiment
from tether.worlds.grammar import SPLITS, sentences, words_of
from tether.worlds.recipe import likelihood, prompt_ids
from tether.worlds.sampler import draw

WORLD = WORLDS["sentiment"]
POLITE = "I am very sorry about your parcel. Have a lovely day!"
RUDE = "What a stupid question! You are pathetic."


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    return WORLD.base_model()


@pytest.mark.parametrize(
    ("reply", "tone", "grammar", "length"),
    [
        (POLITE, 0.75 * (1.0 + 1.5), 0.0, -0.004 * 5**2),
        (RUDE, 0.75 * (-2.0 - 2.0), 0.0, -0.004 * 9**2),
        ("Your parcel was sent today.", 0.0, 0.0, -0.004 * 11**2),
        ("Your parcel sent was today.", 0.0, -1.0, -0.004 * 11**2),
        ("Have a lovely day! Have a lovely day!", 0.75 * 1.5, 0.0, -0.004 * 8**2),
        ("lovely " * 40, 0.75 * 1.5, -1.0, -0.004 * 24**2),
        ("Have a lovely day!  Have a great week!", 0.75 * 2.5, -1.0, -0.004 * 8**2),
        ("Have a lovely", 0.75 * 1.5, -1.0, -0.004 * 13**2),
        ("", 0.0, -1.0, -0.004 * 16**2),
    ],
)
def test_reward_by_hand(reply: str, tone: float, grammar: float, length: float) -> None:
    assert sentiment.parts(reply) == pytest.approx({"tone": tone, "grammar": grammar, "length": length})
    assert WORLD.reward("any prompt", reply) == pytest.approx(tone + grammar + length)


def test_polite_beats_neutral_beats_rude_and_broken_or_long_loses() -> None:
    reward = [
        WORLD.reward("", text)
        for text in (
            POLITE,
            "Your parcel was sent today. You will hear from us in two days.",
            RUDE,
        )
    ]
    assert reward[0] > reward[1] > reward[2]
    assert WORLD.reward("", POLITE.replace("lovely", "lovely lovely")) < reward[0]
    assert WORLD.reward("", " ".join([POLITE] * 6)) < reward[2]


def test_the_prompt_does_not_enter_the_reward() -> None:
    evaluate = WORLD.evaluator()
    assert evaluate.name == "gold_reward"
    chat = ({"role": "user", "content": "My lamp is late."},)
    assert evaluate(["x", chat], [POLITE, POLITE]) == [WORLD.reward("", POLITE)] * 2


@settings(max_examples=200)
@given(st.integers(0, 10**9))
def test_every_written_reply_is_grammatical_and_about_the_item(seed: int) -> None:
    rng = random.Random(seed)
    message = rng.choice(replies.messages("test"))
    reply = replies.write_reply(message, rng)
    assert replies.errors(reply) == 0
    assert 1 <= len(sentences(reply)) <= 3
    assert replies.item_of(reply) in (None, replies.item_of(message))


@settings(max_examples=200)
@given(st.integers(0, 10**9))
def test_a_reply_with_a_word_said_twice_is_not_grammatical(seed: int) -> None:
    rng = random.Random(seed)
    words = replies.write_reply("My lamp is late.", rng).split()
    index = rng.randrange(len(words))
    word = words[index].rstrip(".!")
    words.insert(index, word)
    assert replies.errors(" ".join(words)) >= 1


def test_every_tone_word_can_be_said_and_every_insult_costs() -> None:
    said = {w.lower() for p in replies.PATTERNS for w in words_of(p.text)}
    said |= {w.lower() for some in replies.SLOTS.values() for text in some for w in words_of(text)}
    assert set(sentiment.LEXICON) <= said
    rng = random.Random(0)
    scores: dict[str, list[float]] = {"polite": [], "neutral": [], "rude": []}
    for pattern in replies.PATTERNS:
        text = replies.fill(pattern.text, "lamp", rng)
        scores[pattern.kind].append(sentiment.parts(text)["tone"])
    assert min(scores["polite"]) > 0
    assert max(scores["rude"]) < 0
    assert set(scores["neutral"]) == {0.0}


def test_parts_share_no_message() -> None:
    parts = {split: replies.messages(split) for split in SPLITS}
    everything = [message for found in parts.values() for message in found]
    assert len(set(everything)) == len(everything) > 10_000
    assert {split: round(len(m) / len(everything), 1) for split, m in parts.items()} == {
        "train": 0.7,
        "eval": 0.1,
        "test": 0.1,
    }


def test_the_tokenizer_spells_any_text_and_its_template_never_rewrites(base: tuple[Any, Any]) -> None:
    tokenizer = base[1]
    for text in (*replies.messages("test")[:200], POLITE, "naïve  Ünïcode\n\t— 你好 🙂"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    user, reply = {"role": "user", "content": "My lamp is late."}, {"role": "assistant", "content": POLITE}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([user, reply], tokenize=False)
    assert whole == prompt + POLITE + tokenizer.eos_token
    assert tokenizer.encode(prompt, add_special_tokens=False) == prompt_ids(tokenizer, "My lamp is late.")


def test_the_base_model_writes_its_language_in_every_tone(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    messages = replies.messages("test")[:200]
    drawn = draw(
        model,
        [prompt_ids(tokenizer, message) for message in messages],
        end=tokenizer.eos_token_id,
        max_new_tokens=WORLD.max_new_tokens,
        generator=torch.Generator().manual_seed(1),
    )
    texts = [tokenizer.decode(one.ids) for one in drawn]
    assert sum(one.ended for one in drawn) == len(drawn)
    assert sum(replies.errors(text) == 0 for text in texts) / len(texts) >= 0.85
    tones = [sentiment.parts(text)["tone"] for text in texts]
    for share in (
        sum(t > 0 for t in tones) / len(tones),
        sum(t == 0 for t in tones) / len(tones),
        sum(t < 0 for t in tones) / len(tones),
    ):
        assert 0.15 < share < 0.6
    named = [(m, t) for m, t in zip(messages, texts, strict=True) if replies.item_of(t)]
    assert sum(replies.item_of(m) == replies.item_of(t) for m, t in named) / len(named) >= 0.9


def test_the_prompt_tells_the_base_model_something_and_it_knows_the_prior(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    rng = random.Random(3)
    texts = [(m, replies.write_reply(m, rng)) for m in replies.messages("eval")[:100]]
    shuffled = [(texts[(i + 7) % 100][0], reply) for i, (_, reply) in enumerate(texts)]
    right, wrong = likelihood(model, tokenizer, texts), likelihood(model, tokenizer, shuffled)
    assert right > -0.75
    assert wrong < right - 0.1
    prior = prompt_ids(tokenizer, None)
    drawn = draw(
        model,
        [prior] * 100,
        end=tokenizer.eos_token_id,
        max_new_tokens=WORLD.max_new_tokens,
        generator=torch.Generator().manual_seed(2),
    )
    assert sum(replies.errors(tokenizer.decode(one.ids)) == 0 for one in drawn) >= 85
