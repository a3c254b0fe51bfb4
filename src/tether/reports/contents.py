"""What a run folder holds, read once; whatever is missing stays empty, and the page says so."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tether.errors import RunFolderError
from tether.records.results import (
    Answer,
    Finding,
    Measurement,
    Record,
    RunRecord,
    Sample,
    answer_files,
    read_lines,
    read_run,
)

Line = Mapping[str, Any]
Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True)
class Rows:
    """Rows of data; None where the run does not say."""

    read: int | None
    used: int | None
    held_out: int | None
    left_out: int | None


@dataclass(frozen=True)
class RunContents:
    """One run folder in memory; `train` and `evals` are metrics lines by rising step."""

    folder: Path
    record: RunRecord
    train: tuple[Line, ...]
    evals: tuple[Line, ...]
    measurements: tuple[Measurement, ...]
    samples: tuple[Sample, ...]
    answers: Mapping[int, tuple[Answer, ...]]
    """What the model of each measured step answered to the prompts of `samples`, by rising step."""
    findings: tuple[Finding, ...]
    preflight: Mapping[str, Any]
    config_text: str
    """config.yaml as it is, or empty."""
    not_finite: int
    """Metric values left out of charts because they are NaN or infinite."""

    @property
    def evaluators(self) -> tuple[str, ...]:
        """Names of the scores that were measured, in the order they were given."""
        names = {name: None for measurement in self.measurements for name in measurement.scores}
        return tuple(names)

    @property
    def score_name(self) -> str:
        """What the score of a sample is called: the first evaluator, in words."""
        return words(self.evaluators[0]) if self.evaluators else "score"

    @property
    def start(self) -> Measurement | None:
        """The measurement before the first update."""
        first = self.measurements[0] if self.measurements else None
        return first if first is not None and first.step == 0 else None

    @property
    def end(self) -> Measurement | None:
        """The last measurement after at least one update."""
        last = self.measurements[-1] if self.measurements else None
        return last if last is not None and last.step > 0 else None

    @property
    def files(self) -> list[Mapping[str, Any]]:
        """Data files that were read: path, split, sha256, format, rows read and used."""
        found = self.record.data.get("files") or self.preflight.get("files") or []
        return [file if isinstance(file, Mapping) else {"path": str(file)} for file in found]

    @property
    def rows(self) -> Rows:
        """How many rows were read, trained on, held out, and left out."""
        data, checked = self.record.data, self.preflight
        read, used = _whole(data.get("read", checked.get("read"))), _whole(data.get("used"))
        held_out = _whole(data.get("eval_used"))
        if read is None or used is None:
            return Rows(read, used, held_out, None)
        everything = read + (_whole(checked.get("eval_read")) or 0)
        return Rows(everything, used, held_out, everything - used - (held_out or 0))

    def eval_ends(self, name: str) -> tuple[float | None, float | None]:
        """Return a held-out metric at step 0 and at the last evaluation, None where it was not measured."""
        values = [(line["step"], line[name]) for line in self.evals if name in line]
        if not values:
            return None, self.record.results.get(name)
        first = values[0][1] if values[0][0] == 0 else None
        last = values[-1][1] if values[-1][0] > 0 else None
        return first, last


def read_contents(run: Path) -> RunContents:
    """Read a run folder.

    Raises:
        RunFolderError: no run.json, or a file in it cannot be read; names the file.

    """
    record = read_run(run)
    lines, not_finite = _finite(_lines(run / "metrics.jsonl"))
    preflight = _document(run / "preflight.json")
    return RunContents(
        folder=run,
        record=record,
        train=_by_step(lines, "train"),
        evals=_by_step(lines, "eval"),
        measurements=_measurements(record, _by_step(lines, "measure"), run),
        samples=tuple(_parsed(Sample, run / "samples.jsonl", _lines(run / "samples.jsonl"))),
        answers={
            step: tuple(_parsed(Answer, path, _lines(path))) for step, path in answer_files(run).items()
        },
        findings=tuple(_parsed(Finding, run / "preflight.json", _findings(preflight))),
        preflight=preflight,
        config_text=_text(run / "config.yaml"),
        not_finite=not_finite,
    )


def words(name: str) -> str:
    """Return a metric name as words: `gold_reward` -> `gold reward`."""
    return name.replace("_", " ")


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a nested object, or an empty one where there is none."""
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[Any] = list(read_lines(path))
    except (ValueError, OSError) as error:
        raise RunFolderError(
            f"{path}: a line is not JSON ({error}); restore the file or remove it"
        ) from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RunFolderError(f"{path}:{number}: a JSON object is needed, not {type(row).__name__}")
    return rows


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunFolderError(f"{path}: not JSON ({error}); run tether check again or remove it") from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path}: a JSON object is needed, not {type(document).__name__}")
    return document


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""


def _finite(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    kept: list[dict[str, Any]] = []
    removed = 0
    for line in lines:
        bad = [name for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)]
        removed += len(bad)
        kept.append({name: value for name, value in line.items() if name not in bad and value is not None})
    return kept, removed


def _by_step(lines: Iterable[Line], phase: str) -> tuple[Line, ...]:
    """Keep the last line of each step: a resumed run may have written a step twice."""
    by_step = {int(line["step"]): line for line in lines if line.get("phase") == phase and "step" in line}
    return tuple(by_step[step] for step in sorted(by_step))


def _measurements(record: RunRecord, lines: Iterable[Line], run: Path) -> tuple[Measurement, ...]:
    """Take the record's measurements; a run that has not finished has them in metrics.jsonl only."""
    if record.measurements:
        return tuple(sorted(record.measurements, key=lambda m: m.step))
    documents: list[dict[str, Any]] = []
    for line in lines:
        document: dict[str, Any] = {"scores": {}, "scores_se": {}}
        for name, value in line.items():
            group, _, evaluator = name.partition("/")
            if evaluator and group in ("scores", "scores_se"):
                document[group][evaluator] = value
            elif name in Measurement.model_fields:
                document[name] = value
        documents.append(document)
    return tuple(_parsed(Measurement, run / "metrics.jsonl", documents))


def _findings(preflight: Mapping[str, Any]) -> list[Any]:
    found = preflight.get("findings", [])
    return found if isinstance(found, list) else []


def _parsed(kind: type[Kind], path: Path, documents: Iterable[Any]) -> list[Kind]:
    try:
        return [kind.model_validate(document) for document in documents]
    except ValueError as error:
        raise RunFolderError(f"{path}: not a file of this version of tether: {error}") from error
