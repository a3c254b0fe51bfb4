"""JSONL and JSON files as raw rows: strict about text, patient about lines."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.data.raw import (
    DECODER,
    MAX_ROW_BYTES,
    BadRow,
    RawRow,
    byte_lines,
    checked_object,
    checked_value,
    decode_object,
    decode_utf8,
    open_bytes,
)
from tether.errors import DataError
from tether.records.rows import Origin

CONTAINERS = (
    "data",
    "rows",
    "train",
    "test",
    "validation",
    "eval",
    "examples",
    "instances",
    "records",
    "items",
)
"""Keys under which a JSON object may hold its list of rows."""

_SPACE = " \t\r\n"


def read_lines(path: Path, name: str) -> Iterator[RawRow]:
    """Yield one row per non-blank line of a JSONL file (gzip too); bad lines carry their problem."""
    with open_bytes(path) as stream:
        lines = byte_lines(stream)
        number = row = 0
        while True:
            number += 1
            origin = Origin(name, row, number)
            try:
                line, too_long = next(lines)
                if not line.strip():
                    continue
                if too_long:
                    raise BadRow(f"the line is longer than {MAX_ROW_BYTES >> 20} MiB")
                yield RawRow(origin, decode_object(decode_utf8(line)))
            except StopIteration:
                return
            except BadRow as problem:
                yield RawRow(origin, None, str(problem), problem.kind)
            row += 1


def read_document(path: Path, name: str) -> Iterator[RawRow]:
    """Yield the rows of a JSON file: an array of objects, an object that holds one, or lines after all.

    Raises:
        DataError: an object holds several lists of rows (`train`, `test`...), so one must be chosen.

    """
    try:
        with open_bytes(path) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        yield RawRow(Origin(name, 0), None, f"the file cannot be read: {error}; copy or unpack it again")
        return
    if _is_lines(data):
        yield from read_lines(path, name)
        return
    # Bytes that are not UTF-8 become lone surrogates here, so that the rows before and after are still read.
    text = data.decode("utf-8", "surrogateescape")
    del data
    start = _skip(text, 0)
    if start == len(text):
        return
    yield from (_elements if text[start] == "[" else _object)(text, start, name)


def _is_lines(data: bytes) -> bool:
    """Tell whether a .json file is JSONL: its first two lines that are not blank each start an object."""
    lines = (line.strip() for line in data[: 2 * MAX_ROW_BYTES].split(b"\n", 1000))
    first = [line for line in lines if line][:2]
    return len(first) == 2 and len(first[0]) > 1 and all(line.startswith(b"{") for line in first)


def _object(text: str, start: int, name: str) -> Iterator[RawRow]:
    """Yield the rows an object holds under one key, or the object itself as the only row."""
    try:
        document, end = _decode(text, start)
        if isinstance(document, BadRow):
            raise document
        if _skip(text, end) < len(text):
            line = text.count("\n", 0, end) + 1
            raise BadRow(f"line {line}: more text after the end of the document")
        rows = _contained(checked_value(document, walk=False), name)
    except BadRow as problem:
        yield RawRow(Origin(name, 0), None, str(problem), problem.kind)
        return
    for row, value in enumerate(rows):
        origin = Origin(name, row)
        try:
            yield RawRow(origin, checked_value(value))
        except BadRow as problem:
            kind = problem.kind if text.isascii() or _is_text(text) else "bad_utf8"
            yield RawRow(origin, None, str(problem), kind)


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _elements(text: str, start: int, name: str) -> Iterator[RawRow]:
    """Yield the elements of a JSON array one by one; after a syntax error the rest cannot be found."""
    position, row = _skip(text, start + 1), 0
    while text[position : position + 1] != "]":
        origin = Origin(name, row)
        try:
            value, position = _decode_part(text, position)
        except BadRow as problem:
            yield RawRow(origin, None, f"{problem}; rows after it are not read", problem.kind)
            return
        if isinstance(value, BadRow):
            yield RawRow(origin, None, str(value), value.kind)
        else:
            yield RawRow(origin, value)
        row += 1
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line = text.count("\n", 0, position) + 1
            yield RawRow(
                Origin(name, row), None, f"line {line}: ',' or ']' expected; rows after it are not read"
            )
            return
    if _skip(text, position + 1) < len(text):
        line = text.count("\n", 0, position) + 1
        yield RawRow(Origin(name, row), None, f"line {line}: text after the end of the list is not read")


def _decode_part(text: str, position: int) -> tuple[dict[str, Any] | BadRow, int]:
    """Return (row or the BadRow it is, where it ends); BadRow is raised where the end cannot be found."""
    value, end = _decode(text, position)
    if end - position > MAX_ROW_BYTES:
        return BadRow(f"is longer than {MAX_ROW_BYTES >> 20} MiB"), end
    source = text[position:end]
    try:
        source.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = len(text[: position + error.start].encode("utf-8", "surrogateescape"))
        shown = ord(source[error.start]) - 0xDC00
        return BadRow(f"byte {byte} (0x{shown:02x}) is not UTF-8; save the file as UTF-8", "bad_utf8"), end
    try:
        return (value if isinstance(value, BadRow) else checked_object(value, source)), end
    except BadRow as problem:
        return problem, end


def _decode(text: str, position: int) -> tuple[Any, int]:
    """Return (value, where it ends); the value is a BadRow where a key appears twice.

    Raises:
        BadRow: it is not JSON, so where it ends is unknown.

    """
    try:
        return DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise BadRow(f"line {error.lineno}: is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow("is nested too deeply") from error
    except BadRow as problem:
        # Read again without the rule that was broken, only to find where it ends.
        return problem, json.JSONDecoder(strict=False).raw_decode(text, position)[1]
    except ValueError as error:
        raise BadRow(f"is not JSON: {error}") from error


def _contained(document: dict[str, Any], name: str) -> list[Any]:
    """Return the list of rows an object holds, or the object itself where it is a row."""
    lists = {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and any(isinstance(part, dict) for part in value)
    }
    held = [key for key in CONTAINERS if key in lists]
    if not held and len(document) == len(lists) == 1 and "messages" not in lists:
        held = list(lists)
    if len(held) > 1:
        raise DataError(f"{name}: holds several lists of rows ({', '.join(held)}); keep one per file")
    return lists[held[0]] if held else [document]
