"""Mismatched completions: another prompt's answer, fixed by row id, cut or left out and counted."""

from dataclasses import replace

import pytest

from tests.tiny import tiny_tokenizer
from tether.errors import DataError
from tether.records.rows import Completion, Content, Origin, Preference
from tether.tokens.mismatch import Mismatched, add_mismatched
from tether.tokens.render import Renderer

TOKENIZER = tiny_tokenizer()
RENDERER = Renderer(TOKENIZER, frozenset([TOKENIZER.eos_token_id]))


def row(number: int, prompt: Content, answer: Content, role: str = "desirable") -> Preference:
    return Preference(Origin("f.jsonl", number, number + 1), prompt, (Completion(role, answer),))


def rows(count: int = 12, prompts: int = 3) -> list[Preference]:
    return [row(i, f"Question {i % prompts}?", f" answer {i}") for i in range(count)]


def add(given: list[Preference], limit: int | None = None) -> Mismatched:
    return add_mismatched(given, RENDERER.encode_all(given), RENDERER, limit)


def test_every_row_gets_the_answer_of_another_prompt() -> None:
    made = add(rows())
    source = {r.completions[0].content: r.prompt for r in rows()}
    for row in made.rows:
        own, strange = row.completions
        assert strange.role == "kl" and source[strange.content] != row.prompt == source[own.content]


def test_the_ids_are_those_of_that_answer_behind_the_rows_own_prompt() -> None:
    made = add(rows())
    for row, group in zip(made.rows, made.groups, strict=True):
        alone = RENDERER.encode(replace(row, completions=(row.completions[1],)))
        assert group.prompt_ids == alone.prompt_ids
        assert group.completions[1] == alone.completions[0]


def test_the_order_of_rows_changes_no_partner() -> None:
    def partners(given: list[Preference]) -> dict[str, Content]:
        return {row.row_id: row.completions[1].content for row in add(given).rows}

    assert partners(rows()) == partners(rows()[::-1])


def test_a_long_answer_is_cut_behind_a_short_room_and_counted() -> None:
    given = [row(0, "Question one?", " yes"), row(1, "And what of this other one?", " no" * 30)]
    room = len(RENDERER.encode(given[0]).prompt_ids) + 10
    made = add_mismatched(given, RENDERER.encode_all(given), RENDERER, room)
    assert made.cut == ["f.jsonl:1"]
    short = made.groups[0]
    assert short.completions[1].cut and short.longest == room
    assert not short.completions[0].cut


def test_rows_no_answer_fits_are_left_out_and_counted() -> None:
    # An answer that is only a tool call cannot be cut.
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f" * 60}}]}
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    renderer = Renderer(tokenizer, frozenset([tokenizer.eos_token_id]))
    given = [
        row(0, ({"role": "user", "content": "One?"},), ({"role": "assistant", "content": "a"},)),
        row(1, ({"role": "user", "content": "Two?"},), (call,)),
    ]
    groups = renderer.encode_all(given)
    made = add_mismatched(given, groups, renderer, groups[0].longest)
    assert made.without == ["f.jsonl:1"]
    assert [row.row_id for row in made.rows] == ["f.jsonl:2"]


def test_text_and_chats_are_not_mixed() -> None:
    chats = [
        row(i, ({"role": "user", "content": f"Q{i}"},), ({"role": "assistant", "content": f"A{i}"},))
        for i in range(20, 24)
    ]
    for made in add([*rows(), *chats]).rows:
        assert isinstance(made.prompt, str) == isinstance(made.completions[1].content, str)


def test_one_prompt_has_no_mismatched_answer() -> None:
    with pytest.raises(DataError, match="at least two prompts"):
        add(rows(prompts=1))
