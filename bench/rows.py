"""Rows of a workload: real pairs where they are at hand, else made-up ones of the same length statistics.

Rows are plain text `prompt`, `chosen`, `rejected`, shuffled once with a fixed seed, and cut here, so that no
program has to cut: both then train on the same tokens, end token included.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.data.checks import load
from tether.records.rows import Content

SEED = 20261121
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPUS_ROWS = 2_000
"""Most rows a tokenizer learns from: enough for its vocabulary, quick to read."""
LONG_ROWS = 200
"""As many where rows are long."""

WORDS = 1_500
"""Words of made-up text; each is about one token of the 8k vocabulary that learns them."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Lengths:
    """Median and 90th percentile of prompt, chosen and rejected, in tokens of an 8k vocabulary."""

    prompt: tuple[float, float]
    chosen: tuple[float, float]
    rejected: tuple[float, float]


LENGTHS = {
    "hh": Lengths((101, 303), (31, 100), (39, 111)),
    "uf": Lengths((32, 106), (521, 995), (172, 449)),
    "long": Lengths((2000, 2000), (200, 200), (200, 200)),
}
FILES = {"hh": "hh-harmless.jsonl.gz", "uf": "alpacaeval-pairs-train.parquet"}
"""HH-RLHF dialogues; AlpacaEval pairs, whose answers are as long as UltraFeedback's."""


def corpus(kind: str, *, folder: Path = REAL) -> tuple[list[Row], str]:
    """Return all rows of a kind in shuffled order, and in words where they come from."""
    name = FILES.get(kind)
    if name is None or not (folder / name).is_file():
        return made_up(
            LENGTHS[kind], LONG_ROWS if kind == "long" else CORPUS_ROWS
        ), f"made up, {kind} lengths"
    rows: list[Row] = []
    for row in load(str(folder / name), task="preference").rows:
        texts = [_plain(row.prompt), *(_plain(completion.content) for completion in row.completions)]
        if all(texts):
            rows.append({"prompt": _asked(texts[0]), "chosen": _said(texts[1]), "rejected": _said(texts[2])})
    random.Random(SEED).shuffle(rows)
    return rows[:CORPUS_ROWS], name


def _plain(content: Content) -> str:
    """Return a plain text, or what the one message says; nothing where there are several."""
    if isinstance(content, str):
        return content
    return str(content[0].get("content") or "") if len(content) == 1 else ""


def _asked(text: str) -> str:
    return text if text.endswith("Assistant:") else f"\n\nHuman: {text.strip()}\n\nAssistant:"


def _said(text: str) -> str:
    # The space in front keeps prompt and answer from merging into one token.
    return " " + text.strip()


def made_up(lengths: Lengths, count: int, *, seed: int = SEED) -> list[Row]:
    """Return rows of made-up words whose numbers of words follow log-normal laws of these quantiles."""
    rng = random.Random(seed)
    vocabulary = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7))) for _ in range(WORDS)
    ]

    def text(quantiles: tuple[float, float]) -> str:
        return "".join(" " + rng.choice(vocabulary) for _ in range(_drawn(rng, *quantiles)))

    return [
        {
            "prompt": f"\n\nHuman:{text(lengths.prompt)}\n\nAssistant:",
            "chosen": text(lengths.chosen),
            "rejected": text(lengths.rejected),
        }
        for _ in range(count)
    ]


def _drawn(rng: random.Random, median: float, high: float) -> int:
    spread = math.log(high / median) / 1.2816  # the normal's 90 % quantile
    return max(1, round(median * math.exp(spread * rng.gauss(0.0, 1.0))))


def fixed(prompt: int, chosen: int, rejected: int) -> Lengths:
    """Return lengths that do not vary."""
    return Lengths((prompt, prompt), (chosen, chosen), (rejected, rejected))


Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
"""Text -> ids, and where in the text each begins and ends."""


def encoder(tokenizer: Any) -> Encode:
    """Return how a fast tokenizer encodes."""

    def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        coded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return coded["input_ids"], coded["offset_mapping"]

    return encode


def fitted(rows: Sequence[Row], encode: Encode, count: int, max_length: int) -> list[Row]:
    """Return the first `count` rows that fit, answers cut so that prompt, answer and end token fit.

    Left out are prompts that leave no room for 16 tokens, and answers that merge with the prompt's end.

    Raises:
        ValueError: fewer than `count` rows are left.

    """
    kept = [row for row in (_fit(row, encode, max_length) for row in rows) if row is not None]
    if len(kept) < count:
        raise ValueError(f"{len(kept)} of {len(rows)} rows fit in {max_length} tokens, {count} are needed")
    return kept[:count]


def _fit(row: Row, encode: Encode, max_length: int) -> Row | None:
    prompt, _ = encode(row["prompt"])
    room = max_length - len(prompt) - 1
    if room < 16:
        return None
    texts = [_cut(row[name], encode, room) for name in ("chosen", "rejected")]
    if any(not text.strip() or not _apart(row["prompt"], prompt, text, encode) for text in texts):
        return None
    return {"prompt": row["prompt"], "chosen": texts[0], "rejected": texts[1]}


def _cut(text: str, encode: Encode, room: int) -> str:
    ids, places = encode(text)
    while len(ids) > room:
        text = text[: places[room - 1][0]]
        ids, places = encode(text)
    return text


def _apart(prompt_text: str, prompt: list[int], answer: str, encode: Encode) -> bool:
    joint, _ = encode(prompt_text + answer)
    return joint == prompt + encode(answer)[0]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_rankings(rows: Sequence[Row], answers: int) -> Iterator[Row]:
    """Join neighbouring pairs into rows of `answers` ranked completions of the first one's prompt."""
    for start in range(0, len(rows) - answers // 2 + 1, answers // 2):
        some = rows[start : start + answers // 2]
        texts = [row[name] for row in some for name in ("chosen", "rejected")]
        yield {
            "prompt": some[0]["prompt"],
            "completions": texts,
            "scores": [float(len(texts) - place) for place in range(len(texts))],
        }


def as_pairs(ranking: Row) -> list[Row]:
    """Return a ranking's completions as disjoint pairs, for a program without rankings."""
    texts = ranking["completions"]
    return [
        {"prompt": ranking["prompt"], "chosen": texts[at], "rejected": texts[at + 1]}
        for at in range(0, len(texts), 2)
    ]
