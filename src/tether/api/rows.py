"""Rows: inspected and converted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.data.checks import DataReport, load
from tether.data.convert import ConvertRecord
from tether.data.convert import convert as convert_rows

Rows = str | Path | Sequence[dict[str, Any]]
"""Files, folders, globs, or rows."""


def check(data: Rows, *, eval_data: Rows | None = None) -> DataReport:
    """Inspect preference data before any model loads; the same as `tether check`."""
    return load(data, eval_spec=eval_data).report  # pyright: ignore[reportArgumentType]


def convert(
    data: Rows, out: str | Path, to: str, *, lossy: bool = False, overwrite: bool = False
) -> ConvertRecord:
    """Write rows in another format; the same as `tether convert`."""
    return convert_rows(data, Path(out), to, lossy=lossy, overwrite=overwrite)
