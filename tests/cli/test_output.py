"""Tables: names are whole in any width, numbers stand right."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.cli.output import SEPARATED, folded, print_table

NAMES = ("Mixtral-8x7B-Instruct-v0.1_concise", "gpt-3.5-turbo-1106_concise", "phi-2")


@given(st.text(alphabet="ab-_./:@", max_size=40), st.integers(1, 20))
def test_a_folded_name_is_whole_and_parted_after_separators(name: str, width: int) -> None:
    pieces = folded(name, width)
    assert "".join(pieces) == name and all(len(piece) <= width for piece in pieces)
    ends = {match.end() for match in SEPARATED.finditer(name)}
    place = 0
    for piece, after in itertools.pairwise(pieces):
        place += len(piece)
        # In the middle of a part only where it alone is wider than the column.
        part = next(m.group() for m in SEPARATED.finditer(name) if m.end() > place or m.end() == len(name))
        assert place in ends or len(part) > width, (pieces, after)


def test_a_long_name_is_not_broken_in_mid_word_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["model", "win rate", "95 %", "LC", "95 % ", "n", "missing"]
    rows = [(name, "13.74", "11.8 to 16.2", "8.34", "23.8 to 34.9", 805, 0) for name in NAMES]
    print_table("rates", columns, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    firsts = [re.split(r"\s{2,}", line.strip())[0] for line in lines[2:]]
    assert "".join(firsts) == "".join(NAMES)
    assert firsts[:2] == ["Mixtral-8x7B-", "Instruct-v0.1_"]


def test_numbers_written_as_text_stand_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table("", ["model", "win rate"], [("a", "9.18"), ("b", "63.33"), ("c", "-")])
    assert [line[-5:] for line in capsys.readouterr().out.splitlines()[1:]] == [" 9.18", "63.33", "    -"]
