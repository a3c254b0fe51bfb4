"""Pairs from plain texts: a prefix is a prompt; samples of the tuned model are ranked by the task's reward.

data/sft.jsonl       `prompt` (prefix), `completion` (the rest of the text)
data/prefixes.jsonl  `id`, `prompt`: prefixes that are sampled
data/samples.jsonl   samples of the model tuned on the texts
data/pairs.jsonl     every two samples of a prefix with different rewards, the better one chosen
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tether.config.generate import GenerateConfig
from tether.config.task import TaskConfig, TextFiles
from tether.data.inputs import inputs
from tether.errors import DataError
from tether.generation.sample import Progress, generate
from tether.records.protocols import Evaluator
from tether.records.results import read_lines, write_lines
from tether.tasks.sources import Asked, TaskData, read_asked, read_counts, start_model, write_asked
from tether.tokens.load import load_tokenizer

PAIRS_FILE = "pairs.jsonl"


@dataclass(frozen=True)
class Cut:
    """A text cut in two: prefix, and the rest (as far as it is kept)."""

    prefix: str
    rest: str


def text_data(config: TaskConfig, texts: TextFiles, folder: Path) -> TaskData:
    """Cut the texts into prefixes and rests; the pairs are made later, by the model tuned on them."""
    data = folder / "data"
    model = start_model(config.model or "", data)
    if not (data / "data.json").is_file():
        tokenizer = load_tokenizer(model)
        rng = random.Random(config.seed)
        counts: dict[str, Any] = {}
        train = list(cuts(texts, texts.train, tokenizer, rng, None, counts, "train"))
        test = list(cuts(texts, texts.test, tokenizer, rng, config.max_new_tokens, counts, "test"))
        rng.shuffle(test)
        asked = {cut.prefix: Asked(f"test-{i}", cut.prefix, cut.rest) for i, cut in enumerate(test)}
        picked = rng.sample(train, min(texts.prompts, len(train)))
        data.mkdir(parents=True, exist_ok=True)
        write_lines(data / "sft.jsonl", ({"prompt": cut.prefix, "completion": cut.rest} for cut in train))
        write_lines(
            data / "prefixes.jsonl",
            ({"id": f"prefix-{i}", "prompt": cut.prefix} for i, cut in enumerate(picked)),
        )
        write_asked(data, list(asked.values())[: config.prompts], counts)
    return TaskData(
        model=model,
        train=(str(data / PAIRS_FILE),),
        held_out=None,
        prompts=data / "prompts.jsonl",
        asked=read_asked(data),
        references=f"the text's own continuation, at most {config.max_new_tokens} tokens",
        counts=read_counts(data),
    )


def cuts(
    texts: TextFiles,
    specs: Sequence[str],
    tokenizer: Any,
    rng: random.Random,
    limit: int | None,
    counts: dict[str, Any],
    part: str,
) -> Iterator[Cut]:
    """Yield every text cut after a random number of tokens, the rest after `limit` more; counts what is not.

    Raises:
        DataError: no row has such a column of text.

    """
    read = short = 0
    for source in inputs(specs, "train"):
        for row in source.raw_rows(source.name):
            text = None if row.value is None else row.value.get(texts.column)
            read += 1
            cut = cut_text(text, tokenizer, texts, rng, limit) if isinstance(text, str) else None
            if cut is None:
                short += 1
            else:
                yield cut
    if read == short:
        raise DataError(
            f"{', '.join(specs)}: no row of {read} has a text {texts.column!r} of two words or more"
        )
    counts |= {f"{part}_texts": read, f"{part}_left_out": short}


def cut_text(
    text: str, tokenizer: Any, texts: TextFiles, rng: random.Random, limit: int | None
) -> Cut | None:
    """Return the text cut after 2 to 8 tokens (as the config says), or None where nothing would be left."""
    wanted = rng.randint(*texts.prefix_tokens)
    ends = [
        end
        for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
    ]
    if len(ends) <= wanted:
        return None
    last = len(text) if limit is None else ends[min(wanted + limit, len(ends)) - 1]
    prefix, rest = text[: ends[wanted - 1]], text[ends[wanted - 1] : last]
    return Cut(prefix, rest) if prefix.strip() and rest.strip() else None


def make_pairs(
    config: TaskConfig,
    texts: TextFiles,
    model: Path,
    reward: Evaluator,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Sample the prefixes, rank the samples, write the pairs; return how many there are and how many tied."""
    data = folder / "data"
    generate(
        GenerateConfig(
            model=str(model),
            prompts=str(data / "prefixes.jsonl"),
            out=str(data / "samples.jsonl"),
            num_samples=texts.samples,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
        ),
        progress,
    )
    samples: dict[str, tuple[str, list[str]]] = {}
    for row in read_lines(data / "samples.jsonl"):
        samples.setdefault(row["id"], (row["prompt"], []))[1].append(row["completion"])
    rows: list[dict[str, str]] = []
    ties = 0
    for prompt, answers in samples.values():
        scores = reward([prompt] * len(answers), answers)
        for (a, score), (b, other) in combinations(zip(answers, scores, strict=True), 2):
            if score == other:
                ties += 1
                continue
            better, worse = (a, b) if score > other else (b, a)
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    write_lines(data / PAIRS_FILE, rows)
    return {"pairs": len(rows), "pairs_tied": ties}
