"""Numbers carry the digits they deserve; CSV carries them whole and runs nothing."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.reports.tables import (
    brief,
    csv_text,
    decimals_for,
    duration,
    flattened,
    number,
    plain,
    with_error,
)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.2114, 0.2, "3.2 ± 0.2"),
        (3.2114, 0.14, "3.21 ± 0.14"),
        (0.0312, 0.0041, "0.031 ± 0.004"),
        (1234.5, 31.0, "1,234 ± 31"),
        (-0.5, 0.06, "−0.50 ± 0.06"),
        (0.0, 0.0, "0 ± 0"),
        (1.5, None, "1.50"),
        (None, None, "–"),
    ],
)
def test_the_standard_error_decides_the_digits(value: float | None, error: float | None, text: str) -> None:
    assert with_error(value, error) == text


def test_numbers_for_people() -> None:
    assert (number(0.5, 2, signed=True), number(-0.001, 2), number(float("nan"))) == ("+0.50", "0.00", "–")
    assert (brief(18.605), brief(9.303), brief(0.84535), brief(1234.0)) == ("18.6", "9.3", "0.845", "1,230")
    assert (duration(4.21), duration(122), duration(7500)) == ("4.2 s", "2 min 2 s", "2 h 5 min")
    assert decimals_for(0.0) == decimals_for(None) == 2


def test_facts_keep_every_leaf_under_its_whole_name() -> None:
    document = {"a": {"b": {"c": 1e-06}}, "d": [1, 2], "e": {}, "f": None, "g": [{"h": True}], "i": 0.6931471}
    assert flattened(document) == [
        ("a.b.c", "1e-06"), ("d", "1, 2"), ("e", "–"), ("f", "–"), ("g.0.h", "yes"), ("i", "0.693147"),
    ]  # fmt: skip
    assert plain(-2.5) == "−2.5"


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_csv_keeps_numbers_to_the_last_bit(values: list[float]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text([{"x": value} for value in values]))))
    assert [float(row["x"]) for row in rows] == values


def test_csv_cells_never_start_a_formula() -> None:
    cells = ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "plain"]
    rows = list(csv.reader(io.StringIO(csv_text([{"s": cell} for cell in cells]), newline="")))[1:]
    assert [row[0] for row in rows] == ["'" + cell for cell in cells[:-1]] + ["plain"]
