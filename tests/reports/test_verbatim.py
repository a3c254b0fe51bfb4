"""Text is shown as it is: nothing lost, nothing hidden, nothing run."""

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from tether.reports.verbatim import COMPARED, compared, hidden, turns, verbatim, visible_controls

TAGS = re.compile(r"</?(?:del|ins)>")
READABLE = st.text(st.characters().filter(lambda c: not hidden(c)), max_size=200)
WORDS = st.lists(st.sampled_from(["a", "the", "red", "box", " ", "\n", ".", "<b>", "&"]), max_size=40).map(
    "".join
)


@given(READABLE)
def test_readable_text_survives_exactly(text: str) -> None:
    assert unescape(str(verbatim(text))) == text


@given(WORDS, WORDS)
def test_marking_differences_loses_no_character(before: str, after: str) -> None:
    left, right = compared(before, after)
    assert unescape(TAGS.sub("", str(left))) == before
    assert unescape(TAGS.sub("", str(right))) == after


@given(st.text(st.characters(codec=None), max_size=60))
def test_no_hidden_character_is_left(text: str) -> None:
    for shown in (str(verbatim(text)), visible_controls(text)):
        assert not [c for c in shown if hidden(c)]


@given(st.text(max_size=60))
def test_text_never_opens_an_element(text: str) -> None:
    assert not re.findall(r"<(?!span class=\"(?:ctl|cut)\"|/span>)", str(verbatim(text)))


def test_only_the_words_that_differ_are_marked() -> None:
    left, right = compared("The order will be checked.", "The order will be checked today, thank you.")
    assert str(left) == "The order will be checked."
    assert str(right) == "The order will be checked<ins> today, thank you</ins>.".replace("<ins> ", " <ins>")


def test_answers_with_little_in_common_are_left_unmarked() -> None:
    left, right = compared("One two three four.", "Five six seven eight nine.")
    assert "<del>" not in left and "<ins>" not in right


def test_very_long_answers_are_shown_without_comparison_in_time() -> None:
    text = "a b " * (COMPARED // 2)
    left, _ = compared(text, text + "c")
    assert "<del>" not in left


def test_a_cut_is_counted() -> None:
    assert "1,200 more characters" in verbatim("x" * 7200)


def test_chat_prompts_keep_roles_and_what_is_not_text() -> None:
    shown = turns(({"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [{"name": "f<"}]}))
    assert [turn.role for turn in shown] == ["user", "assistant"]
    assert shown[0].text == "hi" and "f&lt;" in shown[1].text
