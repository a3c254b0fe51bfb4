"""What commands print: tables for people, one JSON document for programs, errors as one line."""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """Return a console: colour only on a terminal, text never read as markup."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(document: Mapping[str, Any] | BaseModel) -> None:
    """Print one JSON document on standard output, and nothing else."""
    value = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table; numbers are right-aligned, text wraps inside 80 columns."""
    body = [list(row) for row in rows]
    table = Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(body) and all(isinstance(row[index], int | float) for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def print_note(text: str) -> None:
    """Print one thing to know beside a result, on standard error."""
    for line in textwrap.wrap(f"note: {text}", 80):
        sys.stderr.write(line + "\n")


def wrapped(text: str, indent: str = "") -> str:
    """Return one thing told as lines of a terminal: those after the first stand further in."""
    return textwrap.fill(
        text,
        80,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_error(value: float, error: float | None) -> str:
    """Return a number with its standard error, where it has one (a single prompt has none)."""
    return f"{value:.3f}" if error is None else f"{value:.3f} +- {error:.3f}"
