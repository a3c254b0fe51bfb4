"""References stronger than the start model: one of its own family, one far from it.

similar      the base model after DPO on other pairs of this world: more data, no look at the reward
dissimilar   a Llama of another shape and seed, trained from nothing on texts drawn by exp(reward / t),
             whatever the data language likes; t makes those texts as good as `similar` is, exactly. It is
             built from the true reward: an oracle, so that strength and distance are apart.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from tether import api
from tether.worlds import WORLDS, Enumerable, recipe
from tether.worlds.recipe import Schedule, Shape

STRONGER = ("similar", "dissimilar")
OTHER_SHAPE = Shape(hidden=48, layers=3, heads=4, intermediate=96, positions=64)
SEED = 1000
"""Added to the world's own seed: other weights, other texts."""


def stronger(plan: Mapping[str, Any], name: str, place: Path, which: str) -> None:
    """Make a stronger reference under `place/which/model`, unless it is there."""
    if (place / which / "model").is_dir():
        return
    if which == "similar":
        _similar(plan, name, place)
    else:
        stronger(plan, name, place, "similar")
        _dissimilar(name, place)


def opened(folder: Path) -> tuple[Any, Any]:
    """Return a folder's model and tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _similar(plan: Mapping[str, Any], name: str, place: Path) -> None:
    other = plan["references"]
    api.make_world(name, place / "more", pairs=other["pairs"], eval_pairs=16, seed=other["seed"])
    given = {k: v for k, v in plan["train"].items() if k not in ("measured_prompts", "samples_per_prompt")}
    api.train(
        place / "world" / "model",
        place / "more" / "train.jsonl",
        place / "similar",
        seed=other["seed"],
        measure_prompts=0,
        save_strategy="no",
        **{**given, "beta": other["beta"], "num_train_epochs": other["num_train_epochs"]},
    )


def _dissimilar(name: str, place: Path) -> None:
    world = WORLDS[name]
    assert isinstance(world, Enumerable)
    folder = place / "similar" / "model"
    table = world.conditionals(*opened(folder))
    temperature = temperature_of(world.language.rewards, world.exact(table, table).reward)
    own = world.schedule
    schedule = Schedule(own.steps, own.batch_size, own.learning_rate, own.prompt_dropout, own.seed + SEED)
    tokenizer = recipe.word_tokenizer([*world.language.words, *world.language.prompts])
    model = recipe.new_model(tokenizer, OTHER_SHAPE, schedule.seed)
    recipe.train(model, tokenizer, writer(world, temperature), schedule)
    recipe.save(model, tokenizer, place / "dissimilar" / "model")


def tilted(rewards: Any, temperature: float) -> Any:
    """Return [P, N] shares proportional to exp(reward / t), per prompt."""
    logits = rewards / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def temperature_of(rewards: Any, wanted: float) -> float:
    """Return t at which texts drawn by exp(reward / t) have this mean reward; it falls as t grows."""
    low, high = 1e-3, 1e3
    for _ in range(80):
        middle = (low * high) ** 0.5
        mean = float((tilted(rewards, middle) * rewards).sum(axis=1).mean())
        low, high = (middle, high) if mean > wanted else (low, middle)
    return (low * high) ** 0.5


def writer(world: Enumerable, temperature: float) -> Callable[[random.Random], tuple[str, str]]:
    """Return a function that draws a prompt and a text from the tilted law."""
    upto = tilted(world.language.rewards, temperature).cumsum(axis=1)
    prompts = world.language.prompts

    def write(rng: random.Random) -> tuple[str, str]:
        place = rng.randrange(len(prompts))
        index = min(int(np.searchsorted(upto[place], rng.random())), upto.shape[1] - 1)
        return prompts[place], world.language.sequence(index)

    return write
