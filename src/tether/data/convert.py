"""Rows from any known format to another, and a list of what the other cannot say."""

import difflib
from collections import Counter
from pathlib import Path
from typing import Any

from tether.data.checks import Spec, load
from tether.data.fields import Columns, RowProblem
from tether.data.formats import detect
from tether.data.output import write_rows
from tether.data.tasks import fit_task, unpair
from tether.data.writers import ALIASES, WRITERS, kind_of, own_columns
from tether.errors import DataError, UsageError
from tether.records.results import SCHEMA, Record
from tether.records.rows import Origin, Preference

NAMED = 3
"""Rows named for each thing a format cannot say."""


class ConvertRecord(Record):
    """What `tether convert` did."""

    schema_version: int = SCHEMA
    out: str
    format: str
    """Name in `data.formats`, or `tether`."""
    read: int
    written: int
    left_out: dict[str, int]
    """Rows not written, by reason: what the preflight dropped, and `cannot_say`."""
    lost: dict[str, int]
    """What rows said and the format cannot: in how many rows."""
    problems: tuple[str, ...]
    """For each of these, the first rows and what is lost."""


class _Losses:
    """Counts what could not be said, and names the first rows of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unwritten = 0
        self._named: dict[str, list[str]] = {}

    def add(self, what: str, row_id: str) -> None:
        self.counts[what] += 1
        self._named.setdefault(what, []).append(row_id)

    def lines(self) -> tuple[str, ...]:
        """Return one line for each kind."""
        return tuple(
            f"{what}: {count} ({', '.join(self._named[what][:NAMED])}{', ...' if count > NAMED else ''})"
            for what, count in self.counts.most_common()
        )


def format_named(name: str) -> str:
    """Return the format a person means.

    Raises:
        UsageError: none; names the nearest.

    """
    found = ALIASES.get(name, name)
    if found == "tether" or found in WRITERS:
        return found
    known = [*ALIASES, "tether", *WRITERS]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; use one of {', '.join(known)}"
    raise UsageError(f"--to: no format {name!r}{hint}")


def convert(data: Spec, out: Path, to: str, *, lossy: bool = False, overwrite: bool = False) -> ConvertRecord:
    """Write the rows of `data` to `out` in another format; the suffix of `out` says JSONL, CSV, Parquet...

    What the format cannot say is refused with a list of it; `lossy` leaves it out instead, counted.

    Raises:
        UsageError: no such format, or a suffix that cannot be written.
        DataError: nothing can be read; `out` exists; rows say what the format cannot.

    """
    name = format_named(to)
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists; give --overwrite to replace it, or name another file")
    loaded = load(data, task="any", ties="keep")
    loaded.require_rows()
    losses = _Losses()
    written: list[tuple[str, dict[str, Any]]] = []
    for row in loaded.rows:
        for form in _forms(row, name, losses):
            columns = _written(form, name, losses)
            if columns is not None:
                written.append((row.row_id, columns))
    lines = losses.lines()
    if lines and not lossy:
        raise DataError(
            f"{name} cannot say everything in these rows: {'; '.join(lines)}. "
            "Give --lossy to leave it out, or --to tether to keep it"
        )
    if not written:
        raise DataError(f"{out}: no row can be written as {name}: {'; '.join(lines)}")
    write_rows(out, written)
    left_out = loaded.report.dropped()
    return ConvertRecord(
        out=str(out),
        format=name,
        read=loaded.report.read,
        written=len(written),
        left_out={**left_out, **({"cannot_say": losses.unwritten} if losses.unwritten else {})},
        lost=dict(losses.counts.most_common()),
        problems=lines,
    )


def _forms(row: Preference, name: str, losses: _Losses) -> list[Preference]:
    """Return a row in the kind a format takes: as it is, taken apart, or its best and worst answers."""
    if name == "tether" or kind_of(row) == (kind := WRITERS[name].kind):
        return [row]
    if kind == "list" and kind_of(row) == "pair":
        return [row]
    if kind == "unpaired" and kind_of(row) == "pair":
        losses.add("which answers belong together", row.row_id)
        return unpair(row)
    try:
        fitted, note = fit_task(row, "preference" if kind == "pair" else "sft")
    except RowProblem:
        fitted, note = row, ""
    if kind_of(fitted) != kind or not note:
        losses.add(f"a row that is no {kind}", row.row_id)
        losses.unwritten += 1
        return []
    losses.add("answers but the best" + (" and worst" if kind == "pair" else ""), row.row_id)
    return [fitted]


def _written(row: Preference, name: str, losses: _Losses) -> dict[str, Any] | None:
    """Return the columns of a row, or None where it cannot be written; notes what reading them back lacks."""
    try:
        columns = own_columns(row) if name == "tether" else WRITERS[name].write(row)
        format_ = detect([columns])
        again = format_.read(Origin("", 0), Columns(columns))
    except (RowProblem, DataError) as problem:
        losses.add(str(problem), row.row_id)
        losses.unwritten += 1
        return None
    for what in differences(row, again):
        losses.add(what, row.row_id)
    return columns


def differences(row: Preference, again: Preference) -> list[str]:
    """Return what a row says that its copy does not, in words."""
    found: list[str] = []
    for name in ("weight", "margin", "probability", "tools"):
        if getattr(row, name) != getattr(again, name):
            found.append(name)
    if dict(row.template_arguments) != dict(again.template_arguments):
        found.append("chat_template_kwargs")
    if isinstance(row.prompt, str) != isinstance(again.prompt, str):
        found.append("plain text (it becomes a chat)")
    elif row.prompt != again.prompt:
        found.append("where the prompt ends")
    pairs = list(zip(row.completions, again.completions, strict=False))
    if len(pairs) != len(row.completions) or any(
        type(a.content) is type(b.content) and a.content != b.content for a, b in pairs
    ):
        found.append("what the answers say")
    if any(a.score is not None and a.score != b.score for a, b in pairs):
        found.append("scores")
    if any(a.reference_logprob is not None and a.reference_logprob != b.reference_logprob for a, b in pairs):
        found.append("log-probs of the reference")
    return found
