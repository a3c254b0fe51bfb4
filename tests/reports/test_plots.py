"""Charts are valid Vega-Lite in the house style, and a picture is nothing but a picture."""

import re
from itertools import pairwise
from typing import Any

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.reports import plots
from tether.reports.figures import thinned
from tether.reports.plots import BLUE, ORANGE, Axis

ROWS: list[dict[str, Any]] = [
    {"x": x, "y": x * x, "series": s, "low": x * x - 1, "high": x * x + 1, "left": x - 0.1, "right": x + 0.1,
     "label": "start" if x == 0 else "", "order": x}
    for x in range(4)
    for s in ("a", "b")
]  # fmt: skip
COLOURS = {"a": BLUE, "b": ORANGE}
CHARTS = {
    "lines": plots.lines(
        ROWS, Axis("update", whole=True), Axis(), COLOURS, quiet=("b",), band=True, rule=0.5
    ),
    "frontier": plots.frontier(ROWS, Axis("KL", zero=True), Axis(), COLOURS, path=True),
    "histogram": plots.histogram(plots.bins([0.1, 0.2, -0.4]), Axis("gain"), mean=0.1),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_valid_vega_lite(name: str) -> None:
    alt.LayerChart.from_dict(plots.specification(CHARTS[name], title="t"), validate=True)


def test_a_picture_takes_its_colours_from_the_page() -> None:
    svg = plots.inline_svg(CHARTS["lines"], "loss", 'a "label" <b>')
    assert svg.startswith('<svg role="img" aria-label="a &#34;label&#34; &lt;b&gt;"')
    assert not re.search(r'(?:fill|stroke)="(?!none|transparent|var\(--chart-)', svg)
    assert "var(--chart-blue)" in svg and "var(--chart-orange)" in svg


def test_ids_of_two_pictures_on_one_page_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><defs><clipPath id="clip0"/></defs>'
        '<g clip-path="url(#clip0)"/></svg>'
    )
    monkeypatch.setattr(plots.vl_convert, "vegalite_to_svg", lambda _: svg)
    drawn = plots.inline_svg(CHARTS["lines"], "loss", "Loss")
    assert 'id="loss-clip0"' in drawn and 'clip-path="url(#loss-clip0)"' in drawn


def test_names_of_series_are_escaped() -> None:
    nasty = '<script>alert(1)</script>" onload="alert(1)'
    rows = [{"x": x, "y": x, "series": s} for x in range(3) for s in (nasty, "b")]
    svg = plots.inline_svg(plots.lines(rows, Axis(), Axis(), {nasty: BLUE, "b": ORANGE}), "p", "chart")
    assert "<script" not in svg and "&lt;script" in svg


def test_a_picture_with_a_script_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("<script/>", '<path onclick="x"/>', '<image href="https://x"/>', '<g style="fill:red"/>'):
        svg = f'<svg xmlns="http://www.w3.org/2000/svg">{bad}</svg>'
        monkeypatch.setattr(plots.vl_convert, "vegalite_to_svg", lambda _, svg=svg: svg)
        with pytest.raises(plots.DrawingError):
            plots.inline_svg(CHARTS["lines"], "p", "chart")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_bins_count_every_value_once(values: list[float]) -> None:
    found = plots.bins(values)
    assert sum(bar["count"] for bar in found) == len(values)
    assert all(left["right"] == right["left"] for left, right in pairwise(found))


@given(st.lists(st.floats(-10, 10), max_size=900))
def test_thinned_curves_keep_the_mean_and_the_last_update(values: list[float]) -> None:
    lines = [{"step": step, "loss": value} for step, value in enumerate(values)]
    points, size = thinned(lines, "loss", limit=100)
    assert len(points) <= 100
    if values:
        assert points[-1][0] == len(values) - 1
        whole = len(values) // size * size
        total = sum(value for _, value in points[: whole // size]) * size
        assert total == pytest.approx(sum(values[:whole]), abs=1e-9 * max(1, len(values)) * 10)
