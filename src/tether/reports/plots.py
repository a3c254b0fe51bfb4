"""Charts as functions of lists of rows, in one look: SVG that follows a page's theme, SVG and PNG files.

Every chart takes rows with the fields it names (`x`, `y`, `series`, and `low`, `high` where there is a band)
and returns an Altair chart; `inline_svg` and `files` draw it. Nothing is fetched: vl-convert holds Vega.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import altair as alt
import vl_convert
from markupsafe import Markup

from tether.errors import TetherError

Rows = Sequence[Mapping[str, Any]]

WIDTH, HEIGHT = 460, 260
FONT = "Helvetica Neue, Arial, Liberation Sans, sans-serif"
INK, MUTED, GRID, PAPER = "#22262b", "#6a7178", "#e3e6e8", "#fffffe"
BLUE, ORANGE, TEAL, GREY = "#1f6feb", "#c2570c", "#0f7b6c", "#a9b1b9"
RAMP = ("#1b4f9c", "#2f7fc1", "#2a9d8f", "#6aa84f", "#b98f14", "#dd7d12", "#d1495b", "#8e2c6b")
"""From tight to loose: one colour per strength of a study."""
THEME = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    TEAL: "teal",
    GREY: "grey",
    **{colour: f"s{index}" for index, colour in enumerate(RAMP, start=1)},
}
"""Colours of a file, and the style-sheet variable (`--chart-...`) that replaces each inside a page."""
SERIES = (BLUE, ORANGE, TEAL, INK, MUTED, GREY)

STYLE: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "gridColor": GRID,
        "domainColor": GREY,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titlePadding": 8,
        "labelPadding": 6,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelFontSize": 12.5,
        "labelColor": INK,
        "symbolStrokeWidth": 2.5,
        "symbolType": "stroke",
        "symbolOpacity": 1,
        "symbolSize": 180,
        "offset": 6,
        "padding": 0,
        "columnPadding": 18,
    },
    "title": {"anchor": "start", "fontSize": 14, "fontWeight": "bold", "color": INK, "offset": 10},
}
"""The house style as a Vega-Lite config."""
DRAWN_WITH = frozenset({"svg", "g", "path", "rect", "line", "circle", "text", "tspan", "defs", "clipPath"})
"""Elements a picture may consist of."""


class DrawingError(TetherError):
    """A chart came back with something a picture must not hold."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its title (empty: none), whether 0 belongs to it, and a d3 number format."""

    title: str = ""
    zero: bool = False
    format: str | None = None
    whole: bool = False
    """Only whole numbers are marked: updates, counts."""
    marks: tuple[float, ...] = ()
    """A logarithmic axis, marked at these values."""
    log: bool = False
    """A logarithmic axis, marked at powers of ten."""
    at: tuple[float, ...] = ()
    """Values an ordinary axis is marked at, in place of about five round ones."""

    def x(self, field: str) -> alt.X:
        """Return the horizontal encoding."""
        return alt.X(
            f"{field}:Q",
            title=self.title or None,
            scale=self._scale(nice=False, edge=6),
            axis=self._axis(False),
        )

    def y(self, field: str) -> alt.Y:
        """Return the vertical encoding."""
        scale = self._scale(nice=True, edge=0 if self.zero else 6)
        return alt.Y(f"{field}:Q", title=self.title or None, scale=scale, axis=self._axis(True))

    def _scale(self, *, nice: bool, edge: int) -> alt.Scale:
        if self.marks or self.log:
            return alt.Scale(type="log", nice=False, padding=14 if self.marks else edge)
        return alt.Scale(zero=self.zero, nice=nice, padding=edge)

    def _axis(self, grid: bool) -> alt.Axis:
        options: dict[str, Any] = {"grid": grid, "ticks": False, "tickCount": 5, "domain": not grid}
        if self.marks:
            # An expression, because a format would hide all labels but those of powers of ten.
            options |= {"values": list(self.marks), "labelExpr": "format(datum.value, '~g')"}
            options |= {"labelOverlap": "greedy", "tickCount": 100}
        elif self.whole:
            options |= {"format": ",d", "tickMinStep": 1}
        elif self.format:
            options["format"] = self.format
        if self.at:
            options["values"] = list(self.at)
        return alt.Axis(**options)


