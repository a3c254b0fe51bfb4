"""Reading pairwise annotations against one baseline: AlpacaEval's JSON, Parquet, and the tables beside them.

Everything is joined by the identity of the prompt (its number, or its text), never by the position of a row:
a file with a missing row would otherwise shift every prompt after it.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tether.errors import DataError
from tether.judging.length_control import GamedRows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Annotations:
    """M models judged against one baseline on n prompts; arrays are [M, n], NaN where there is nothing.

    `share` is the model's share of the win in [0, 1]; `delta` the baseline's length minus the model's and
    `chars` the model's length, in characters, NaN where the row itself is missing.
    """

    source: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    share: Array
    delta: Array
    chars: Array
    by_text: bool = False
    """Prompts are named by their text, because the rows carry no number."""

    def select(self, models: Iterable[str]) -> "Annotations":
        """Return these models, in this order, over the same prompts."""
        rows = [self.models.index(model) for model in models]
        return replace(
            self,
            models=tuple(self.models[row] for row in rows),
            share=self.share[rows],
            delta=self.delta[rows],
            chars=self.chars[rows],
        )


@dataclass(frozen=True)
class _Row:
    model: str
    prompt: str
    share: float
    chars: int
    chars_baseline: int


def read_annotations(path: Path, prompts: Path | None = None) -> Annotations:
    """Read a Parquet table (`model, index, preference, chars_model, chars_baseline`) or AlpacaEval's JSON.

    Args:
        path: the file; JSON is a list of `instruction, output_1, output_2, generator_2, preference` objects.
        prompts: a JSON list of objects with `instruction`, in the benchmark's order: numbers for JSON rows.

    Raises:
        DataError: unreadable, a field is missing or out of range, a prompt is there twice for one model.

    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a Parquet or JSON file of annotations")
    numbers = None if prompts is None else _numbers(prompts)
    if path.suffix == ".parquet":
        return _build(str(path), _parquet_rows(path), by_text=False)
    records = _json_list(path)
    by_text = numbers is None and not all("index" in record for record in records)
    return _build(str(path), _json_rows(path, records, numbers, by_text), by_text=by_text)


def merged(parts: Sequence[Annotations]) -> Annotations:
    """Return several files of annotations as one, joined by prompt; all are taken to share their baseline.

    Raises:
        DataError: a model is in two files, or only some of the files number their prompts.

    """
    if len(parts) == 1:
        return parts[0]
    models = tuple(model for part in parts for model in part.models)
    twice = [model for model, count in Counter(models).items() if count > 1]
    if twice:
        raise DataError(f"{parts[-1].source}: {twice[0]} is in another of these files too")
    if len({part.by_text for part in parts}) > 1:
        raise DataError("some of these files number their prompts and some do not: they cannot be joined")
    prompts = _sorted({prompt for part in parts for prompt in part.prompts})
    place = {prompt: i for i, prompt in enumerate(prompts)}
    share, delta, chars = (np.full((len(models), len(prompts)), np.nan) for _ in range(3))
    row = 0
    for part in parts:
        columns = [place[prompt] for prompt in part.prompts]
        rows = slice(row, row + len(part.models))
        share[rows, columns], delta[rows, columns], chars[rows, columns] = part.share, part.delta, part.chars
        row += len(part.models)
    source = ", ".join(part.source for part in parts)
    return Annotations(source, models, prompts, share, delta, chars, parts[0].by_text)


