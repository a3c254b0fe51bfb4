"""Labels of a chart's points: clear of one another and of points, each nearest to its own; drawn too."""

import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.reports import plots, study_plots
from tether.reports.labels import Box, Label, Place, around, nice, place_labels
from tether.reports.plots import BLUE, INK, ORANGE, Axis

FRAME = Box(0, 0, 400, 300)


def at(x: float, y: float, text: str = "β 0.03", reach: float = 0) -> Label:
    return Label(x, y, text, Box(x - reach, y - reach, x + reach, y + reach))


def boxes(labels: list[Label], places: list[Place]) -> list[Box]:
    return [place.box(label.x, label.y, label.text) for label, place in zip(labels, places, strict=True)]


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1))
def test_where_there_is_room_no_label_covers_anything(cells: set[tuple[int, int]]) -> None:
    labels = [at(40 + 90 * column, 40 + 55 * row) for column, row in sorted(cells)]
    points = [(label.x, label.y) for label in labels]
    found = boxes(labels, place_labels(labels, frame=FRAME, points=points))
    assert all(a.overlap(b) == 0 for a, b in combinations(found, 2))
    assert all(box.overlap(Box(x - 4, y - 4, x + 4, y + 4)) == 0 for box in found for x, y in points)
    for box, label in zip(found, labels, strict=True):
        assert box.overlap(FRAME) == pytest.approx((box.right - box.left) * (box.bottom - box.top))
        assert min(points, key=lambda point: box.distance(*point)) == (label.x, label.y)


def test_a_label_leaves_the_frames_edge_and_its_own_bars() -> None:
    corner = at(395, 295)
    (box,) = boxes([corner], place_labels([corner], frame=FRAME, points=[(395, 295)]))
    assert box.right <= 400 and box.bottom <= 300
    barred = at(200, 150, reach=30)
    bars = [Box(170, 149, 230, 151), Box(199, 120, 201, 180)]
    (box,) = boxes([barred], place_labels([barred], frame=FRAME, points=[(200, 150)], bars=bars))
    assert all(box.overlap(bar) == 0 for bar in bars)


def test_in_a_crowd_a_label_goes_to_the_end_of_its_bar() -> None:
    label = Label(100, 100, "β 0.1", Box(60, 90, 180, 110))
    others = [(110.0 + dx, 100.0 + dy) for dx in (-22, 0, 22) for dy in (-28, -12, 12, 28)]
    (place,) = place_labels([label], frame=FRAME, points=[(100, 100), *others])
    assert (place.align, place.dy) in {("left", 0), ("right", 0)}


@pytest.mark.parametrize(
    ("ends", "rounded"), [((-0.66, 1.52), (-0.8, 1.6)), ((0.0, 9.7), (0, 10)), ((2.0, 2.0), (2, 2))]
)
def test_axes_are_rounded_as_vega_does(ends: tuple[float, float], rounded: tuple[float, float]) -> None:
    assert nice(*ends) == pytest.approx(rounded)


def test_around_holds_all() -> None:
    assert around([Box(0, 1, 2, 3), Box(-1, 2, 1, 5)]) == Box(-1, 1, 2, 5)


# A demo's points: KL, its error, reward, its error.
CROWD = (
    (0.82, 0.05, 0.52, 0.12, "β 3"), (1.88, 0.25, 0.62, 0.12, "β 1"), (2.38, 0.29, 0.74, 0.12, "β 0.3"),
    (5.36, 0.51, 0.98, 0.11, "β 0.1"), (6.27, 0.7, 0.88, 0.1, "β 0.03"), (6.6, 0.61, 0.71, 0.1, "β 0.01"),
    (5.7, 0.5, 0.80, 0.16, ""), (5.65, 0.57, 0.83, 0.16, ""), (6.54, 0.98, 1.02, 0.13, ""),
    (5.34, 0.62, 0.63, 0.13, ""),
)  # fmt: skip


def test_labels_of_a_drawn_chart_do_not_overlap() -> None:
    rows: list[dict[str, Any]] = [
        {"x": 0.0, "y": -0.54, "low": -0.67, "high": -0.41, "series": "start", "label": "start"}
    ]
    for kl, kl_se, score, se, label in CROWD:
        ends = {"left": kl - kl_se, "right": kl + kl_se, "low": score - se, "high": score + se}
        rows.append({"x": kl, "y": score, "series": "DPO" if label else "posterior", "label": label} | ends)
    colours = {"start": INK, "DPO": BLUE, "posterior": ORANGE}
    chart = study_plots.tradeoff(rows, Axis("KL", zero=True), Axis("reward"), colours, unnamed=("start",))
    svg = plots.inline_svg(chart, "frontier", "Reward against KL")
    texts = re.findall(
        r'<text text-anchor="(\w+)" transform="translate\(([-\d.]+),([-\d.]+)\)"[^>]*>'
        r"(β [\d.]+|start)</text>",
        svg,
    )
    # Each once as a halo and once as itself, at the same place.
    assert len(texts) == 14 and len(set(texts)) == 7
    drawn = [text_box(*text) for text in set(texts)]
    assert all(a.overlap(b) == 0 for a, b in combinations(drawn, 2))
    dots = [
        (float(x), float(y))
        for x, y in re.findall(r'<path transform="translate\(([-\d.]+),([-\d.]+)\)"', svg)
    ]
    assert len(dots) >= len(rows)
    assert all(box.overlap(Box(x - 3, y - 3, x + 3, y + 3)) == 0 for box in drawn for x, y in dots)


def text_box(anchor: str, x: str, y: str, text: str) -> Box:
    """What a text of 12 pixels covers, its baseline 4 below its middle."""
    wide, left, middle = 6.2 * len(text), float(x), float(y) - 4
    left -= {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return Box(left, middle - 5, left + wide, middle + 5)
