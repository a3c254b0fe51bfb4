"""Text from a model on a terminal: harmless, wrapped, and two answers side by side while they are written."""

import shutil
import sys
from collections.abc import Generator, Sequence

from rich.cells import cell_len

from tether.reports.verbatim import visible_controls

Answering = Generator[str, None, object]
"""Yields text; what it returns is kept by whoever made it."""

BETWEEN = " | "
WIDEST = 160
NARROWEST = 40
"""Columns; on a narrower terminal two answers come one below the other."""


def visible(text: str) -> str:
    """Return text that moves no cursor, changes no colour, turns no line; tabs are four spaces."""
    return visible_controls(text.replace("\t", "    "))


def wrap(text: str, width: int) -> list[str]:
    """Return lines of at most `width` columns, broken at spaces where there are any.

    Adding to the text changes the last line only.
    """
    lines: list[str] = []
    for rest in text.split("\n"):
        while cell_len(rest) > width:
            fits = _fitting(rest, width)
            space = rest.rfind(" ", 0, fits + 1)
            cut = space if space > 0 and rest[:space].strip() else fits
            lines.append(rest[:cut])
            rest = rest[cut:].removeprefix(" ") if cut == space else rest[cut:]
        lines.append(rest)
    return lines


def _fitting(text: str, width: int) -> int:
    used = 0
    for place, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return max(place, 1)
    return len(text)


def padded(text: str, width: int) -> str:
    """Return the text filled with spaces to `width` columns."""
    return text + " " * max(0, width - cell_len(text))


class Screen:
    """Standard output as a terminal or as a plain stream."""

    def __init__(self, *, quiet: bool = False, notes: bool = True) -> None:
        """`quiet` shows nothing at all; without `notes` the answers alone."""
        self.live = sys.stdout.isatty() and sys.stdin.isatty()
        self._quiet, self._notes = quiet, notes and not quiet

    def note(self, text: str) -> None:
        """Say something that is no answer: on a terminal beside the answers, else on standard error."""
        if self._notes:
            stream = sys.stdout if self.live else sys.stderr
            stream.write(visible(text) + "\n")
            stream.flush()

    def answers(self, numbers: Sequence[int], names: Sequence[str], speaking: Sequence[Answering]) -> None:
        """Print answers while they are written: one as it comes, two side by side where there is room."""
        width = shutil.get_terminal_size((80, 24)).columns
        if self._quiet:
            for one in speaking:
                for _ in one:
                    pass
        elif len(speaking) == 1:
            self._one(speaking[0])
        elif self.live and width >= NARROWEST:
            Columns(numbers, names, min(width, WIDEST)).show(speaking)
        else:
            for number, name, one in zip(numbers, names, speaking, strict=True):
                sys.stdout.write(f"[{number} {visible(name)}]\n")
                self._one(one)

    def _one(self, pieces: Answering) -> None:
        try:
            for piece in pieces:
                sys.stdout.write(visible(piece))
                sys.stdout.flush()
        finally:
            sys.stdout.write("\n")
            sys.stdout.flush()


class Columns:
    """Two texts that grow, in two columns: a row is printed for good when neither can change it any more."""

    def __init__(self, numbers: Sequence[int], names: Sequence[str], width: int) -> None:
        self._width = (width - len(BETWEEN)) // 2
        heads = zip(numbers, names, strict=True)
        self._heads = [f"{number} {_tail(visible(name), self._width - 4)}" for number, name in heads]
        self._texts = [""] * len(names)
        self._done = [False] * len(names)
        self._printed = 0

    def show(self, speaking: Sequence[Answering]) -> None:
        """Print both while they are written."""
        ruler = ["-" * self._width] * len(speaking)
        sys.stdout.write(self._row(self._heads) + "\n" + self._row(ruler) + "\n")
        try:
            while not all(self._done):
                for place, one in enumerate(speaking):
                    if not self._done[place]:
                        piece = next(one, None)
                        self._done[place] = piece is None
                        self._texts[place] += visible(piece or "")
                self._draw()
        finally:
            self._done = [True] * len(self._done)
            self._draw()

    def _draw(self) -> None:
        lines = [wrap(text, self._width) for text in self._texts]
        # The last line of a text that still grows may change.
        final = [len(one) - (not done) for one, done in zip(lines, self._done, strict=True)]
        running = [count for count, done in zip(final, self._done, strict=True) if not done]
        last = min(running, default=max(len(one) for one in lines))
        sys.stdout.write("\r\x1b[K")
        for number in range(self._printed, last):
            sys.stdout.write(self._row([_line(one, number) for one in lines]) + "\n")
        self._printed = max(self._printed, last)
        if not all(self._done):
            sys.stdout.write(self._row([_line(one, self._printed) for one in lines]))
        sys.stdout.flush()

    def _row(self, cells: Sequence[str]) -> str:
        return BETWEEN.join(padded(cell, self._width) for cell in cells).rstrip()


def _line(lines: Sequence[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""


def _tail(text: str, width: int) -> str:
    """Return the end of a name that is too long: paths differ there."""
    return text if cell_len(text) <= width else "..." + text[-(width - 3) :]
