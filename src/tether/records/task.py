"""`task.json`: what a task of the literature gave, every number with its interval. No torch.

Intervals are 95 %. Those of rates, rewards and differences are bootstrap intervals over test prompts; those
of the frontier are 1.96 standard errors over held-out prompts. Each model was trained once, with one seed:
none of them says what another training seed would change.
"""

from pathlib import Path
from typing import Any, Literal

from tether.errors import DataError
from tether.records.comparison import Estimate
from tether.records.results import SCHEMA, Record
from tether.records.rows import Message

PolicyKind = Literal["base", "start", "preferred-ft", "dpo", "unlikelihood", "best-of-n", "best-of-n-true"]


class TaskPolicy(Record):
    """Something that answers prompts."""

    name: str
    kind: PolicyKind
    text: str
    """What it is, in words."""
    model: str | None = None
    """Folder of its weights, relative to the task's folder; None where it picks among another's samples."""
    setting: float | None = None
    """beta of DPO, alpha of unlikelihood, N of Best-of-N."""
    compared: bool
    """Its answers were compared with the references."""


class WinRate(Record):
    """One policy at one temperature against the reference completions; rates in percent."""

    policy: str
    temperature: float
    win_rate: Estimate
    """Both orders averaged; a tie is half a win."""
    ties: float
    """Percent of judged prompts on which neither won."""
    prompts: int
    """Judged in both orders."""
    failed: int
    """Without a verdict: in no number."""
    reward: Estimate | None = None
    """Mean reward of the answers, where the task's reward is known."""
    reference_reward: float | None = None
    """The same of the reference completions, on the same prompts."""
    chars: float
    """Mean length of the answers."""
    cut: float
    """Percent of answers cut at the limit."""


class Gap(Record):
    """Win rate of the DPO model minus another's at one temperature, on the same prompts, in points."""

    policy: str
    other: str
    temperature: float
    points: Estimate
    distinguishable: bool
    prompts: int


class FrontierPoint(Record):
    """One model at one moment of its training: what it gained and what it spent, at temperature 1."""

    policy: str
    kind: PolicyKind
    setting: float | None
    step: int
    kl: Estimate
    """KL(policy || start model), nats per answer."""
    reward: Estimate
    prompts: int


class Example(Record):
    """One test prompt, its reference, and what some policies answered; scores where the reward is known."""

    prompt: str | tuple[Message, ...]
    reference: str
    reference_score: float | None
    answers: dict[str, str]
    scores: dict[str, float]


class Stage(Record):
    """One stage of the run."""

    name: str
    seconds: float
    """Of the run that finished the record; a stage that was there already takes next to none."""


class TaskRecord(Record):
    """Everything a task gave."""

    schema_version: int = SCHEMA
    kind: Literal["task"] = "task"
    task: str
    title: str
    size: Literal["world", "full"]
    tether_version: str
    created: str
    config: dict[str, Any]
    judge: str
    reward: str | None
    """What the reward is; None where there is none."""
    references: str
    """What the reference completions are."""
    data: dict[str, Any]
    """Rows of each kind, and what was left out on the way."""
    policies: tuple[TaskPolicy, ...]
    win_rates: tuple[WinRate, ...]
    gaps: tuple[Gap, ...]
    frontier: tuple[FrontierPoint, ...]
    examples: tuple[Example, ...]
    example_temperature: float
    stages: tuple[Stage, ...]


def read_task(folder: Path) -> TaskRecord:
    """Read `task.json` of a task's folder.

    Raises:
        DataError: there is none, or it cannot be read.

    """
    path = folder / "task.json"
    if not path.is_file():
        raise DataError(
            f"{path}: no finished task here; run it with: tether task run NAME --output-dir {folder}"
        )
    try:
        return TaskRecord.model_validate_json(path.read_bytes())
    except ValueError as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: not a task.json of this version of tether: {line}") from error
