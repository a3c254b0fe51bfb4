"""Files of answers: `tether generate`'s JSONL and AlpacaEval's model_outputs.json; paired by prompt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import DataError, UsageError
from tether.judging.pairwise import Pair
from tether.records.rows import Content, canonical_json

Key = tuple[str, int]
"""Canonical prompt, and number of the sample."""


@dataclass(frozen=True)
class Outputs:
    """One model's answers by prompt and sample."""

    name: str
    source: str
    answers: Mapping[Key, tuple[Content, str]]


@dataclass(frozen=True)
class Paired:
    """The prompts both models answered, and how many answers had no partner."""

    pairs: tuple[Pair, ...]
    only_a: int
    only_b: int


def read_outputs(path: Path) -> Outputs:
    """Read answers; the model's name is the file's own word for it, or the file's name.

    Raises:
        DataError: unreadable, a row without prompt or answer, a prompt answered twice with one sample number.

    """
    rows = read_rows(path)
    answers: dict[Key, tuple[Content, str]] = {}
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        prompt, answer = row.get("prompt", row.get("instruction")), row.get("completion", row.get("output"))
        if not isinstance(answer, str) or not isinstance(prompt, str | list):
            raise DataError(f"{path} row {number}: prompt and completion (or instruction and output) needed")
        content: Content = prompt if isinstance(prompt, str) else tuple(prompt)
        key = canonical_json(prompt), int(row.get("sample", 0))
        if key in answers:
            raise DataError(f"{path} row {number}: this prompt is answered twice (sample {key[1]})")
        answers[key] = content, answer
        names[str(row.get("model", row.get("generator", "")))] = None
    named = [name for name in names if name]
    return Outputs(named[0] if len(named) == 1 else path.stem, str(path), answers)


def names_of(outputs: Sequence[Outputs]) -> list[str]:
    """Return one name per model: what the rows say, or the files' names where those are the same.

    Raises:
        UsageError: two files name the same model and are called the same.

    """
    names = [one.name for one in outputs]
    if len(set(names)) != len(names):
        names = [Path(one.source).stem for one in outputs]
    if len(set(names)) != len(names):
        raise UsageError(f"two files name the same model and have the same name: {', '.join(names)}")
    return names


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON list of objects or a JSONL file.

    Raises:
        DataError: neither, or empty.

    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable: {error}") from error
    rows: list[Any] = []
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows.extend(json.loads(line) for line in text.splitlines() if line.strip())
    except ValueError as error:
        raise DataError(f"{path}: neither a JSON list nor JSON lines: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: a list of objects is needed, at least one")
    return rows


def pair_outputs(a: Outputs, b: Outputs) -> Paired:
    """Return the pairs of answers to the same prompt and sample, in A's order.

    Raises:
        DataError: no prompt in common.

    """
    common = [key for key in a.answers if key in b.answers]
    if not common:
        raise DataError(f"{a.source} and {b.source} answer no prompt in common")
    pairs = tuple(Pair(key[0], a.answers[key][0], a.answers[key][1], b.answers[key][1]) for key in common)
    return Paired(pairs, len(a.answers) - len(common), len(b.answers) - len(common))
