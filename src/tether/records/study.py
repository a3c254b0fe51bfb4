"""What a study leaves on disk, as JSON. No torch.

    O/study.json                             `StudyRecord`
    O/cells/<cell_id>/cell.json              `CellRecord`: state of one cell
    O/cells/<cell_id>/measures/summary.json  `CellMeasures`; written last, so without it nothing was measured
    O/shared/start/summary.json              `CellMeasures` of the start model

The tables beside them (Parquet) are in `study.tables`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tether.records.results import SCHEMA, Kind, Record, read_document

CellState = Literal["planned", "running", "finished", "failed", "interrupted"]

STUDY, CELL, SUMMARY = "study.json", "cell.json", "summary.json"
MEASURED = ("held_out.parquet", "tokens.parquet", "samples.parquet")
"""Tables of a measured model, beside its summary."""
CELLS, SHARED, MEASURES = "cells", "shared", "measures"
SCORERS, CROSSED = "scorers", "crossed.parquet"
CROSS_FIT = "cross-fit"
"""Key of a cell's processor seconds of cross-fitting."""


class Factors(Record):
    """What may differ between the cells of a study."""

    loss_type: str
    """Objective as `tether train --loss-type` names it; a sum of several is joined by `+`."""
    beta: float | None
    """None where the objective reads none."""
    reference: str
    """As `--reference` takes it; `none` where the objective reads none."""
    learning_rate: float
    seed: int
    data_fraction: float = 1.0
    """Share of the training prompts used."""
    labels: Literal["given", "shuffled"] = "given"
    """Shuffled: chosen and rejected swapped in a random half of the pairs, a control of what is learnt."""


class CellRecord(Record):
    """`cell.json`: one cell, its state and what it took."""

    schema_version: int = SCHEMA
    cell_id: str
    factors: Factors
    state: CellState = "planned"
    attempts: int = 0
    """Times it was started; an interruption by the user is not counted."""
    error: str | None = None
    """One line, where the last attempt failed."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall seconds per stage: train, measure. Cross-fitting: processor seconds."""
    worker: int | None = None
    """Process id of the worker that ran it last."""


class CellMeasures(Record):
    """`summary.json`: one model on held-out rows and on its own samples; SE over prompts, None with one.

    Log-probs are nats. Log-ratios are against the start model, so that they mean the same whatever the
    reference. The implicit reward is the objective's own, beta x log(policy / reference); for reference
    `none` the latter is 0.
    """

    schema_version: int = SCHEMA
    pairs: int
    """Held-out rows with a chosen and a rejected completion."""
    prompts: int
    samples: int
    loss: float | None = None
    """The cell's own objective on the held-out rows; None for the start model."""
    loss_se: float | None = None
    implicit_accuracy: float | None = None
    """Share of pairs the implicit reward ranks as the label does, ties one half."""
    implicit_accuracy_se: float | None = None
    policy_accuracy: float | None = None
    """Share of pairs whose chosen completion is more probable under the policy (RefDPO, Table 2)."""
    policy_accuracy_se: float | None = None
    policy_accuracy_per_token: float | None = None
    policy_accuracy_per_token_se: float | None = None
    chosen_log_ratio: float | None = None
    chosen_log_ratio_se: float | None = None
    rejected_log_ratio: float | None = None
    rejected_log_ratio_se: float | None = None
    chosen_log_ratio_per_token: float | None = None
    chosen_log_ratio_per_token_se: float | None = None
    rejected_log_ratio_per_token: float | None = None
    rejected_log_ratio_per_token_se: float | None = None
    large_share: float
    """Share of held-out completion tokens with |log-ratio| > 10 nats."""
    kl: float
    """KL(policy || start) per sequence, Rao-Blackwell, on own samples."""
    kl_se: float | None = None
    kl_per_token: float
    """KL over the samples' tokens: sum of both."""
    kl_per_token_se: float | None = None
    kl_reference: float | None = None
    """KL(policy || reference), where the reference is a runnable model of the same token-to-id map."""
    kl_reference_se: float | None = None
    entropy: float
    """Mean nats per token along the samples."""
    tokens: float
    """Mean sample length, end token included."""
    tokens_se: float | None = None
    end_rate: float
    """Share of samples that ended by themselves."""
    cut_share: float
    """Share cut at the limit."""
    repetition: float
    """Share of 4-grams that already occurred in the same sample."""
    distinct: float
    """Distinct 2-grams over all 2-grams of all samples."""
    large_share_samples: float
    """Share of the samples' own tokens with |log-ratio| > 10 nats."""
    degenerate: tuple[str, ...] = ()
    """Every rule (`analysis.drift.degeneration`) by which the model is degenerate beside the start model."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Mean score per evaluator or judge; a judge's is the win rate against the start model's samples."""
    scores_se: dict[str, float] = Field(default_factory=dict)
    ches: float | None = None
    """Of the start model, where asked for: mean length-normalised CHES score of the held-out pairs."""


