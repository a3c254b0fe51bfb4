"""Files a run leaves, read and written in one place. No torch.

run.json        what was run: `RunRecord`
metrics.jsonl   one flat object per line: `step`, `epoch`, `phase`, then metric names as TRL spells them
samples.jsonl   one `Sample` per line: the same prompt answered before and after training
samples/        step-N.jsonl, one `Answer` per line: the same prompts in the same order, every measured step
preflight.json  what `tether check` found
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tether.errors import RunFolderError
from tether.records.rows import Content

SCHEMA = 1
"""Version of every file described here; raised when a field changes its meaning."""

SAMPLES = "samples"
"""Folder of a run's answers by step."""

LARGE = 10.0
"""Nats: a token whose log-ratio exceeds this was moved by a factor of more than 20,000."""

Phase = Literal["train", "eval", "measure"]


class Record(BaseModel):
    """Base of every file on disk: unknown fields are kept out, values never change after creation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = TypeVar("Kind", bound=Record)


class Finding(Record):
    """One kind of thing a preflight found, with every row it was found in."""

    kind: str
    severity: Literal["dropped", "warning", "note"]
    count: int
    rows: tuple[str, ...] = ()
    """Row ids, all of them; what is printed is shortened, not this."""
    details: tuple[str, ...] = ()
    """What was found in each of `rows`, in step; empty where the text says it all."""
    text: str
    """One sentence: what it is and what to do."""


class Sample(Record):
    """One prompt answered by the model before and after training."""

    prompt: Content
    before: str
    after: str
    score_before: float | None = None
    score_after: float | None = None


class Answer(Record):
    """One prompt answered by the model of one step."""

    prompt: Content
    completion: str
    tokens: int
    """Length, end token included."""
    ended: bool
    """False: cut at `kl_max_new_tokens`."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Per evaluator."""
    kl_start: float | None = None
    """Nats of this answer, Rao-Blackwell; None where it was not measured."""


class Measurement(Record):
    """A model measured on its own samples (temperature 1, no filters): see `generation.measure`.

    KL values are nats per sequence, Rao-Blackwell estimates with the standard error of their mean over
    prompts; None where the two models do not share a token-to-id map.
    """

    step: int
    prompts: int
    samples: int
    kl_start: float | None = None
    kl_start_se: float | None = None
    kl_reference: float | None = None
    kl_reference_se: float | None = None
    entropy: float
    """Mean entropy of the next-token distribution along the samples, nats per token."""
    tokens: float
    """Mean completion length in tokens, end token included."""
    end_rate: float
    """Share of samples that ended by themselves."""
    cut_share: float
    """Share cut at `kl_max_new_tokens`."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Mean score per evaluator (`gold_reward`...)."""
    scores_se: dict[str, float] = Field(default_factory=dict)


class RunRecord(Record):
    """`run.json`: everything needed to understand and repeat a run."""

    schema_version: int = SCHEMA
    kind: Literal["train"] = "train"
    status: Literal["running", "finished", "interrupted", "failed", "planned"]
    run_id: str
    created: str
    tether_version: str
    config: dict[str, Any]
    hub: dict[str, str] = Field(default_factory=dict)
    """Models of the hub as they were asked for -> as used, with the commit; a resume uses the same."""
    model: dict[str, Any]
    """path, architecture, parameters, trainable_parameters, dtype, identity."""
    data: dict[str, Any]
    """train / eval: files with sha256, rows read, used, and counts of what was left out and why."""
    reference: dict[str, Any]
    """kind, description, identity {scored, computed}, verified (a sentence), rows."""
    objective: dict[str, Any]
    """name, equation, source, beta, zero_margin, reference need."""
    step0: dict[str, Any] = Field(default_factory=dict)
    """loss, margin_max, bound, verified (a sentence)."""
    layout: dict[str, Any] = Field(default_factory=dict)
    """name, requested, reason when it fell back, max_tokens_per_microbatch."""
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    planned_steps: int = 0
    """Updates the run makes unless it is stopped early."""
    steps: int = 0
    epochs: float = 0.0
    results: dict[str, float] = Field(default_factory=dict)
    """Last held-out metrics (`eval_*` names) and the last train metrics."""
    measurements: tuple[Measurement, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    """Things that happened: budget halved, layout fallback, damaged checkpoint skipped; step and text."""
    timing: dict[str, float] = Field(default_factory=dict)
    """Seconds per stage."""
    world: dict[str, Any] | None = None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Mapping[str, Any] | BaseModel) -> None:
    """Write one JSON document, indented, whole or not at all."""
    document = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_document(kind: type[Kind], path: Path, absent: str) -> Kind:
    """Read a record that is one JSON document.

    Raises:
        RunFolderError: there is none, which `absent` says, it is damaged, or another version of tether wrote
            it.

    """
    if not path.is_file():
        raise RunFolderError(absent)
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            said = first["msg"].removeprefix("Invalid JSON: ")
            raise RunFolderError(f"{path}: damaged, not whole as JSON: {said}") from error
        line = " ".join(str(error).split())
        raise RunFolderError(f"{path}: not readable by this version of tether: {line}") from error


def read_run(folder: Path) -> RunRecord:
    """Read `run.json` of a run folder.

    Raises:
        RunFolderError: there is none, or another version of tether wrote it.

    """
    absent = f"{folder}: no run.json here; name the --output-dir of a tether train run"
    return read_document(RunRecord, folder / "run.json", absent)


def answer_files(run: Path) -> dict[int, Path]:
    """Return the files of a run's answers by step, rising."""
    found = {path.stem.removeprefix("step-"): path for path in (run / SAMPLES).glob("step-*.jsonl")}
    return {step: found[str(step)] for step in sorted(int(name) for name in found if name.isdecimal())}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; a last line cut by a crash is left out.

    Raises:
        RunFolderError: a line is not JSON.

    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="surrogatepass") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith("\n"):
                continue
            try:
                document = json.loads(line)
            except ValueError as error:
                raise RunFolderError(f"{path}: damaged, line {number} is not JSON: {error}") from error
            yield document


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | BaseModel]) -> None:
    """Write a JSONL file, whole or not at all."""
    documents = (row.model_dump(mode="json") if isinstance(row, BaseModel) else row for row in rows)
    write_text(path, "".join(json.dumps(d, ensure_ascii=False, allow_nan=False) + "\n" for d in documents))
