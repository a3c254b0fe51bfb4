"""CSV and TSV files as raw rows: every cell stays the text it is (`NA`, `007`, `=1+1`, empty)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from tether.data.raw import MAX_ROW_BYTES, BadRow, RawRow, byte_lines, decode_utf8, open_bytes, repeated
from tether.errors import DataError
from tether.records.rows import Origin


class _Lines:
    """Decoded lines for the csv module, with the lines that were not text."""

    def __init__(self, lines: Iterator[tuple[bytes, bool]]) -> None:
        self._lines = lines
        self._offset = 0
        self.count = 0
        self.bad: list[BadRow] = []
        """Problems of the lines read since `take_bad`."""
        self.ended: BadRow | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line, too_long = next(self._lines)
        except BadRow as problem:
            self.ended = problem
            raise StopIteration from None
        self.count += 1
        if too_long:
            self.bad.append(BadRow(f"line {self.count} is longer than {MAX_ROW_BYTES >> 20} MiB"))
        try:
            text = decode_utf8(line, self._offset)
        except BadRow as problem:
            self.bad.append(problem)
            text = line.decode("utf-8", "replace")
        self._offset += len(line)
        return text

    def take_bad(self) -> BadRow | None:
        """Return the first problem since the last call, and forget them."""
        first = self.bad[0] if self.bad else None
        self.bad = []
        return first


def read_table(path: Path, name: str) -> Iterator[RawRow]:
    """Yield one row per record; the origin's line is the one the record starts on.

    Raises:
        DataError: the header is missing, has an empty name or a name twice.

    """
    csv.field_size_limit(MAX_ROW_BYTES)
    with open_bytes(path) as stream:
        lines = _Lines(byte_lines(stream))
        try:
            head = next(lines)
        except StopIteration:
            return
        reader = csv.reader(_chain(head, lines), delimiter=_delimiter(path, head), strict=True)
        header = _header(reader, lines, name)
        row = 0
        while True:
            origin = Origin(name, row, lines.count + 1)
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                lines.take_bad()
                yield RawRow(origin, None, f"is not CSV: {error}; check its quotes")
                row += 1
                continue
            problem = lines.take_bad() or _shape_problem(cells, header)
            if problem is not None:
                yield RawRow(origin, None, str(problem), problem.kind)
            elif cells:
                yield RawRow(origin, dict(zip(header, cells, strict=True)))
            else:
                continue
            row += 1
        if lines.ended is not None:
            yield RawRow(Origin(name, row, lines.count + 1), None, str(lines.ended))


def _chain(head: str, lines: _Lines) -> Iterator[str]:
    yield head
    yield from lines


def _delimiter(path: Path, head: str) -> str:
    """Return the separator: a tab for .tsv; else the one the header uses, comma first."""
    if ".tsv" in path.suffixes:
        return "\t"
    return next((mark for mark in ",;\t" if mark in head), ",")


def _header(reader: Iterator[list[str]], lines: _Lines, name: str) -> list[str]:
    try:
        header = next(reader)
    except csv.Error as error:
        raise DataError(f"{name}:1: the header is not CSV: {error}") from error
    problem = lines.take_bad()
    if problem is not None:
        raise DataError(f"{name}:1: {problem}")
    if not all(header):
        raise DataError(
            f"{name}:1: the header has an empty column name; the first line must name the columns"
        )
    twice = repeated(header)
    if twice is not None:
        raise DataError(f"{name}:1: column {twice!r} appears twice in the header; rename one")
    return header


def _shape_problem(cells: list[str], header: list[str]) -> BadRow | None:
    if cells and len(cells) != len(header):
        return BadRow(
            f"has {len(cells)} cells, the header has {len(header)}; quote cells that hold separators"
        )
    return None
