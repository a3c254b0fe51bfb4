"""transformers' continuous batching beside our sampling loop: `tools/continuous_batching.py [--rounds 3]`.

A random Llama of 256 x 4 layers, 64 prompts of 5 to 200 tokens, up to 64 new tokens, 101 end tokens so that
completions end at different times; one thread, both in one process, in turns. Says whether greedy
completions are equal, how long each took, and whether a sample depends on what else is in its batch.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from tether.generation.engines import Sampling, generate_ids

VOCABULARY, PROMPTS, NEW = 4000, 64, 64
STOPS = list(range(VOCABULARY - 101, VOCABULARY))
PAGES = {"page_size": 32, "num_blocks": 600, "max_batch_tokens": 1024}

Ids = list[list[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times each is run, in turns")
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, prompts = new_model(), new_prompts()
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        sampling = Sampling(temperature=temperature, max_new_tokens=NEW)
        for _ in range(rounds):
            own, own_seconds = timed(lambda s=sampling: ours(model, prompts, s))
            other, other_seconds = timed(lambda s=sampling: theirs(model, prompts, s))
            tokens = sum(map(len, own)), sum(map(len, other))
            equal = sum(a == b for a, b in zip(own, other, strict=True))
            each = 1000 * own_seconds / tokens[0], 1000 * other_seconds / tokens[1]
            print(
                f"{name}: ours {own_seconds:.2f} s for {tokens[0]} tokens ({each[0]:.2f} ms), theirs "
                f"{other_seconds:.2f} s for {tokens[1]} ({each[1]:.2f} ms); {equal} of {PROMPTS} equal",
                flush=True,
            )
    half = prompts[::2]
    sampling = Sampling(max_new_tokens=NEW)
    for name, run in (("ours", ours), ("theirs", theirs)):
        alone, among = run(model, half, sampling), run(model, prompts, sampling)[::2]
        same = sum(a == b for a, b in zip(alone, among, strict=True))
        print(f"{name}: {same} of {len(half)} samples are the same without the other half of the prompts")
    return 0


def new_model() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def new_prompts() -> Ids:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 201, (PROMPTS,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY - 101, (n,), generator=generator).tolist() for n in lengths]


def ours(model: Any, prompts: Ids, sampling: Sampling) -> Ids:
    seeds = [sum(prompt) for prompt in prompts]
    found = generate_ids(model, prompts, sampling, stop_ids=frozenset(STOPS), seeds=seeds)
    return [one.ids for one in found]


def theirs(model: Any, prompts: Ids, sampling: Sampling) -> Ids:
    greedy = sampling.temperature == 0
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=not greedy, top_k=0, top_p=1.0, eos_token_id=STOPS, pad_token_id=0
    )
    torch.manual_seed(sampling.seed)
    found = model.generate_batch(
        prompts,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(**PAGES),
        warmup=False,
    )
    # Requests are numbered in the order given: req_0, req_1, ...
    names = sorted(found, key=lambda name: int(name.rsplit("_", 1)[1]))
    return [list(found[name].generated_tokens) for name in names]


def timed(run: Callable[[], Ids]) -> tuple[Ids, float]:
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
