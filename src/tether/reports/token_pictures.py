"""Answers coloured token by token: for the page with the number on hover, as SVG and PNG, as CSV."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import vl_convert
from markupsafe import Markup

from tether.records.results import write_text
from tether.records.rows import Content
from tether.reports.plots import FONT, INK, MUTED
from tether.reports.study_figures import shown
from tether.reports.tables import csv_text, number
from tether.reports.verbatim import Turn, turns

SHADES = ((-5.0, "f3"), (-2.0, "f2"), (-0.5, "f1"), (0.5, ""), (2.0, "r1"), (5.0, "r2"))
"""Upper end of each shade of a token's log-ratio, nats; beyond the last: r3."""
COLOURS = {
    "f3": "#dd7a63", "f2": "#f3b9a8", "f1": "#fbe3dc", "r1": "#dcefe9", "r2": "#a3d8c8", "r3": "#4fae96",
}  # fmt: skip
"""The page's shades, on white paper."""
LETTER, LINE, NAME, ACROSS, SUM = 7.8, 22, 170, 92, 70
"""Of a picture: width of a letter, height of a line, pixels for names, letters of a line, pixels for sums."""
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"


@dataclass(frozen=True)
class Picture:
    """A held-out answer under every strength: (setting, [(token, log policy - log start in nats)])."""

    prompt: Content
    role: str
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    left_out: int = 0
    """Tokens beyond those shown."""
    row_id: str = ""


@dataclass(frozen=True)
class ShownPicture:
    """A picture ready for the page; `name` is its file name under plots/."""

    name: str
    row_id: str
    prompt: list[Turn]
    role: str
    rows: list[tuple[str, Markup, str]]
    left_out: int


def shown_pictures(pictures: Sequence[Picture]) -> list[ShownPicture]:
    """Return pictures ready for the page."""
    return [
        ShownPicture(f"tokens_{i}", p.row_id, turns(p.prompt), p.role, coloured(p), p.left_out)
        for i, p in enumerate(pictures, start=1)
    ]


def coloured(picture: Picture) -> list[tuple[str, Markup, str]]:
    """Return (setting, tokens as coloured HTML, sum of log-ratios) per row of a picture."""
    return [
        (setting, Markup("").join(_token(text, value) for text, value in row), _sum(row))
        for setting, row in picture.rows
    ]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write every picture as `tokens_N.svg`, `.png`, and its numbers as `.csv`."""
    for place, picture in enumerate(pictures, start=1):
        path, drawn = folder / f"tokens_{place}", svg(picture)
        write_text(path.with_suffix(".svg"), drawn)
        path.with_suffix(".png").write_bytes(vl_convert.svg_to_png(drawn, scale=2))
        write_text(path.with_suffix(".csv"), csv_text(list(numbers([picture]))))


def numbers(pictures: Iterable[Picture]) -> Iterable[dict[str, object]]:
    """Yield one row per token and setting."""
    for picture in pictures:
        for setting, row in picture.rows:
            for position, (token, value) in enumerate(row):
                yield {
                    "row_id": picture.row_id,
                    "role": picture.role,
                    "setting": setting,
                    "position": position,
                    "token": token,
                    "log_ratio": value,
                }


def svg(picture: Picture) -> str:
    """Return a picture as SVG on white paper."""
    parts: list[str] = []
    y = LINE
    parts.append(_text(8, y, f"{picture.role} answer of {picture.row_id}", INK, FONT, "bold"))
    for setting, row in picture.rows:
        y += LINE + 6
        parts.append(_text(8, y, setting, MUTED, FONT))
        parts.append(_text(NAME + LETTER * ACROSS + SUM, y, _sum(row), MUTED, FONT, anchor="end"))
        column = 0
        for token, value in row:
            text = _spaced(token)
            width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
            if column and column + width > ACROSS:
                column, y = 0, y + LINE
            x = NAME + LETTER * column
            shade = COLOURS.get(_shade(value))
            if shade:
                box = f'x="{x:.1f}" y="{y - 15}" width="{LETTER * width - 1:.1f}" height="19"'
                parts.append(f'<rect {box} rx="3" fill="{shade}"/>')
            parts.append(_text(x, y, text, INK, MONO))
            column += width
    wide, high = NAME + LETTER * ACROSS + SUM + 8, y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high}" '
        f'viewBox="0 0 {wide:.0f} {high}"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _text(
    x: float, y: float, text: str, colour: str, font: str, weight: str = "normal", *, anchor: str = "start"
) -> str:
    # Spaces stand for themselves; a no-break space keeps its width without xml:space.
    kept = escape(shown(text).replace("␣", "\u00a0"))
    return (
        f'<text x="{x:.1f}" y="{y}" font-family="{font}" font-size="13" font-weight="{weight}" '
        f'fill="{colour}" text-anchor="{anchor}">{kept}</text>'
    )


def _sum(row: Sequence[tuple[str, float]]) -> str:
    return number(sum(value for _, value in row), 1, signed=True)


def _shade(value: float) -> str:
    return next((name for limit, name in SHADES if value < limit), "r3")


def _token(text: str, value: float) -> Markup:
    told = number(value, 2, signed=True)
    return Markup('<span class="tok {}" data-v="{}" title="{} nats">{}</span>').format(
        _shade(value), told, told, _spaced(text)
    )


def _spaced(text: str) -> str:
    """Keep ordinary spaces as they are and make other white space visible."""
    return shown(text) if not text.strip() and text != " " else text.replace("\n", "⏎")
