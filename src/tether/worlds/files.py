"""The files of a made world and the record beside them: no drawing, no model.

    DIR/model/         the base model, an ordinary Hugging Face folder: the reference that wrote the pairs
    DIR/train.jsonl    pairs in TRL's conversational format: `prompt`, `chosen`, `rejected` (message lists)
    DIR/eval.jsonl     the same for held-out pairs
    DIR/prompts.jsonl  `prompt` only, for sampling
    DIR/world.json     `WorldRecord`: what is true here, and how the files came about

Gold scores are in no data file.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import DataError, RunFolderError
from tether.records.results import SCHEMA, Record


class PairsRecord(Record):
    """How the pairs of one file came about."""

    rows: int
    distinct: int
    """Rows that differ in prompt, chosen or rejected."""
    label_agreement: float
    """Share of pairs whose chosen completion has the higher gold reward; equal rewards count one half."""
    expected_agreement: float
    """The same as the Bradley-Terry law expects it for these completions: mean of sigmoid(|difference|)."""
    equal_reward: int
    """Pairs whose two completions have the same gold reward."""
    drawn_again: dict[str, int]
    """Draws thrown away, by reason: `identical`, `empty`, `cut` (no end token), `unspellable`."""


class BaseRecord(Record):
    """The base model's own samples, those of all pairs: mean and standard deviation of the gold reward."""

    completions: int
    gold_reward: float
    gold_reward_sd: float


class WorldRecord(Record):
    """`world.json`: a world, the truth it was made with, and how the files beside it came about."""

    schema_version: int = SCHEMA
    name: str
    version: int
    description: str
    reward: dict[str, str]
    """Parts of the gold reward, in words; the reward is their sum."""
    labels: str
    claims: tuple[str, ...]
    """What this world can and cannot show."""
    parameters: dict[str, Any]
    made: dict[str, int]
    """pairs, eval_pairs, prompts, seed: what `tether world make` was asked for."""
    max_new_tokens: int
    """Completion tokens, end token included, that every completion of the world fits in."""
    train: PairsRecord
    eval: PairsRecord
    base: BaseRecord
    files: dict[str, str]
    """SHA-256 of every file beside this one."""


@dataclass(frozen=True)
class WorldFiles:
    """Where a world's files are, and the record that describes them."""

    folder: Path
    model: Path
    train: Path
    eval: Path
    prompts: Path
    world: Path
    record: WorldRecord
    made_now: bool
    """False where the folder already held exactly these files."""


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a world's folder but world.json, by its path inside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "world.json")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def world_files(folder: Path, record: WorldRecord, *, made_now: bool) -> WorldFiles:
    """Return the paths of a world's files in this folder."""
    return WorldFiles(
        folder=folder,
        model=folder / "model",
        train=folder / "train.jsonl",
        eval=folder / "eval.jsonl",
        prompts=folder / "prompts.jsonl",
        world=folder / "world.json",
        record=record,
        made_now=made_now,
    )


def read_world(folder: Path) -> WorldRecord:
    """Read `world.json` of a folder, or the file itself.

    Raises:
        DataError: there is none, or it cannot be read.

    """
    path = folder / "world.json" if folder.is_dir() else folder
    if not path.is_file():
        raise DataError(f"{path}: no world.json here; write one with: tether world make NAME --out {folder}")
    try:
        return WorldRecord.model_validate_json(path.read_bytes())
    except ValueError as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: not a world.json of this version of tether: {line}") from error


def existing(name: str, version: int, out: Path, made: dict[str, int]) -> WorldFiles | None:
    """Return what a folder holds where that is exactly what would be written, None where it is free.

    Raises:
        RunFolderError: the folder holds something else, or files that were changed since.

    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out}: is a file; name a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    advice = "name a new folder, or remove this one"
    if not (out / "world.json").is_file():
        raise RunFolderError(f"{out}: the folder is not empty and holds no world; {advice}")
    record = read_world(out)
    wanted = {"name": name, "version": version, **made}
    there = {"name": record.name, "version": record.version, **record.made}
    for key, value in wanted.items():
        if there.get(key) != value:
            raise RunFolderError(f"{out}: holds a world with {key} {there.get(key)}, not {value}; {advice}")
    found = digests(out)
    changed = sorted(n for n in {*found, *record.files} if found.get(n) != record.files.get(n))
    if changed:
        raise RunFolderError(f"{out}: {changed[0]} is not as the world wrote it; {advice}")
    return world_files(out, record, made_now=False)
