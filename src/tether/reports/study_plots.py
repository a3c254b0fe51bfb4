"""Charts only a study has: gain against KL with the law, a ramp of strengths, dots per token, differences."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from tether.reports.labels import Box, Label, around, nice, place_labels
from tether.reports.plots import (
    GREY,
    INK,
    MUTED,
    PAPER,
    RAMP,
    WIDTH,
    Axis,
    Rows,
    colour_scale,
    error_bars,
    layer,
    legend_columns,
    level_rule,
)


def ramp(names: Sequence[str]) -> dict[str, str]:
    """Return a colour per name, tight to loose."""
    last = max(len(names) - 1, 1)
    return {name: RAMP[round(index * (len(RAMP) - 1) / last)] for index, name in enumerate(names)}


def tradeoff(
    points: Rows,
    x: Axis,
    y: Axis,
    colours: Mapping[str, str],
    *,
    faint: Rows = (),
    curves: Rows = (),
    unnamed: Sequence[str] = (),
) -> alt.LayerChart:
    """Return labelled points with error bars, single seeds behind them, and curves (`x, y, series`).

    `points` are `x, y, series, label, low, high, left, right`; curves with `dashed` are drawn so, and `low`,
    `high` shade a band.
    """
    colour = colour_scale(colours, unnamed=unnamed)
    layers: list[alt.Chart] = []
    banded = [row for row in curves if row.get("low") is not None]
    if banded:
        area = layer(banded).mark_area(opacity=0.12)
        layers.append(area.encode(x=x.x("x"), y=y.y("low"), y2=alt.Y2("high"), color=colour))
    for dashed in (False, True):
        own = [row for row in curves if bool(row.get("dashed")) == dashed]
        if own:
            line = layer(own).mark_line(strokeWidth=1.6, strokeDash=[5, 4] if dashed else [1, 0])
            layers.append(line.encode(x=x.x("x"), y=y.y("y"), color=colour))
    if faint:
        layers.append(
            layer(faint)
            .mark_point(size=18, strokeWidth=1, opacity=0.75)
            .encode(x=x.x("x"), y=y.y("y"), color=colour)
        )
    layers += [
        *error_bars(points, x, y, colour),
        layer(points)
        .mark_point(filled=True, size=52, opacity=1)
        .encode(x=x.x("x"), y=y.y("y"), color=colour),
    ]
    named = [name for name in colours if name not in unnamed]
    layers += _labels(points, faint, curves, x, y, named, colour)
    return alt.LayerChart(layer=layers, height=TRADEOFF)


TRADEOFF = 380
"""Height of gain against cost, which has more in it than other charts."""
LEFT, BELOW, LEGEND_ROW = 52, 44, 20
"""Pixels of the picture that its axes and each row of its legend take, about."""


def _labels(
    points: Rows,
    faint: Rows,
    curves: Rows,
    x: Axis,
    y: Axis,
    named: Sequence[str],
    colour: alt.Color,
) -> list[alt.Chart]:
    """Return the labels of points, in their colour on a halo of paper, each where it covers least."""
    rows = math.ceil(len(named) / legend_columns(named)) if len(named) > 1 else 0
    frame = Box(0, 0, WIDTH - LEFT, TRADEOFF - BELOW - LEGEND_ROW * rows)
    drawn = [*points, *faint, *curves]
    across = _span(drawn, ("x", "left", "right"), zero=x.zero)
    up = nice(*_span(drawn, ("y", "low", "high"), zero=y.zero))

    def at(row: Mapping[str, Any], one: str, other: str) -> tuple[float, float]:
        horizontal = (row[one] - across[0]) / (across[1] - across[0])
        return horizontal * frame.right, (up[1] - row[other]) / (up[1] - up[0]) * frame.bottom

    def crossed(row: Mapping[str, Any]) -> list[Box]:
        found: list[Box] = []
        for first, second in ((("x", "low"), ("x", "high")), (("left", "y"), ("right", "y"))):
            if row.get(first[0]) is not None and row.get(first[1]) is not None:
                (left, top), (right, bottom) = at(row, *first), at(row, *second)
                found.append(Box(left - 1, min(top, bottom) - 1, right + 1, max(top, bottom) + 1))
        return found

    def label(row: Mapping[str, Any]) -> Label:
        spot = at(row, "x", "y")
        return Label(*spot, str(row["label"]), around([Box(*spot, *spot), *crossed(row)]))

    told = [row for row in points if row.get("label")]
    places = place_labels(
        [label(row) for row in told],
        frame=frame,
        points=[at(row, "x", "y") for row in (*points, *faint)],
        bars=[box for row in points for box in crossed(row)],
        curves=[point for part in _stretches(curves) for point in _between(at, part)],
    )
    found: list[alt.Chart] = []
    for place in dict.fromkeys(places):
        own = layer([row for row, other in zip(told, places, strict=True) if other == place])
        side: dict[str, Any] = {"align": place.align, "dx": place.dx, "dy": place.dy, "baseline": "middle"}
        halo = own.mark_text(fontSize=12, stroke=PAPER, strokeWidth=3.5, color=PAPER, **side)
        text = own.mark_text(fontSize=12, **side)
        found.append(halo.encode(x=x.x("x"), y=y.y("y"), text="label:N"))
        found.append(text.encode(x=x.x("x"), y=y.y("y"), text="label:N", color=colour))
    return found


def _span(rows: Rows, fields: Sequence[str], *, zero: bool) -> tuple[float, float]:
    values = [row[field] for row in rows for field in fields if row.get(field) is not None]
    values += [0.0] if zero else []
    return min(values), max(max(values), min(values) + 1e-9)


def _stretches(curves: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return the neighbours along each curve."""
    return [
        (first, second)
        for first, second in pairwise(curves)
        if first["series"] == second["series"] and first.get("dashed") == second.get("dashed")
    ]


