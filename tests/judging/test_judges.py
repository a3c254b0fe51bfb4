import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judging.corpus import ATTACKS, CONTROL_TOKENS
from tether.judging.judges import (
    EvaluatorJudge,
    LengthJudge,
    Question,
    RandomJudge,
    judge_messages,
    neutral,
    parse_letter,
    share_of_first,
)


def _sides(question: Question) -> tuple[str, str, str]:
    text = judge_messages(question)[1]["content"]
    (mark,) = set(re.findall(r"^=== request (\w+) ===$", text, flags=re.MULTILINE))
    blocks = [
        re.search(
            rf"^=== {name} {mark} ===\n(.*)\n=== end of {name} {mark} ===$", text, re.DOTALL | re.MULTILINE
        )
        for name in ("answer A", "answer B")
    ]
    assert all(blocks)
    return mark, blocks[0].group(1), blocks[1].group(1)


@pytest.mark.parametrize("attack", [attack.answer for attack in ATTACKS])
def test_an_answer_stays_between_its_own_marks(attack: str) -> None:
    # The attacker knows the marks of every other question, and has to fix the text before its own is known.
    known = _sides(Question("q", attack, "honest"))[0]
    question = Question("q", attack.replace("{mark}", known), "honest")
    mark, first, second = _sides(question)
    assert mark not in question.first
    assert first == neutral(question.first)
    assert second == "honest"


@pytest.mark.parametrize("attack", [attack.answer for attack in ATTACKS])
def test_no_control_token_survives_in_an_answer(attack: str) -> None:
    text = judge_messages(Question("q", attack, attack))[1]["content"]
    for token in CONTROL_TOKENS:
        assert token not in text


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_two_orders_differ_only_by_who_is_where(one: str, two: str) -> None:
    _, first, second = _sides(Question("q", one, two))
    _, third, fourth = _sides(Question("q", two, one))
    assert (first, second) == (fourth, third)


def test_what_is_no_control_token_is_left_alone() -> None:
    for text in ("1 < 2 and 3 <= 4", "[a] [1]", "a <- b", "x<3"):
        assert neutral(text) == text


def test_length_and_random_are_controls() -> None:
    questions = [
        Question("p", "long answer", "short"),
        Question("p", "short", "long answer"),
        Question("p", "x", "y"),
    ]
    assert [o.share for o in LengthJudge()(questions)] == [1.0, 0.0, 0.5]
    coin = RandomJudge()
    both = coin([Question(str(i), "a", "b") for i in range(2000)])
    turned = coin([Question(str(i), "b", "a") for i in range(2000)])
    assert all(x.share == 1 - y.share for x, y in zip(both, turned, strict=True))
    assert sum(x.share for x in both) / 2000 == pytest.approx(0.5, abs=0.04)
    assert coin([Question("p", "same", "same")])[0].share == 0.5


def test_a_known_reward_decides_and_a_missing_number_is_no_tie() -> None:
    scores = {"good": 1.0, "bad": 0.0, "odd": float("nan")}

    class Known:
        name = "known"

        def __call__(self, prompts, completions):
            return [scores[text] for text in completions]

    judge = EvaluatorJudge("known", Known())
    opinions = judge([Question("p", "good", "bad"), Question("p", "bad", "bad"), Question("p", "odd", "bad")])
    assert [o.share for o in opinions] == [1.0, 0.5, None]
    assert opinions[2].error


def test_letters_are_read_from_probabilities_and_text() -> None:
    assert share_of_first({"A": 0.3, " A": 0.1, "B": 0.1, "the": 0.5}) == pytest.approx(0.8)
    assert share_of_first({"the": 1.0}) is None
    assert [parse_letter(t) for t in ("A", " b ", "**B**", "Answer A.", "Apple", "AB", "")] == [
        1,
        0,
        0,
        1,
        None,
        None,
        None,
    ]
