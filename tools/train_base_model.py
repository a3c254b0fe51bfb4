"""Train a readable world's base model again and measure it: `tools/train_base_model.py WORLD [FOLDER]`.

Without FOLDER the bundled model under src/tether/worlds/assets/WORLD is replaced. One thread, fixed seed: the
same machine and versions give the same bits. A few minutes on one core.
"""

import random
import sys
from pathlib import Path

import torch

from tether.worlds import WORLDS, recipe
from tether.worlds.readable import Readable
from tether.worlds.sampler import draw

LIMIT_MB = 2.0
SAMPLES = 1000


def main(world: Readable, folder: Path) -> None:
    torch.set_num_threads(1)
    model, tokenizer = world.train_base(
        lambda step, loss: print(f"step {step}: {loss:.4f} nats per token", flush=True)
    )
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens")
    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(model, tokenizer, folder)
    print(measure(world, model, tokenizer))
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.2f} MB")
    if size > LIMIT_MB:
        sys.exit(f"{folder}: {size:.2f} MB, limit {LIMIT_MB}")


def measure(world: Readable, model: object, tokenizer: recipe.PreTrainedTokenizerFast) -> str:
    """Say how well the model knows its language, on messages it was not trained on."""
    rng = random.Random(2)
    held_out = [(m, world.written(m, rng)) for m in world.messages("eval")[:SAMPLES]]
    prompts = world.messages("test")[:SAMPLES]
    drawn = draw(
        model,
        [recipe.prompt_ids(tokenizer, message) for message in prompts],
        end=tokenizer.eos_token_id,
        max_new_tokens=world.max_new_tokens,
        generator=torch.Generator().manual_seed(0),
    )
    texts = [tokenizer.decode(one.ids) for one in drawn]
    said = [world.faithful(m, t) for m, t in zip(prompts, texts, strict=True)]
    wrote = [world.faithful(m, t) for m, t in held_out]
    rewards = [world.reward_of(m, t) for m, t in zip(prompts, texts, strict=True)]
    mean = sum(rewards) / len(rewards)
    spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
    return (
        f"held-out log-likelihood {recipe.likelihood(model, tokenizer, held_out):.4f} nats per token\n"
        f"samples: {sum(world.errors(t) == 0 for t in texts) / len(texts):.1%} fully grammatical, "
        f"{sum(one.ended for one in drawn) / len(drawn):.1%} ended by themselves, "
        f"{share(said):.1%} of what they say about the prompt is right "
        f"(in the data language {share(wrote):.1%})\n"
        f"gold reward {mean:.3f}, standard deviation {spread:.3f}"
    )


def share(counts: list[tuple[int, int]]) -> float:
    return sum(right for right, _ in counts) / max(1, sum(all_ for _, all_ in counts))


if __name__ == "__main__":
    names = [name for name, world in WORLDS.items() if isinstance(world, Readable)]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"name a readable world: {', '.join(names)}")
    chosen = WORLDS[sys.argv[1]]
    assert isinstance(chosen, Readable)
    main(chosen, Path(sys.argv[2]) if len(sys.argv) > 2 else chosen.assets)
