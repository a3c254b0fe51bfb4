"""What a study that was stopped left: cells that say they run, and workers that may still save theirs."""

import time
from pathlib import Path

from tether.records.study import CellRecord


def stopped(record: CellRecord) -> CellRecord:
    """Return a cell that ran, as interrupted: what stopped it is no fault of its own."""
    return record.model_copy(update={"state": "interrupted", "attempts": max(record.attempts - 1, 0)})


def wait_for_end(process: int | None, seconds: float = 120.0) -> None:
    """Wait until a worker of a killed study has saved and gone."""
    deadline = time.monotonic() + seconds
    while process is not None and _is_worker(process) and time.monotonic() < deadline:
        time.sleep(0.2)


def _is_worker(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"tether.study.worker" in words
