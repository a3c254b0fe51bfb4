"""Train the sentiment world's base model again and measure it: `python tools/train_base_model.py [FOLDER]`.

Without FOLDER the bundled model under src/tether/worlds/assets/sentiment is replaced. One thread, fixed seed:
the same machine and versions give the same bits. A few minutes on one core.
"""

import random
import sys
from pathlib import Path

import torch

from tether.worlds import recipe, replies, sentiment
from tether.worlds.sampler import draw

LIMIT_MB = 4.0
SAMPLES = 1000


def write(rng: random.Random) -> recipe.Text:
    message = rng.choice(TRAIN)
    return message, replies.write_reply(message, rng)


TRAIN = replies.messages("train")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rng = random.Random(1)
    tokenizer = recipe.text_tokenizer((t for _ in range(4000) for t in write(rng)), sentiment.VOCABULARY)
    model = recipe.new_model(tokenizer, sentiment.SHAPE, sentiment.SCHEDULE.seed)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens")
    recipe.train(
        model,
        tokenizer,
        write,
        sentiment.SCHEDULE,
        lambda step, loss: print(f"step {step}: {loss:.4f} nats per token", flush=True),
    )
    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(model, tokenizer, folder)
    print(measure(model, tokenizer))
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.2f} MB")
    if size > LIMIT_MB:
        sys.exit(f"{folder}: {size:.2f} MB, limit {LIMIT_MB}")


def measure(model: object, tokenizer: recipe.PreTrainedTokenizerFast) -> str:
    """Say how well the model knows its language, on messages it was not trained on."""
    rng = random.Random(2)
    held_out = [(m, replies.write_reply(m, rng)) for m in replies.messages("eval")[:SAMPLES]]
    prompts = replies.messages("test")[:SAMPLES]
    drawn = draw(
        model,
        [recipe.prompt_ids(tokenizer, message) for message in prompts],
        end=tokenizer.eos_token_id,
        max_new_tokens=80,
        generator=torch.Generator().manual_seed(0),
    )
    texts = [tokenizer.decode(one.ids) for one in drawn]
    named = [(m, t) for m, t in zip(prompts, texts, strict=True) if replies.item_of(t)]
    return (
        f"held-out log-likelihood {recipe.likelihood(model, tokenizer, held_out):.4f} nats per token\n"
        f"samples: {sum(replies.errors(t) == 0 for t in texts) / len(texts):.1%} fully grammatical, "
        f"{sum(one.ended for one in drawn) / len(drawn):.1%} ended by themselves, "
        f"{sum(replies.item_of(m) == replies.item_of(t) for m, t in named) / len(named):.1%} of those that "
        f"name an item name the customer's"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else sentiment.ASSETS)