def read_difficulty(path: Path, annotations: Annotations) -> Array:
    """Read a difficulty table (`index` or `instruction`, `instruction_difficulty`), one value per prompt.

    Raises:
        DataError: unreadable, no such column, or a prompt of the annotations is not in it.

    """
    rows = _csv_rows(path)
    if "instruction_difficulty" not in rows[0]:
        raise DataError(f"{path}: no column instruction_difficulty (found {', '.join(rows[0])})")
    name = _key_column(path, rows[0], annotations)
    table: dict[str, float] = {}
    for line, row in enumerate(rows, start=2):
        table.setdefault(_key(row[name]), _number(path, line, row, "instruction_difficulty"))
    absent = [prompt for prompt in annotations.prompts if prompt not in table]
    if absent:
        raise DataError(
            f"{path}: no difficulty for {len(absent)} of {len(annotations.prompts)} prompts of "
            f"{annotations.source}, the first is {absent[0][:60]!r}"
        )
    return np.array([table[prompt] for prompt in annotations.prompts])


def read_gamed(path: Path, annotations: Annotations, difficulty: Array | None) -> GamedRows:
    """Read the gamed baselines' rows: `model, index, preference, std_delta_len, instruction_difficulty`.

    `preference` is the share in [0, 1] as AlpacaEval's table has it, or 1 to 2 as its annotations have;
    `chars_model, chars_baseline` may stand for `std_delta_len`; without a difficulty the prompt's is used.

    Raises:
        DataError: unreadable, a column is missing, a prompt without a difficulty.

    """
    rows = _csv_rows(path)
    known = dict(zip(annotations.prompts, () if difficulty is None else difficulty, strict=False))
    share = np.array([_number(path, line, row, "preference") for line, row in enumerate(rows, start=2)])
    if share.min() >= 1 and share.max() > 1:
        share = share - 1
    if share.min() < 0 or share.max() > 1:
        raise DataError(
            f"{path}: preference from {share.min():g} to {share.max():g}; 0 to 1 or 1 to 2 needed"
        )
    return GamedRows(_scaled_delta(path, rows), _gamed_difficulty(path, rows, known), share)


def gamed_difficulty_table(path: Path) -> bool:
    """Tell whether a gamed table carries the prompts' difficulty itself, as AlpacaEval's does."""
    return "instruction_difficulty" in _csv_rows(path)[0]


def _scaled_delta(path: Path, rows: list[dict[str, str]]) -> Array:
    lines = list(enumerate(rows, start=2))
    if "std_delta_len" in rows[0]:
        return np.array([_number(path, line, row, "std_delta_len") for line, row in lines])
    delta = np.array(
        [
            _number(path, line, row, "chars_baseline") - _number(path, line, row, "chars_model")
            for line, row in lines
        ]
    )
    models = np.array([row.get("model", "") for row in rows])
    scaled = np.empty_like(delta)
    for model in np.unique(models):
        scaled[models == model] = delta[models == model] / delta[models == model].std(ddof=1)
    return scaled


def _gamed_difficulty(path: Path, rows: list[dict[str, str]], known: Mapping[str, float]) -> Array:
    if "instruction_difficulty" in rows[0]:
        return np.array(
            [_number(path, line, row, "instruction_difficulty") for line, row in enumerate(rows, start=2)]
        )
    values: list[float] = []
    for line, row in enumerate(rows, start=2):
        key = _key(row.get("index") or row.get("instruction") or "")
        if key not in known:
            raise DataError(
                f"{path}:{line}: no difficulty for prompt {key[:60]!r}; name --difficulty TABLE.csv"
            )
        values.append(known[key])
    return np.array(values)


def _key_column(path: Path, row: Mapping[str, str], annotations: Annotations) -> str:
    if annotations.by_text:
        if "instruction" in row:
            return "instruction"
        raise DataError(
            f"{annotations.source}: rows carry no index and {path} names prompts by number; rows are never "
            "joined by position: name --prompts FILE.json, the benchmark's prompts in order"
        )
    return "index" if "index" in row else next(iter(row))


