"""One run of one program, as data: the driver writes a job, a child reads it and writes an outcome."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a child process trains, and how. The same fields mean the same in both programs."""

    program: str
    """tether, trl, or tether-study (one study over `betas`)."""
    model: str
    rows: str
    out: str
    count: int
    """Rows in the file."""
    per_update: int = 8
    learning_rate: float = 1e-5
    beta: float = 0.1
    max_length: int = 1024
    adapter: str | None = None
    """Folder of a LoRA adapter with B = 0 that both sides start from; None tunes all weights."""
    device: str = "cpu"
    bf16: bool = False
    checkpointing: bool = False
    patched_head: bool = False
    """TRL: score completion positions only, as it does on a GPU."""
    grouped: bool = False
    """TRL: rows of like length in one batch."""
    micro_pairs: int | None = None
    """TRL: pairs per micro-batch, the rest is accumulated; None: the whole update at once."""
    budget: int | None = None
    """tether: tokens per micro-batch; None: its default."""
    betas: tuple[float, ...] = ()
    """tether-study: a cell each."""
    held_out: str | None = None
    """tether-study: rows that models are evaluated on."""
    loss_type: str = "sigmoid"

    @property
    def updates(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return -(-self.count // self.per_update)


@dataclass(frozen=True)
class Outcome:
    """What a child process measured. Times are seconds."""

    seconds: float
    """From the start of the first forward pass to the end of the last optimizer step."""
    setup_seconds: float
    """From the start of the process to the first forward pass: imports, tokenising, loading."""
    total_seconds: float
    losses: list[float]
    """Mean loss of each update."""
    tokens: int
    """Real tokens as an unpacked program sees them: prompt + completion, summed over completions."""
    completion_tokens: int
    peak_mib: float
    """Peak memory up to the last optimizer step: of the process, or of the accelerator."""
    process_peak_mib: float
    """Peak memory to the end, saving and the report included."""
    stages: dict[str, float]
    processor_seconds: float = 0.0
    """Processor time between the same two points; other programs move it less than the clock."""


def write(path: Path, value: Job | Outcome) -> None:
    """Write a job or an outcome as JSON."""
    path.write_text(json.dumps(asdict(value), indent=1), encoding="utf-8")


def read_job(path: Path) -> Job:
    """Read a job."""
    document = _document(path)
    return Job(**{**document, "betas": tuple(document["betas"])})


def read_outcome(path: Path) -> Outcome:
    """Read what a child measured."""
    return Outcome(**_document(path))


def _document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
