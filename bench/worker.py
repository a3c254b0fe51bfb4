"""A worker of a study, with time marks: `python -m bench.worker FOLDER`, in place of `tether.study.worker`.

What it measured goes beside the study's folder, as `worker-PROCESS.json`.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.jobs import Outcome, read_job
from bench.marks import Marks
from bench.ours import book
from tether.study import worker


@dataclass(frozen=True)
class Worked:
    """What one worker did and when; times are of the clock that all processes of a machine share."""

    cells: list[str]
    """In the order it trained them, each with as many losses as a run has updates."""
    first: float
    """Start of the first forward pass."""
    last: float
    """End of the last optimizer step."""
    outcome: Outcome


def files(folder: Path) -> list[Path]:
    """Return what the workers of a study wrote."""
    return sorted(folder.parent.glob("worker-*.json"))


def read(path: Path) -> Worked:
    """Read what a worker did."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Worked(**{**document, "outcome": Outcome(**document["outcome"])})


def main() -> int:
    """Run cells until told to stop; return the exit status."""
    folder = Path(sys.argv[1])
    marks = Marks(read_job(folder.parent / "job.json").updates)
    book(marks)
    cells: list[str] = []
    run_cell = worker.run_cell

    def noted(bench: Any, cell_id: str, *rest: Any, **named: Any) -> Any:
        cells.append(cell_id)
        return run_cell(bench, cell_id, *rest, **named)

    worker.run_cell = noted
    status = worker.main()
    if cells:
        worked = Worked(cells, *marks.span(), marks.outcome(runs=len(cells)))
        path = folder.parent / f"worker-{os.getpid()}.json"
        path.write_text(json.dumps(asdict(worked)), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
