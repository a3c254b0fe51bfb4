"""Where the labels of a chart's points stand: beside their points, clear of one another and of what is drawn.

Plain geometry in pixels, y downwards, so that it can be tested without drawing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LETTER, LINE = 6.6, 13.0
"""Pixels of a letter and of a line at the font size of labels."""
NEAR, FAR = 8.0, 24.0
"""Pixels between a point and its label; the farther where nothing nearer is free."""
OUTSIDE, LABEL, POINT, LINE_COST = 50.0, 20.0, 10.0, 1.0
"""What a pixel of overlap costs: with the frame, another label, a point or bar, a curve."""
STRANGER = 1500.0
"""What standing nearer to another point than to its own costs a label."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the area both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def distance(self, x: float, y: float) -> float:
        """Return how far a point lies outside."""
        return math.hypot(max(self.left - x, x - self.right, 0.0), max(self.top - y, y - self.bottom, 0.0))


def around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all of these."""
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


@dataclass(frozen=True)
class Place:
    """Where a label stands relative to its point: its side, and the offset of the text's anchor."""

    align: str
    """left: the text begins there; right: it ends there; center."""
    dx: float
    dy: float

    def box(self, x: float, y: float, text: str) -> Box:
        """Return what a label of a point at (x, y) covers."""
        width, middle = LETTER * len(text), y + self.dy
        left = x + self.dx - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        return Box(left, middle - LINE / 2, left + width, middle + LINE / 2)


@dataclass(frozen=True)
class Label:
    """What is to be written beside a point at (x, y), whose error bars reach to the ends of `bars`."""

    x: float
    y: float
    text: str
    bars: Box

    def places(self) -> list[Place]:
        """Return where it may stand, best first: beside the point, or beyond an end of its bars."""
        beside = [
            Place(align, sign * aside, sign_down * reach)
            for reach in (NEAR + 2, FAR)
            for align, sign, aside, sign_down in (
                ("left", 1, NEAR, 1),
                ("left", 1, NEAR, -1),
                ("right", -1, NEAR, -1),
                ("right", -1, NEAR, 1),
            )
        ]
        ends = [
            Place("left", self.bars.right - self.x + NEAR - 2, 0),
            Place("right", self.bars.left - self.x - NEAR + 2, 0),
            Place("center", 0, self.bars.top - self.y - NEAR),
            Place("center", 0, self.bars.bottom - self.y + NEAR),
        ]
        return [*beside[:4], *ends, *beside[4:]]

    def away(self, box: Box) -> float:
        """Return how far a box is from the point and its bars."""
        along = [(min(max(box.left, self.bars.left), self.bars.right), self.y)]
        along += [(min(max(box.right, self.bars.left), self.bars.right), self.y)]
        along += [(self.x, min(max(y, self.bars.top), self.bars.bottom)) for y in (box.top, box.bottom)]
        return min(box.distance(x, y) for x, y in [(self.x, self.y), *along])


def place_labels(
    labels: Sequence[Label],
    *,
    frame: Box,
    points: Sequence[tuple[float, float]] = (),
    bars: Sequence[Box] = (),
    curves: Sequence[tuple[float, float]] = (),
) -> list[Place]:
    """Return a place for every label: each in turn the cheapest of those that are left.

    Args:
        labels: points that have a label, the most important first.
        frame: where labels may stand.
        points: all points: covered by no label, and no label nearer to one that is not its own.
        bars: error bars.
        curves: places along curves, which a label may cross where it must.

    """
    along = [Box(x - 1.5, y - 1.5, x + 1.5, y + 1.5) for x, y in curves]
    solid = [*bars, *(Box(x - 4, y - 4, x + 4, y + 4) for x, y in points)]
    taken: list[Box] = []
    found: list[Place] = []
    for label in labels:
        own = (label.x, label.y)

        def cost(place: Place, label: Label = label, own: tuple[float, float] = own) -> float:
            box = place.box(label.x, label.y, label.text)
            area, away = (box.right - box.left) * (box.bottom - box.top), label.away(box)
            strangers = sum(box.distance(*point) < away for point in points if point != own)
            return (
                OUTSIDE * (area - box.overlap(frame))
                + LABEL * sum(map(box.overlap, taken))
                + POINT * sum(map(box.overlap, solid))
                + LINE_COST * sum(map(box.overlap, along))
                + STRANGER * strangers
            )

        best = min(label.places(), key=cost)  # of equals the first
        found.append(best)
        taken.append(best.box(label.x, label.y, label.text))
    return found


def nice(low: float, high: float, count: int = 10) -> tuple[float, float]:
    """Return the ends of an axis rounded outwards to its marks, as Vega's `nice` does."""
    if not high > low:
        return low, high
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    error = rough / power
    step = power * (
        10 if error >= math.sqrt(50) else 5 if error >= math.sqrt(10) else 2 if error >= 2**0.5 else 1
    )
    return math.floor(low / step) * step, math.ceil(high / step) * step
