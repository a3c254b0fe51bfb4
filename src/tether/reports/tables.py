"""Numbers as people read them (as many digits as their error allows), tables, and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MINUS = "−"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet run a text cell."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns; `numeric` columns are right-aligned."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = field(default_factory=frozenset[int])


def decimals_for(error: float | None, *, fallback: int = 2) -> int:
    """Return the decimals a number deserves: its standard error to one digit, two if it begins with 1."""
    if error is None or not math.isfinite(error) or error <= 0:
        return fallback
    exponent = math.floor(math.log10(error))
    leading = error / 10**exponent
    return max(0, min(8, -exponent + (1 if leading < 1.95 else 0)))


def number(value: float | None, decimals: int | None = None, *, signed: bool = False) -> str:
    """Return a number with a true minus sign; without `decimals`, four significant digits; None as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = _significant(value) if decimals is None else f"{value:,.{decimals}f}"
    if text.lstrip("-").strip("0.,") == "":
        text = text.lstrip("-")
        return text
    return (("+" if signed and value > 0 else "") + text).replace("-", MINUS)


def brief(value: float | None, *, signed: bool = False) -> str:
    """Return a number to three significant digits, for prose."""
    return number(value if value is None or value == 0 else float(f"{value:.3g}"), signed=signed)


def with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """Return `value ± error` to the digits the standard error allows, or the value alone."""
    decimals = decimals_for(error)
    text = number(value, decimals, signed=signed)
    if value is None or error is None or not math.isfinite(error):
        return text
    if error == 0:
        return f"{number(value, signed=signed)} ± 0"
    return f"{text} ± {number(error, decimals)}"


def percent(share: float | None, decimals: int = 0) -> str:
    """Return a share as a percentage."""
    return "–" if share is None else f"{number(100 * share, decimals)} %"


def count(value: float) -> str:
    """Return a count with thousands separated."""
    return f"{round(value):,}"


def duration(seconds: float) -> str:
    """Return seconds as `41 s`, `2 min 5 s` or `3 h 12 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plain(value: Any) -> str:
    """Return any JSON value as one short text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", MINUS) if "e" not in f"{value:.6g}" else f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "–"
    return str(value)


def flattened(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested document as (dotted name, text) pairs, in order, lists of objects numbered."""
    pairs: list[tuple[str, str]] = []
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += flattened(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            pairs += flattened({str(i): item for i, item in enumerate(value)}, f"{name}.")
        else:
            pairs.append((name, plain(value)))
    return pairs


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, numbers exact; text that a spreadsheet would run gets a leading quote."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude >= 6 or magnitude < -4:
        return f"{value:.3e}"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.{max(0, 3 - magnitude)}f}".rstrip("0").rstrip(".") if magnitude < 4 else f"{value:,.0f}"


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return "'" + value
    return "" if value is None else value
