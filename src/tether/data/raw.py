"""What every file reader shares: a raw row, bytes unpacked within a bound, one strictly decoded object."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tether.errors import DataError
from tether.records.rows import Origin

MAX_ROW_BYTES = 64 * 2**20
"""A longer row is reported as a problem: it is a damaged file, or not one row per line."""
BOMB_RATIO = 100
BOMB_BYTES = 256 * 2**20
"""A gzip file that unpacks beyond both bounds is refused; text of people compresses 2 to 20 times."""
TRIED_BYTES = 64 * 2**20
"""A gzip file of at most this size is unpacked once before any row of it is read: a bomb of a million short
rows would cost memory and minutes before it is seen."""

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file gave it: its columns, or the reason why there are none."""

    origin: Origin
    value: dict[str, Any] | None
    problem: str | None = None
    kind: str = "unreadable"
    """Kind of the problem: `unreadable`, `bad_utf8` or `lone_surrogate`."""


class BadRow(ValueError):
    """A row cannot be decoded; `kind` is the kind of finding it becomes."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class _Unpacked(io.RawIOBase):
    """A gzip stream that stops when it unpacks to more than text ever does."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._name = path.name
        self._packed = path.stat().st_size
        self._read = 0
        self._stream = gzip.GzipFile(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read1(len(buffer))
        self._read += len(piece)
        if self._read > BOMB_BYTES and self._read > BOMB_RATIO * self._packed:
            raise DataError(
                f"{self._name}: unpacks to more than {BOMB_BYTES >> 20} MiB and {BOMB_RATIO} times its size; "
                "no text does that. Unpack it yourself if you trust it"
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, unpacking gzip (seen by its first bytes, not by its name), BOM removed.

    Raises:
        DataError: the file is UTF-16, or a gzip bomb (while reading).

    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    if packed and path.stat().st_size <= TRIED_BYTES:
        _unpack_once(path)
    stream = io.BufferedReader(_Unpacked(path) if packed else io.FileIO(path), 2**20)
    try:
        head = stream.peek(3)[:3]
    except (OSError, EOFError, zlib.error):
        head = b""  # damaged from its start: whoever reads it says so with a row
    if head[:2] in _WIDE_BOMS:
        stream.close()
        raise DataError(f"{path.name}: is UTF-16; save it as UTF-8")
    if head == _BOM:
        stream.read(3)
    return stream


def _unpack_once(path: Path) -> None:
    with _Unpacked(path) as stream:
        buffer = bytearray(2**20)
        try:
            while stream.readinto(buffer):
                pass
        except (OSError, EOFError, zlib.error):
            return  # damaged: its readable rows are read, and the damage is one more


def byte_lines(stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Yield (line with its end, whether it is too long); only LF ends a line, so U+2028 stays inside text.

    Of a line longer than `MAX_ROW_BYTES` only the first bytes are kept, so memory is bounded. A gzip stream
    that ends early or is damaged raises BadRow after the lines before it.
    """
    try:
        while line := stream.readline(MAX_ROW_BYTES + 1):
            too_long = len(line) > MAX_ROW_BYTES
            rest = line
            while too_long and not rest.endswith(b"\n"):
                rest = stream.readline(2**20)
                if not rest:
                    break
            yield line, too_long
    except (OSError, EOFError, zlib.error) as error:
        raise BadRow(f"the file cannot be read further: {error}; copy or unpack it again") from error


def decode_utf8(line: bytes, offset: int = 0) -> str:
    """Decode strictly; `offset` is added to the byte position in the message.

    Raises:
        BadRow: not UTF-8 (kind `bad_utf8`).

    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise BadRow(
            f"byte {offset + error.start} (0x{byte:02x}) is not UTF-8; save the file as UTF-8", "bad_utf8"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow(f"key {repeated(name for name, _ in pairs)!r} appears twice in one object; keep one")
    return found


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that was there before, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


# strict=False: raw tabs and other control characters inside strings are kept as they are, nothing is lost.
DECODER = json.JSONDecoder(object_pairs_hook=_unique, strict=False)


def decode_object(text: str) -> dict[str, Any]:
    """Decode one JSON object.

    Raises:
        BadRow: not JSON, not an object, a key twice, a lone surrogate.

    """
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or "Unterminated" in error.msg
        what = "ends in the middle (cut short?)" if cut else "is not JSON"
        raise BadRow(f"the line {what}: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow("is nested too deeply") from error
    except BadRow:
        raise
    except ValueError as error:
        raise BadRow(f"is not JSON: {error}") from error
    return checked_object(value, text)


def checked_object(value: Any, text: str) -> dict[str, Any]:
    """Return the value if it is an object whose strings are all Unicode text; `text` is its JSON source.

    Raises:
        BadRow: not an object, or a lone surrogate (kind `lone_surrogate`).

    """
    # Without an escape in the source there can be none in the value: most rows are not walked.
    return checked_value(value, walk=_SURROGATE_ESCAPE.search(text) is not None)


def checked_value(value: Any, *, walk: bool = True) -> dict[str, Any]:
    """Return the value if it is an object; with `walk`, if all its strings are Unicode text too.

    Raises:
        BadRow: not an object, or a lone surrogate (kind `lone_surrogate`).

    """
    if not isinstance(value, dict):
        raise BadRow(f"is {type_name(value)}, not an object with named columns")
    for name, part in value.items() if walk else ():
        where = _lone_surrogate(part) or _lone_surrogate(name)
        if where:
            raise BadRow(f"field {name!r}: {where}", "lone_surrogate")
    return value


def _lone_surrogate(value: Any) -> str | None:
    """Return what is wrong with the first string that is not Unicode text, or None."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as error:
                code = ord(part[error.start])
                return f"half a surrogate pair (\\u{code:04x}) at character {error.start}; repair the export"
        elif isinstance(part, dict):
            stack.extend(part.keys())
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
    return None


def without_nulls(value: Any) -> Any:
    """Drop null members of structs: Arrow has no other way to say that a message lacks a key."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def type_name(value: Any) -> str:
    """Return how a value is called in messages: `a number (5)`, `null`, `a list of 2`..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()}"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"of type {type(value).__name__}"