def lines(
    rows: Rows,
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    *,
    quiet: Sequence[str] = (),
    band: bool = False,
    rule: float | None = None,
) -> alt.LayerChart:
    """Return one line per series (`x, y, series`), with points except on `quiet` series.

    Args:
        rows: `x`, `y`, `series`; `low` and `high` where `band`.
        x: horizontal axis.
        y: vertical axis.
        colours: series in legend order, and the colour of each.
        quiet: series drawn thin and without points: many noisy values.
        band: shade from `low` to `high`.
        rule: a level to compare with, drawn as a dashed line.

    """
    colour = colour_scale(colours)
    layers: list[alt.Chart] = []
    if rule is not None:
        layers.append(level_rule(rule))
    if band:
        shaded = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
        layers.append(
            layer(shaded)
            .mark_area(opacity=0.16)
            .encode(x=x.x("x"), y=y.y("low"), y2=alt.Y2("high"), color=colour)
        )
    loud = [row for row in rows if row["series"] not in quiet]
    thin = [row for row in rows if row["series"] in quiet]
    if thin:
        layers.append(layer(thin).mark_line(strokeWidth=1.25).encode(x=x.x("x"), y=y.y("y"), color=colour))
    layers.append(layer(loud).mark_line(strokeWidth=2).encode(x=x.x("x"), y=y.y("y"), color=colour))
    layers.append(
        layer(loud).mark_point(filled=True, size=26, opacity=1).encode(x=x.x("x"), y=y.y("y"), color=colour)
    )
    return alt.LayerChart(layer=layers)


def error_bars(rows: Rows, x: Axis, y: Axis, colour: alt.Color) -> list[alt.Chart]:
    """Return bars from `low` to `high` and from `left` to `right`, for the rows that have them."""
    up = [row for row in rows if row.get("low") is not None]
    across = [row for row in rows if row.get("left") is not None]
    return [
        layer(up)
        .mark_rule(strokeWidth=1.25)
        .encode(x=x.x("x"), y=y.y("low"), y2=alt.Y2("high"), color=colour),
        layer(across)
        .mark_rule(strokeWidth=1.25)
        .encode(x=x.x("left"), x2=alt.X2("right"), y=y.y("y"), color=colour),
    ]


def frontier(rows: Rows, x: Axis, y: Axis, colours: Mapping[str, str], *, path: bool) -> alt.LayerChart:
    """Return points (`x, y, series, label`) with error bars (`low, high`, `left, right`), joined by `order`.

    What is gained (up) against what it costs (right): one run over its updates, or one point per run of a
    study. `label` names a point where it is not empty; `path` joins the points of a series.
    """
    colour = colour_scale(colours)
    layers: list[alt.Chart] = []
    if path:
        layers.append(
            layer(rows)
            .mark_line(strokeWidth=1.5, opacity=0.55)
            .encode(x=x.x("x"), y=y.y("y"), color=colour, order=alt.Order("order:Q"))
        )
    layers += [
        *error_bars(rows, x, y, colour),
        layer(rows).mark_point(filled=True, size=44, opacity=1).encode(x=x.x("x"), y=y.y("y"), color=colour),
    ]
    middle = (min(row["x"] for row in rows) + max(row["x"] for row in rows)) / 2
    for right in (False, True):
        named = [row for row in rows if row.get("label") and (row["x"] > middle) == right]
        side: dict[str, Any] = (
            {"align": "right", "dx": -8, "dy": -12} if right else {"align": "left", "dx": 8, "dy": 12}
        )
        text = layer(named).mark_text(fontSize=12, color=MUTED, **side)
        layers.append(text.encode(x=x.x("x"), y=y.y("y"), text="label:N"))
    return alt.LayerChart(layer=layers)


def against_temperature(
    rows: Rows, x: Axis, y: Axis, colours: Mapping[str, str], *, rule: float
) -> alt.LayerChart:
    """Return points (`x, y, series`) with error bars (`low, high`) joined by `order`, and a dashed level."""
    return alt.LayerChart(layer=[level_rule(rule), frontier(rows, x, y, colours, path=True)])


def histogram(rows: Rows, x: Axis, *, mean: float, rule: float = 0.0) -> alt.LayerChart:
    """Return bars of counts (`left, right, count`), a line at the mean and a dashed one at `rule`."""
    counts = Axis("prompts", zero=True, whole=True)
    bars = (
        layer(rows)
        .mark_rect(color=BLUE, opacity=0.75, stroke=PAPER, strokeWidth=1)
        .encode(x=x.x("left"), x2=alt.X2("right"), y=counts.y("count"), y2=alt.Y2(datum=0))
    )
    at_rule = layer([{"at": rule}]).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=x.x("at"))
    at_mean = layer([{"at": mean}]).mark_rule(color=INK, strokeWidth=2).encode(x=x.x("at"))
    return alt.LayerChart(layer=[bars, at_rule, at_mean])