class StudyRecord(Record):
    """`study.json`: everything needed to understand and repeat a study."""

    schema_version: int = SCHEMA
    kind: Literal["study"] = "study"
    study_id: str
    created: str
    tether_version: str
    status: Literal["planned", "running", "finished", "interrupted"]
    """Finished: every cell is finished or failed for good."""
    config: dict[str, Any]
    """The resolved options; `study.yaml` in another form."""
    cells: tuple[CellRecord, ...]
    """As of the last time the study's own process wrote; each cell's `cell.json` is newer or equal."""
    skipped: tuple[dict[str, Any], ...] = ()
    """Combinations left out: factors and reason."""
    hub: dict[str, str] = Field(default_factory=dict)
    """Models of the hub as they were asked for -> as used, with the commit."""
    shared: dict[str, Any] = Field(default_factory=dict)
    """What was done once, and the seconds it took."""
    timing: dict[str, float] = Field(default_factory=dict)
    """Wall seconds: of the study so far, of its workers."""
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    evaluators: tuple[str, ...] = ()
    """Names of the `score:` columns, judges included."""
    judge: str | None = None
    world: str | None = None
    prompts: tuple[str, ...] = ()
    """Row ids of the held-out prompts every model answered, in order."""


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Read one of the records above.

    Raises:
        RunFolderError: the file is missing, or another version of tether wrote it.

    """
    return read_document(kind, path, f"{path}: not there; name the --output-dir of a tether study")


def read_study(folder: Path) -> StudyRecord:
    """Read `study.json`, each cell as its own `cell.json` has it now.

    Raises:
        RunFolderError: the folder holds no study, or one of another version.

    """
    study = read_record(StudyRecord, folder / STUDY)
    cells = tuple(
        read_record(CellRecord, path)
        if (path := cell_folder(folder, cell.cell_id) / CELL).is_file()
        else cell
        for cell in study.cells
    )
    return study.model_copy(update={"cells": cells})


def cell_folder(folder: Path, cell_id: str) -> Path:
    """Return where a cell of a study lives."""
    return folder / CELLS / cell_id


def run_name(path: str) -> str:
    """Return the last part of a model's path; of RUN/model the run's name, which says more."""
    return Path(path).parent.name if Path(path).name == "model" else Path(path).name


def crossed_score(beta: float) -> str:
    """Return the score column of the cross-fitting scorer of this beta."""
    return f"cross_fitted:{beta:g}"


def measures(folder: Path) -> CellMeasures | None:
    """Return what was measured in a cell folder (or `shared/start`), or None where it was not yet.

    Where one of the tables is gone, it is to be measured again.
    """
    home = folder / MEASURES if (folder / MEASURES).is_dir() else folder
    whole = all((home / name).is_file() for name in (SUMMARY, *MEASURED))
    return read_record(CellMeasures, home / SUMMARY) if whole else None
