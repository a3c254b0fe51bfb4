"""The browser of answers in headless Chromium: keys, filters, sorting by surprise, marked words."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.reports.browser import CHROMIUM, Tab, browser
from tether.judging.compare import compare_verdicts
from tether.judging.comparison import surprises
from tether.judging.options import Deciding
from tether.records.comparison import Verdict
from tether.reports.compare_page import write_comparison

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]

SHOWN = "[...document.querySelectorAll('.sample')].filter((s) => s.offsetParent !== null)"
NUMBERS = f"{SHOWN}.map((s) => Number(s.querySelector('.index').textContent))"
HERE = "document.activeElement.querySelector?.('.index')?.textContent ?? ''"
CHOSEN = "document.querySelector('.explorer > input:checked').id"


def _verdict(i: int, a: str, b: str) -> Verdict:
    """Of every ten pairs one goes to B, one is even, one changes with the order, one has no verdict."""
    first, second = {0: (0.1, 0.2), 1: (0.5, 0.5), 2: (0.9, 0.3), 3: (None, 0.8)}.get(i % 10, (0.8, 0.7))
    return Verdict(
        id=f"p{i}", prompt=f"prompt {i}", model_a=a, model_b=b,
        answer_a=f"the fox number {i} is quick and very kind today" + " indeed" * (i % 3),
        answer_b=f"the fox number {i} is slow and very kind today",
        judge="judge", a_first=first, b_first=second,
    )  # fmt: skip


def _page(folder: Path, verdicts: list[Verdict]) -> tuple[Path, list[float | None]]:
    bits = surprises(verdicts)
    record = compare_verdicts(verdicts, Deciding(draws=100))
    return write_comparison(record, verdicts, bits, folder / "page.html"), bits


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float | None]]:
    return _page(tmp_path_factory.mktemp("two"), [_verdict(i, "x", "y") for i in range(40)])


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def _filters(tab: Tab) -> list[str]:
    return tab.ask("[...document.querySelectorAll('.explorer > input')].map((i) => i.id.slice(5))")


def test_j_and_k_move_between_the_pairs_shown_and_stop_at_the_ends(
    tab: Tab, two: tuple[Path, list[float | None]]
) -> None:
    tab.open(two[0])
    assert tab.ask(NUMBERS) == list(range(1, 9))
    seen: list[str] = []
    for key in "kjjk" + "j" * 9:
        tab.press(key)
        seen.append(tab.ask(HERE))
    # k from nowhere goes to the last one; at the last one j stays.
    assert seen == ["8", "8", "8", "7", *["8"] * 9]
    tab.open(two[0])
    for key in "jjj":
        tab.press(key)
    assert tab.ask(HERE) == "3"
    top = tab.ask("document.activeElement.getBoundingClientRect().top")
    assert 0 <= top < 40
    for _ in range(4):
        tab.press("k")
    assert tab.ask(HERE) == "1"


def test_digits_choose_what_is_shown(tab: Tab, two: tuple[Path, list[float | None]]) -> None:
    tab.open(two[0])
    filters = _filters(tab)
    assert filters == ["first", "all", "a", "b", "even", "flips", "odd", "none"]
    every = list(range(1, 41))
    wanted = {
        "all": every,
        "a": [n for n in every if (n - 1) % 10 in (2, 4, 5, 6, 7, 8, 9)],
        "b": [n for n in every if (n - 1) % 10 == 0],
        "even": [n for n in every if (n - 1) % 10 == 1],
        "flips": [n for n in every if (n - 1) % 10 == 2],
        "none": [n for n in every if (n - 1) % 10 == 3],
    }
    for name, numbers in wanted.items():
        tab.press(str(filters.index(name) + 1))
        assert tab.ask(CHOSEN) == f"show-{name}"
        assert tab.ask(NUMBERS) == numbers
        assert tab.ask("document.getElementById('count').textContent") == f"{len(numbers)} pairs shown"
    tab.press("9")
    assert tab.ask(CHOSEN) == "show-none"
    tab.click("label[for=show-flips]")
    assert tab.ask(NUMBERS) == wanted["flips"]
    tab.press("j")
    assert tab.ask(HERE) == str(wanted["flips"][0])


def test_the_most_surprising_are_filtered_by_a_digit_and_sorted_by_s(
    tab: Tab, two: tuple[Path, list[float | None]]
) -> None:
    page, bits = two
    tab.open(page)
    tab.press(str(_filters(tab).index("odd") + 1))
    order = sorted((i for i, b in enumerate(bits) if b is not None), key=lambda i: -(bits[i] or 0.0))
    assert sorted(tab.ask(NUMBERS)) == sorted(i + 1 for i in order[:30])
    tab.press("s")
    shown = tab.ask(NUMBERS)
    surprise = [bits[n - 1] or 0.0 for n in shown]
    assert surprise == sorted(surprise, reverse=True) and surprise[0] > surprise[-1]
    assert tab.ask("document.getElementById('sort').getAttribute('aria-pressed')") == "true"
    tab.press("j")
    assert tab.ask(HERE) == str(shown[0])
    tab.click("#sort")
    assert tab.ask(NUMBERS) == sorted(shown)


def test_words_of_one_answer_alone_are_marked_and_m_hides_the_marks(
    tab: Tab, two: tuple[Path, list[float | None]]
) -> None:
    tab.open(two[0])
    marked = "[...document.querySelector('.sample').querySelectorAll('del, ins')].map((e) => e.textContent)"
    assert [text.strip() for text in tab.ask(marked)] == ["quick", "slow"]
    painted = "getComputedStyle(document.querySelector('.sample del')).backgroundColor"
    plain = "getComputedStyle(document.querySelector('.sample')).backgroundColor"
    assert tab.ask(painted) != tab.ask(plain)
    tab.press("m")
    assert tab.ask(painted) == "rgba(0, 0, 0, 0)"
    tab.press("m")
    assert tab.ask(painted) != "rgba(0, 0, 0, 0)"


def test_a_choice_of_models_and_a_filter_go_together(tab: Tab, tmp_path: Path) -> None:
    verdicts = [_verdict(i, a, b) for i in range(20) for a, b in (("x", "y"), ("x", "z"), ("y", "z"))]
    page, _ = _page(tmp_path, verdicts)
    tab.open(page)
    tab.press("2")
    assert len(tab.ask(NUMBERS)) == 60
    tab.ask("document.getElementById('models').focus()")
    tab.press("ArrowDown")
    tab.press("ArrowDown")
    assert tab.ask("document.getElementById('models').value") == "1"
    assert tab.ask(NUMBERS) == [3 * i + 2 for i in range(20)]
    # Letters typed into the choice are the choice's own: nothing is sorted.
    tab.press("s")
    assert tab.ask("document.getElementById('sort').getAttribute('aria-pressed')") == "false"
    tab.ask("document.activeElement.blur()")
    tab.press("4")
    assert tab.ask(NUMBERS) == [2, 32]


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_narrow_window(
    tab: Tab, two: tuple[Path, list[float | None]], dark: bool
) -> None:
    tab.open(two[0], width=390, dark=dark)
    assert tab.ask("document.documentElement.scrollWidth") <= 390
    assert tab.ask("getComputedStyle(document.querySelector('.keys')).display") == "none"


def test_long_names_of_models_do_not_widen_a_narrow_window(tab: Tab, tmp_path: Path) -> None:
    long = [f"a-name-that-goes-on-and-on-and-has-no-space-in-it-{i}" for i in range(3)]
    verdicts = [_verdict(i, a, b) for i in range(12) for a, b in pairwise(long)]
    tab.open(_page(tmp_path, verdicts)[0], width=390)
    assert tab.ask("document.documentElement.scrollWidth") <= 390