def bins(values: Sequence[float], wanted: int = 20) -> list[dict[str, float]]:
    """Return equal bins (`left, right, count`) over the values, one of them centred on 0: no change."""
    low, high = min(values), max(values)
    width = (high - low) / wanted
    if width < 1e-9 * max(abs(low), abs(high), 1e-300):
        return [{"left": low - 0.5, "right": low + 0.5, "count": len(values)}]
    counted: dict[int, int] = {}
    for value in values:
        index = math.floor(value / width + 0.5)
        counted[index] = counted.get(index, 0) + 1
    return [
        {"left": (index - 0.5) * width, "right": (index + 0.5) * width, "count": counted.get(index, 0)}
        for index in range(min(counted), max(counted) + 1)
    ]


def specification(chart: alt.LayerChart, title: str = "") -> dict[str, Any]:
    """Return the chart as Vega-Lite in the house style, with a title where one is given."""
    document = chart.to_dict(validate=False)
    height = document.get("height", HEIGHT)
    shape = {"width": WIDTH, "height": height, "autosize": {"type": "fit", "contains": "padding"}}
    named = {"title": title} if title else {}
    return document | shape | named | {"config": STYLE}


def inline_svg(chart: alt.LayerChart, prefix: str, label: str) -> Markup:
    """Return the chart as SVG for a page: transparent, colours as style variables, ids unique by `prefix`.

    Raises:
        DrawingError: the picture holds a script, a link or a style, which no chart needs.

    """
    svg = _svg(specification(chart))
    svg = re.sub(r'<rect width="[\d.]+" height="[\d.]+" fill="[^"]*"\s*/>', "", svg, count=1)
    svg = re.sub(r'\b(id="|url\(#)(?=[A-Za-z])', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r' (?:aria-(?!hidden)[a-z]+|role|pointer-events)="[^"]*"', "", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(f'"{colour}"', f'"var(--chart-{variable})"')
    head = Markup('<svg role="img" aria-label="{}" ').format(label)
    return Markup(svg.replace("<svg ", head, 1))


def files(chart: alt.LayerChart, title: str) -> tuple[str, bytes]:
    """Return the chart with its title as SVG text and PNG bytes, on white paper."""
    titled = specification(chart, title)
    return _svg(titled), vl_convert.vegalite_to_png(titled, scale=2)


def _svg(document: dict[str, Any]) -> str:
    svg = vl_convert.vegalite_to_svg(document)
    for element in ElementTree.fromstring(svg).iter():
        tag = element.tag.rpartition("}")[2]
        names = [name.rpartition("}")[2].lower() for name in element.attrib]
        bad = [name for name in names if name.startswith("on") or name in ("style", "href", "src")]
        if tag not in DRAWN_WITH or bad:
            raise DrawingError(f"a chart came back with {tag} {' '.join(bad)} in it; please report this")
    return svg


def layer(rows: Rows) -> alt.Chart:
    """Return a chart of rows to put marks on."""
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def level_rule(level: float) -> alt.Chart:
    """Return a dashed horizontal line: a level to compare with."""
    return layer([{"level": level}]).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=alt.Y("level:Q"))


def legend_columns(names: Sequence[str]) -> int:
    """Return how many names stand beside each other in a legend."""
    wide = max((len(name) for name in names), default=0)
    return max(1, min(len(names), 72 // (wide + 6)))


def colour_scale(
    colours: Mapping[str, str], *, unnamed: Sequence[str] = (), symbol: str | None = None
) -> alt.Color:
    """Return the colour of each series, with a legend where there are several; `unnamed` are not in it.

    `symbol` is Vega's name of the legend's marks, a stroke where it is not given.
    """
    named = [name for name in colours if name not in unnamed]
    options: dict[str, Any] = {"columns": legend_columns(named), "labelLimit": 400}
    if symbol:
        options |= {"symbolType": symbol, "symbolStrokeWidth": 0, "symbolSize": 90}
    legend: Any = alt.Legend(values=named, **options) if len(named) > 1 else None
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color("series:N", scale=scale, legend=legend)
