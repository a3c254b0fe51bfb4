"""A task's data in one shape, whatever it came from: files of pairs, and under the task's data/ folder.

train.jsonl, eval.jsonl   only where rows are changed (`tasks.marked`)
prompts.jsonl      `id`, `prompt`: what is answered
references.jsonl   `id`, `prompt`, `completion`: what answers are compared with
data.json          what was read and left out; written last, so that it says all is there
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from tether.config.hub import Pins
from tether.config.task import PairFiles, TaskConfig
from tether.data.checks import load
from tether.data.inputs import inputs
from tether.data.prompts import HUMAN
from tether.errors import DataError, RunFolderError
from tether.policies.load import read_json
from tether.records.results import read_lines, write_json, write_lines
from tether.records.rows import Content, Preference, canonical_json
from tether.tasks.marked import marked, write_marked
from tether.worlds import load_world
from tether.worlds.pairs import turn
from tether.worlds.readable import Readable

NAMES = "hub.json"
"""Models of the hub as a task asked for them -> as used."""
REFERENCES = {
    "written": "texts of the world's own language, as people there write them",
    "chosen": "the chosen one of two samples of the base model, drawn by Bradley-Terry on the gold reward",
}


@dataclass(frozen=True)
class Asked:
    """One test prompt and what its answers are compared with."""

    id: str
    prompt: Content
    reference: str


@dataclass(frozen=True)
class TaskData:
    """Where the rows are, the model everything starts from, and what became of the rows."""

    model: str
    train: tuple[str, ...]
    held_out: str | None
    prompts: Path
    asked: tuple[Asked, ...]
    references: str
    counts: dict[str, Any]


def readable_world(name: str) -> Readable:
    """Return the world a small task runs in.

    Raises:
        DataError: no readable world; only those have references to compare with.

    """
    world = load_world(name)
    if not isinstance(world, Readable):
        raise DataError(f"world {name}: has no reference completions; a task needs a readable world")
    return world


def world_data(config: TaskConfig, folder: Path) -> TaskData:
    """Make a world's model and pairs, and the references of its test prompts."""
    world = readable_world(config.world or "")
    files = world.make(
        folder / "world",
        pairs=config.pairs,
        eval_pairs=config.eval_pairs,
        prompts=config.prompts,
        seed=config.seed,
    )
    messages = [str(row["prompt"][0]["content"]) for row in read_lines(files.prompts)]
    data = folder / "data"
    if not (data / "data.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(files.model, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(files.model, local_files_only=True)
        texts = world.reference_completions(model, tokenizer, messages, config.seed)
        asked = [
            Asked(f"test-{i}", tuple(turn("user", message)), text)
            for i, (message, text) in enumerate(zip(messages, texts, strict=True))
        ]
        write_asked(data, asked, {"pairs": files.record.train.rows, "held_out": files.record.eval.rows})
    return TaskData(
        model=str(files.model),
        train=(str(files.train),),
        held_out=str(files.eval),
        prompts=data / "prompts.jsonl",
        asked=read_asked(data),
        references=REFERENCES[world.references],
        counts=read_counts(data),
    )


def start_model(name: str, data: Path) -> str:
    """Return the model a task starts from; one of the hub with the commit the task began with.

    Raises:
        ModelError: it is not here, and the hub cannot give it.

    """
    known = read_json(data / NAMES) if (data / NAMES).is_file() else {}
    pins = Pins(known)
    used = pins.model(name)
    if pins.made and pins.made != known:
        data.mkdir(parents=True, exist_ok=True)
        write_json(data / NAMES, pins.made)
    return used


def file_data(config: TaskConfig, files: PairFiles, folder: Path) -> TaskData:
    """Name the preference files of a full-size task, and pick its test prompts with their references."""
    data = folder / "data"
    model = start_model(config.model or "", data)
    if not (data / "data.json").is_file():
        rows, counts = pick_rows(files, config)
        write_asked(data, rows, {**_moved(files, data), **counts})
    moved = files.mark is not None
    return TaskData(
        model=model,
        train=(str(data / "train.jsonl"),) if moved else files.train,
        held_out=str(data / "eval.jsonl") if moved and files.eval is not None else files.eval,
        prompts=data / "prompts.jsonl",
        asked=read_asked(data),
        references="the answers of the test rows (the chosen one where a row has two)",
        counts=read_counts(data),
    )


def _moved(files: PairFiles, data: Path) -> dict[str, int]:
    """Write training and held-out rows with the mark in their prompts, where the config names one."""
    if files.mark is None:
        return {}
    data.mkdir(parents=True, exist_ok=True)
    counts = write_marked(files.train, files.mark, data / "train.jsonl", "pairs")
    if files.eval is not None:
        counts |= write_marked((files.eval,), files.mark, data / "eval.jsonl", "held_out")
    return counts


def pick_rows(files: PairFiles, config: TaskConfig) -> tuple[list[Asked], dict[str, Any]]:
    """Return `config.prompts` test rows with different prompts, drawn by the seed, and what was left out.

    Raises:
        DataError: no row is left, or a row's answer is not one text.

    """
    raw: list[dict[str, Any]] = []
    unreadable = 0
    for source in inputs(files.test, "eval"):
        for row in source.raw_rows(source.name):
            value = None if row.value is None else _renamed(row.value, files)
            unreadable += value is None
            if value is not None:
                raw.append(value)
    loaded = load(raw)
    one_turn = [row for row in loaded.rows if not files.single_turn or turns(row.prompt) == 1]
    distinct = {canonical_json(row.prompt): row for row in reversed(one_turn)}
    rows = [distinct[key] for key in sorted(distinct)]
    random.Random(config.seed).shuffle(rows)
    counts = {
        "test_read": len(raw) + unreadable,
        "test_unusable": unreadable + len(raw) - len(loaded.rows),
        "test_longer_dialogues": len(loaded.rows) - len(one_turn),
        "test_repeated_prompts": len(one_turn) - len(distinct),
    }
    if len(rows) < 2:
        raise DataError(
            f"{', '.join(files.test)}: {len(rows)} test prompts are left of {counts['test_read']} rows"
        )
    return [_asked(i, row) for i, row in enumerate(rows[: config.prompts])], counts


def _renamed(row: Mapping[str, Any], files: PairFiles) -> dict[str, Any] | None:
    named = {files.columns.get(name, name): value for name, value in row.items()}
    return named if files.mark is None else marked(named, files.mark)


def turns(prompt: Content) -> int:
    """Return how many turns of the user a prompt holds; a text without HH's tags is one."""
    if isinstance(prompt, str):
        return max(1, prompt.count(HUMAN))
    return sum(message.get("role") == "user" for message in prompt)


def _asked(index: int, row: Preference) -> Asked:
    answer = row.role("chosen") or row.role("completion")
    content = answer.content if answer is not None else None
    if isinstance(content, tuple) and len(content) == 1:
        content = content[0].get("content")
    if not isinstance(content, str):
        raise DataError(f"{row.row_id}: its answer is not one text; a task compares single answers")
    return Asked(f"test-{index}", row.prompt, content)


def write_asked(data: Path, asked: Sequence[Asked], counts: dict[str, Any]) -> None:
    """Write prompts, references and, last, what became of the rows."""
    data.mkdir(parents=True, exist_ok=True)
    write_lines(data / "prompts.jsonl", ({"id": one.id, "prompt": one.prompt} for one in asked))
    write_lines(
        data / "references.jsonl",
        (
            {"id": one.id, "prompt": one.prompt, "completion": one.reference, "model": "reference"}
            for one in asked
        ),
    )
    write_json(data / "data.json", {**counts, "test_prompts": len(asked)})


def read_asked(data: Path) -> tuple[Asked, ...]:
    """Return the test prompts and references written before.

    Raises:
        RunFolderError: the file was changed or is damaged.

    """
    path = data / "references.jsonl"
    try:
        rows = [
            Asked(
                row["id"],
                row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"]),
                row["completion"],
            )
            for row in read_lines(path)
        ]
    except (KeyError, ValueError, OSError) as error:
        raise RunFolderError(f"{path}: not as it was written; remove {data} and run again") from error
    return tuple(rows)


def read_counts(data: Path) -> dict[str, Any]:
    """Return what became of the rows."""
    return json.loads((data / "data.json").read_text(encoding="utf-8"))