def _parquet_rows(path: Path) -> list[_Row]:
    needed = ["model", "index", "preference", "chars_model", "chars_baseline"]
    try:
        names = pq.read_schema(path).names
        absent = [name for name in needed if name not in names]
        if absent:
            raise DataError(f"{path}: no column {', '.join(absent)} (found {', '.join(names)})")
        columns = pq.read_table(path, columns=needed).to_pydict()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    return [
        _Row(str(model), _key(index), share_of(f"{path} row {number}", preference), int(chars), int(baseline))
        for number, (model, index, preference, chars, baseline) in enumerate(
            zip(*(columns[name] for name in needed), strict=True)
        )
    ]


def _json_rows(
    path: Path, records: list[dict[str, Any]], numbers: Mapping[str, str] | None, by_text: bool
) -> list[_Row]:
    rows: list[_Row] = []
    for number, record in enumerate(records):
        where = f"{path} row {number}"
        for name in ("instruction", "output_1", "output_2", "generator_2", "preference"):
            if name not in record:
                raise DataError(f"{where}: no field {name}")
        text = str(record["instruction"])
        prompt = text if by_text else _key(record["index"]) if numbers is None else numbers.get(text, "")
        if not prompt:
            raise DataError(f"{where}: the instruction {text[:60]!r} is not in --prompts")
        lengths = len(str(record["output_2"])), len(str(record["output_1"]))
        rows.append(_Row(str(record["generator_2"]), prompt, share_of(where, record["preference"]), *lengths))
    return rows


def _build(source: str, rows: list[_Row], *, by_text: bool) -> Annotations:
    if not rows:
        raise DataError(f"{source}: no rows")
    repeated = [key for key, count in Counter((row.model, row.prompt) for row in rows).items() if count > 1]
    if repeated:
        model, prompt = repeated[0]
        raise DataError(
            f"{source}: {len(repeated)} prompts are there twice for one model, the first is {prompt[:60]!r} "
            f"of {model}; give rows an index, or remove the copies"
        )
    models, prompts = tuple(dict.fromkeys(row.model for row in rows)), _sorted({row.prompt for row in rows})
    place = {model: i for i, model in enumerate(models)}, {prompt: i for i, prompt in enumerate(prompts)}
    share, delta, chars = (np.full((len(models), len(prompts)), np.nan) for _ in range(3))
    for row in rows:
        at = place[0][row.model], place[1][row.prompt]
        share[at], chars[at], delta[at] = row.share, row.chars, row.chars_baseline - row.chars
    return Annotations(source, models, prompts, share, delta, chars, by_text)


def _sorted(prompts: set[str]) -> tuple[str, ...]:
    return tuple(sorted(prompts, key=lambda p: (0, int(p), "") if p.isdecimal() else (1, 0, p)))


def share_of(where: str, preference: object) -> float:
    """Return the share in [0, 1] of a preference from 1 (baseline) to 2 (model); 0 is an old tie."""
    if preference is None:
        return float("nan")
    try:
        value = float(preference)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise DataError(f"{where}: preference {preference!r} is not a number from 1 to 2") from None
    if value != value:
        return value
    if value == 0:
        return 0.5
    if not 1 <= value <= 2:
        raise DataError(f"{where}: preference {value:g} is not from 1 (baseline better) to 2 (model better)")
    return value - 1


def _key(value: object) -> str:
    text = str(value)
    return text[:-2] if text.endswith(".0") and text[:-2].isdecimal() else text


def _numbers(path: Path) -> dict[str, str]:
    texts = [str(record.get("instruction", "")) for record in _json_list(path)]
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: the instruction {repeated[0][:60]!r} is there twice; it names no prompt")
    return {text: str(number) for number, text in enumerate(texts)}


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: a JSON list of objects is needed")
    return records


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows under the header")
    return rows


def _number(path: Path, line: int, row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except KeyError:
        raise DataError(f"{path}: no column {name} (found {', '.join(row)})") from None
    except (TypeError, ValueError):
        raise DataError(f"{path}:{line}: {name} {row[name]!r} is not a number") from None
    if not np.isfinite(value):
        raise DataError(f"{path}:{line}: {name} is {value}")
    return value
