"""What a study is: options, model, rows, references, machine, as its folder recorded them. No torch."""

from collections.abc import Sequence
from typing import Any

from tether.reports.contents import RunContents, read_contents
from tether.study.collect import Cell, Study

NAMED = 3
"""Row ids kept of what a preflight found; the cells' preflight.json has all."""


def identity(study: Study) -> dict[str, Any]:
    """Return what the study recorded of itself, for `findings.json` and the page's last tables."""
    record = study.record
    runs = [cell for cell in study.cells if (cell.folder / "run.json").is_file()]
    return {
        "config": record.config,
        "world": record.world,
        "evaluators": list(record.evaluators),
        **_of_runs(runs),
        "shared": record.shared,
        "timing": record.timing,
        "versions": record.versions,
        "hardware": record.hardware,
        "created": record.created,
        "cells": {
            cell.cell_id: {"state": cell.state, "attempts": cell.attempts, "seconds": cell.seconds}
            for cell in record.cells
        },
    }


def _of_runs(runs: Sequence[Cell]) -> dict[str, Any]:
    """Return the start model, every reference as its first run verified it, and the rows."""
    if not runs:
        return {}
    first_with = {cell.setting.reference: cell for cell in reversed(runs)}
    widest = max(runs, key=lambda cell: (cell.setting.labels == "given", cell.setting.data_fraction))
    contents = read_contents(widest.folder)
    return {
        "model": contents.record.model,
        "references": {
            name: read_contents(cell.folder).record.reference for name, cell in reversed(first_with.items())
        },
        "data": _data(widest, contents),
    }


def _data(cell: Cell, contents: RunContents) -> dict[str, Any]:
    rows = contents.rows
    return {
        "cell": cell.record.cell_id,
        "files": contents.files,
        "read": rows.read,
        "used": rows.used,
        "held_out": rows.held_out,
        "left_out": rows.left_out,
        "findings": [
            {**finding.model_dump(mode="json"), "rows": list(finding.rows[:NAMED]), "details": []}
            for finding in contents.findings
        ],
    }
