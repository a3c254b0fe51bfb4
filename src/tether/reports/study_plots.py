"""Charts only a study has: gain against KL with the law, a ramp of strengths, dots per token, differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tether.reports.plots import (
    GREY,
    INK,
    MUTED,
    RAMP,
    Axis,
    Rows,
    colour_scale,
    error_bars,
    layer,
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
    for above in (False, True):
        told = [row for row in points if row.get("label") and bool(row.get("above")) == above]
        side: dict[str, Any] = (
            {"dx": 0, "dy": -13, "align": "center"} if above else {"dx": 7, "dy": 11, "align": "left"}
        )
        text = layer(told).mark_text(fontSize=12, color=MUTED, **side)
        layers.append(text.encode(x=x.x("x"), y=y.y("y"), text="label:N"))
    return alt.LayerChart(layer=layers)


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