def _between(
    at: Callable[[Mapping[str, Any], str, str], tuple[float, float]],
    part: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = at(part[0], "x", "y"), at(part[1], "x", "y")
    steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 3))
    return [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(steps + 1)]


def strengths(rows: Rows, x: Axis, y: Axis, colours: Mapping[str, str]) -> alt.LayerChart:
    """Return one line per series over beta, an interval at every point, a rule at 0; `chosen` rows ringed."""
    colour = colour_scale(colours)
    marked = [row for row in rows if row.get("chosen")]
    layers = [
        level_rule(0.0),
        layer(rows).mark_line(strokeWidth=1.75, opacity=0.7).encode(x=x.x("x"), y=y.y("y"), color=colour),
        layer([row for row in rows if row.get("low") is not None])
        .mark_rule(strokeWidth=1.5)
        .encode(x=x.x("x"), y=y.y("low"), y2=alt.Y2("high"), color=colour),
        layer(rows).mark_point(filled=True, size=48, opacity=1).encode(x=x.x("x"), y=y.y("y"), color=colour),
        layer(marked).mark_point(size=190, strokeWidth=1.75, color=INK).encode(x=x.x("x"), y=y.y("y")),
    ]
    return alt.LayerChart(layer=layers)


def dots(rows: Rows, x: Axis, order: Sequence[str], colours: Mapping[str, str]) -> alt.LayerChart:
    """Return one row per name (`name, x, series`), from `order`, and a dot per series."""
    names = alt.Y("name:N", sort=list(order), title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
    zero = layer([{"at": 0.0}]).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=x.x("at"))
    points = layer(rows).mark_point(filled=True, size=60, opacity=0.95)
    colour = colour_scale(colours, symbol="circle")
    return alt.LayerChart(layer=[zero, points.encode(x=x.x("x"), y=names, color=colour)])


LETTER = 7.4
"""Pixels kept per letter of a row's name: a phone draws names larger, the picture smaller."""


def differences(rows: Rows, x: Axis) -> alt.LayerChart:
    """Return an interval per row (`name, x, low, high`) beside 0: what differs, and how surely."""
    labels = [str(row["name"]) for row in rows]
    names = alt.Y(
        "name:N",
        sort=labels,
        title=None,
        axis=alt.Axis(
            ticks=False, domain=False, grid=True, gridColor=GREY, gridOpacity=0.3, labelLimit=260,
            minExtent=min(260.0, LETTER * max(map(len, labels))),
        ),
    )  # fmt: skip
    zero = layer([{"at": 0.0}]).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=x.x("at"))
    return alt.LayerChart(
        layer=[
            zero,
            layer(rows).mark_rule(strokeWidth=2, color=INK).encode(x=x.x("low"), x2=alt.X2("high"), y=names),
            layer(rows).mark_point(filled=True, size=64, opacity=1, color=INK).encode(x=x.x("x"), y=names),
        ],
        height=70 + 34 * len(rows),
    )
