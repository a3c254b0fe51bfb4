"""What commands print: tables for people, one JSON document for programs, errors as one line."""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

SEPARATED = re.compile(r"[^-_./:@]*[-_./:@]+|[^-_./:@]+")
"""The parts of a name, each with the separators after it."""
NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?|-|nan|inf")
NARROWEST = 12
"""Columns narrower than this are left to the terminal."""


def console(*, stderr: bool = False) -> Console:
    """Return a console: colour only on a terminal, text never read as markup."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(document: Mapping[str, Any] | BaseModel) -> None:
    """Print one JSON document on standard output, and nothing else."""
    value = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table; numbers are right-aligned, text wraps inside the terminal.

    A name too long for its column goes on below, after a separator (`folded`); nothing is left out of it.
    """
    body = [[_cell(value) for value in row] for row in rows]
    screen = console()
    widths = [max(map(len, cells)) for cells in zip(columns, *body, strict=True)]
    widest = max(range(len(columns)), key=lambda index: widths[index])
    room = screen.width - sum(widths) - 2 * (len(columns) - 1) + widths[widest]
    if body and NARROWEST <= room < widths[widest]:
        for cells in body:
            if " " not in cells[widest]:
                cells[widest] = "\n  ".join(folded(cells[widest], room - 2))
    table = Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(body) and all(NUMBER.fullmatch(cells[index]) for cells in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for cells in body:
        table.add_row(*map(Text, cells))
    screen.print(table)


def folded(name: str, width: int) -> list[str]:
    """Return a name in pieces of at most `width` characters, parted after separators where there are any."""
    lines = [""]
    for part in SEPARATED.findall(name):
        if len(lines[-1] + part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(lines[-1]) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return lines


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
