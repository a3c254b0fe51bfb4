"""What every readable world promises: its language, its parts, its bundled base model and the recipe."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.worlds import WORLDS, recipe
from tether.worlds.pairs import sigmoid
from tether.worlds.readable import TOKENIZER_TEXTS, Readable
from tether.worlds.recipe import likelihood, prompt_ids, text_tokenizer
from tether.worlds.sampler import draw

READABLE = [world for world in WORLDS.values() if isinstance(world, Readable)]
NEW = [world for world in READABLE if world.name != "sentiment"]
EVERY = pytest.mark.parametrize("world", READABLE, ids=lambda world: world.name)


def test_the_three_tasks_of_the_literature_are_here() -> None:
    assert {world.name for world in READABLE} == {"sentiment", "summarization", "dialogue"}


@EVERY
def test_written_texts_are_in_the_grammar_and_of_the_training_part(world: Readable) -> None:
    rng, train = random.Random(0), set(world.messages("train"))
    test = world.messages("test")
    for _ in range(300):
        message, text = world.write(rng)
        assert world.errors(text) == 0
        assert message in train or world.name == "summarization"
        assert world.errors(world.written(rng.choice(test), rng)) == 0


@EVERY
def test_parts_share_no_message_and_are_large_enough(world: Readable) -> None:
    parts = {split: world.messages(split) for split in ("train", "eval", "test")}
    everything = [message for found in parts.values() for message in found]
    assert len(set(everything)) == len(everything)
    assert len(parts["test"]) >= 1000 <= len(parts["eval"])
    assert world.messages("test") == world.messages("test")


@EVERY
@settings(max_examples=100)
@given(text=st.text())
def test_any_text_has_a_finite_reward(world: Readable, text: str) -> None:
    assert abs(world.reward_of(world.messages("test")[0], text)) < 1e12


@EVERY
def test_labels_of_written_pairs_agree_with_the_truth_in_about_three_of_four(world: Readable) -> None:
    rng, gaps = random.Random(0), []
    for message in world.messages("train")[:600]:
        a, b = (world.reward_of(message, world.written(message, rng)) for _ in range(2))
        gaps.append(sigmoid(abs(a - b)))
    assert 0.7 < sum(gaps) / len(gaps) < 0.82


@EVERY
def test_the_bundled_model_is_small_safe_and_ordinary(world: Readable) -> None:
    files = [path for path in world.assets.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    model, tokenizer = world.base_model()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


@EVERY
def test_the_bundled_tokenizer_is_what_the_recipe_makes(world: Readable) -> None:
    rng = random.Random(1)
    texts = (text for _ in range(TOKENIZER_TEXTS) for text in world.write(rng))
    made = text_tokenizer(texts, world.vocabulary)
    assert made.get_vocab() == world.base_model()[1].get_vocab()


def test_the_recipe_gives_the_same_bits_twice_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    world = WORLDS["dialogue"]
    assert isinstance(world, Readable)
    short = replace(world.schedule, steps=12, batch_size=8)
    monkeypatch.setattr(type(world), "schedule", short)
    monkeypatch.setattr("tether.worlds.readable.TOKENIZER_TEXTS", 200)
    losses: list[float] = []
    first = world.train_base(lambda _, loss: losses.append(loss))
    again = world.train_base()
    pairs = zip(first[0].parameters(), again[0].parameters(), strict=True)
    assert all(bool((a == b).all()) for a, b in pairs)
    untrained = recipe.new_model(first[1], world.shape, short.seed)
    rng = random.Random(3)
    texts = [(m, world.written(m, rng)) for m in world.messages("eval")[:30]]
    assert likelihood(first[0], first[1], texts) > likelihood(untrained, first[1], texts) + 0.5


@pytest.mark.parametrize("world", NEW, ids=lambda world: world.name)
def test_the_base_model_writes_its_language_about_its_prompt(world: Readable) -> None:
    model, tokenizer = world.base_model()
    messages = world.messages("test")[:200]
    texts = samples(world, model, tokenizer, messages)
    assert sum(world.errors(text) == 0 for text in texts) / len(texts) >= 0.9
    said = [world.faithful(m, t) for m, t in zip(messages, texts, strict=True)]
    other = [world.faithful(m, t) for m, t in zip(messages[7:] + messages[:7], texts, strict=True)]
    right, wrong = (sum(r for r, _ in found) / sum(n for _, n in found) for found in (said, other))
    assert right > 0.7
    assert right > wrong + 0.3


@EVERY
def test_references_are_the_same_for_a_seed_and_better_than_a_sample_where_chosen(world: Readable) -> None:
    model, tokenizer = world.base_model()
    messages = world.messages("test")[:120]
    found = world.reference_completions(model, tokenizer, messages, seed=1)
    assert found == world.reference_completions(model, tokenizer, messages, seed=1)
    assert found != world.reference_completions(model, tokenizer, messages, seed=2)
    plain = samples(world, model, tokenizer, messages)
    gain = sum(
        world.reward_of(m, a) - world.reward_of(m, b) for m, a, b in zip(messages, found, plain, strict=True)
    ) / len(messages)
    if world.references == "chosen":
        assert gain > 0.2
    else:
        assert all(world.errors(text) == 0 for text in found)


def samples(world: Readable, model: Any, tokenizer: Any, messages: list[str]) -> list[str]:
    drawn = draw(
        model,
        [prompt_ids(tokenizer, message) for message in messages],
        end=tokenizer.eos_token_id,
        max_new_tokens=world.max_new_tokens,
        generator=torch.Generator().manual_seed(1),
    )
    return [tokenizer.decode(one.ids) for one in drawn]
