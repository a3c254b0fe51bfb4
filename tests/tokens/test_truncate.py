"""Truncation: nothing over the limit, nothing cut in silence, the same text for every model."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_tokenizer
from tests.tokens.variants import CHATML, assistant, chat_tokenizer, renderer, row, tokens, user
from tether.errors import UsageError
from tether.records.rows import Completion, Content, Preference
from tether.tokens.render import Renderer
from tether.tokens.truncate import CUTS, Mode, Truncated, truncate, truncate_each

TOKENIZER = tiny_tokenizer(chat=False)
PLAIN = renderer(TOKENIZER)
CHAT_TOKENIZER = chat_tokenizer(CHATML)
CHAT = renderer(CHAT_TOKENIZER, "<|im_end|>")
LONG = " Mix flour, water, salt and yeast, then wait and bake it hot."


def cut(
    example: Preference, limit: int | None, mode: Mode = "keep_start", using: Renderer = PLAIN
) -> Truncated:
    return truncate(example, using, max_length=limit, mode=mode)


def contents(result: Truncated) -> list[Content]:
    assert result.row is not None
    return [completion.content for completion in result.row.completions]


def test_rows_within_the_limit_are_returned_as_they_are():
    example = row("Human: hi", LONG)
    encoded = PLAIN.encode(example)
    for limit in (None, encoded.longest):
        assert cut(example, limit) == Truncated(example, encoded, frozenset())


def test_keep_start_cuts_the_completion_and_leaves_no_end_token():
    example = row("Human: hi", LONG, " No.")
    full = PLAIN.encode(example)
    result = cut(example, full.longest - 5)
    assert result.row is not None and result.encoded is not None
    chosen, rejected = result.row.completions
    assert chosen.cut and not rejected.cut
    assert isinstance(chosen.content, str) and LONG.startswith(chosen.content)
    assert result.encoded.completions[0].ids == full.completions[0].ids[:-5]
    assert result.encoded.completions[1] == full.completions[1]
    assert result.cut == {"completion_cut"}


def test_losing_only_the_end_token_is_a_cut_with_a_key_of_its_own():
    example = row("Human: hi", LONG)
    full = PLAIN.encode(example)
    result = cut(example, full.longest - 1)
    assert result.encoded is not None
    assert contents(result)[0] == LONG
    assert result.encoded.completions[0].ids == full.completions[0].ids[:-1]
    assert result.encoded.completions[0].key != full.completions[0].key


def test_the_cut_row_gives_another_tokenizer_the_same_text_without_an_end():
    result = cut(row("Human: hi", LONG), 20)
    other = renderer(tiny_tokenizer(vocab_size=300, chat=False))
    assert result.row is not None and result.encoded is not None
    again = other.encode(result.row)
    assert again.completions[0].ids[-1] not in other.stop_ids
    assert tokens(other.tokenizer, again.completions[0].ids) == contents(result)[0]
    assert again.completions[0].key == result.encoded.completions[0].key


def test_a_cut_never_splits_a_character():
    text = "日本語のパン" * 3
    lengths = set()
    for limit in range(8, 40):
        result = cut(row("Human: hi", text, "no"), limit)
        if result.row is not None:
            part = contents(result)[0]
            assert isinstance(part, str) and text.startswith(part)
            assert result.encoded is not None and result.encoded.longest <= limit
            lengths.add(len(part))
    assert len(lengths) > 5


def test_chats_are_cut_inside_the_answer_not_in_the_template():
    example = row((user("hi"),), (assistant(LONG),), (assistant("No."),))
    full = CHAT.encode(example)
    result = cut(example, full.longest - 4, using=CHAT)
    assert result.row is not None and result.encoded is not None
    answer = contents(result)[0]
    assert isinstance(answer, tuple) and LONG.startswith(answer[0]["content"])
    assert tokens(CHAT_TOKENIZER, result.encoded.completions[0].ids) == answer[0]["content"]
    assert result.encoded.longest <= full.longest - 4


def test_answers_that_are_no_text_cannot_be_cut_and_are_counted():
    parts = ({"role": "assistant", "content": [{"type": "text", "text": LONG}]},)
    example = row((user("hi"),), parts, (assistant("n"),))
    result = cut(example, CHAT.encode(example).longest - 1, using=CHAT)
    assert result == Truncated(None, None, frozenset({"dropped_too_long"}))


@pytest.mark.parametrize("limit", [2, 5])
def test_a_prompt_without_room_drops_the_row(limit: int):
    assert cut(row("Human: how do I bake bread?", " x"), limit) == Truncated(
        None, None, frozenset({"prompt_too_long"})
    )


def test_drop_leaves_out_every_row_over_the_limit():
    example = row("Human: hi", LONG)
    longest = PLAIN.encode(example).longest
    assert cut(example, longest, "drop").row is example
    assert cut(example, longest - 1, "drop") == Truncated(None, None, frozenset({"dropped_too_long"}))


def test_pairs_equal_after_the_cut_are_left_out_but_equal_pairs_are_not_blamed_on_it():
    different = row("Human: hi", LONG + " Yes.", LONG + " No!")
    assert cut(different, 20) == Truncated(None, None, frozenset({"equal_after_cut"}))
    same = row("Human: hi", LONG, LONG)
    assert cut(same, 20).cut == {"completion_cut"}


def test_keep_end_cuts_a_text_prompt_from_its_start_and_keeps_the_answers():
    example = row("Human: " + LONG * 2 + "\n\nAssistant:", " Of course!", " No.")
    full = PLAIN.encode(example)
    result = cut(example, full.longest - 7, "keep_end")
    assert result.row is not None and result.encoded is not None
    assert isinstance(result.row.prompt, str) and example.prompt.endswith(result.row.prompt)
    assert [c.ids for c in result.encoded.completions] == [c.ids for c in full.completions]
    assert result.encoded.longest <= full.longest - 7
    assert result.cut == {"prompt_cut"}


def test_keep_end_drops_the_oldest_turns_and_keeps_the_system_message():
    prompt = ({"role": "system", "content": "Be kind."}, user("a" * 20), assistant("b" * 20), user("c"))
    example = row(prompt, (assistant("yes"),), (assistant("no"),))
    result = cut(example, CHAT.encode(example).longest - 1, "keep_end", CHAT)
    assert result.row is not None
    assert result.row.prompt == (prompt[0], prompt[3])
    assert result.cut == {"prompt_cut"}


def test_keep_end_cuts_the_answer_when_the_last_turn_alone_is_too_long():
    prompt = (user("old"), assistant("old"), user("new question"))
    example = row(prompt, (assistant(LONG),), (assistant("no"),))
    last = CHAT.encode(replace(example, prompt=prompt[2:]))
    result = cut(example, len(last.prompt_ids) + 4, "keep_end", CHAT)
    assert result.row is not None and result.encoded is not None
    assert result.row.prompt == prompt[2:]
    assert len(result.encoded.completions[0].ids) <= 4
    assert result.cut == {"prompt_cut", "completion_cut"}


def test_a_huge_completion_is_cut_without_reading_it_all_twice():
    result = cut(row("Human: hi", "bread " * 20_000, " no"), 64)
    assert result.encoded is not None and result.encoded.longest == 64


@pytest.mark.parametrize(("limit", "mode"), [(1, "keep_start"), (0, "drop"), (8, "keep_middle")])
def test_senseless_limits_and_modes_are_refused(limit: int, mode: Any):
    with pytest.raises(UsageError):
        cut(row("a", "b"), limit, mode)


TEXT = st.text(alphabet="ab e日é\n<s>/|_", max_size=40)


@settings(max_examples=120)
@given(
    st.booleans(),
    st.lists(TEXT, min_size=1, max_size=4),
    TEXT,
    TEXT,
    st.integers(2, 60),
    st.sampled_from(["keep_start", "keep_end", "drop"]),
)
def test_nothing_is_ever_longer_than_the_limit(
    chat: bool, turns: list[str], chosen: str, rejected: str, limit: int, mode: Mode
):
    said = tuple(user(text) if index % 2 == 0 else assistant(text) for index, text in enumerate(turns))
    example = row(said, chosen, rejected) if chat else row("".join(turns), chosen, rejected)
    using = CHAT if chat else PLAIN
    before = using.encode(example)
    result = cut(example, limit, mode, using)
    assert result.cut <= CUTS.keys()
    assert (result.row is None) == (result.encoded is None)
    if result.row is None:
        assert result.cut
        return
    assert result.encoded is not None
    assert result.encoded.longest <= limit
    assert result.encoded == using.encode(result.row)
    assert bool(result.cut) == (before.longest > limit)
    for made, source in zip(result.encoded.completions, result.row.completions, strict=True):
        assert made.cut == source.cut
        assert (made.ids[-1] in using.stop_ids) != made.cut


def test_truncating_all_equals_truncating_each():
    refused: list[str] = []
    rows = [row("Human: hi", LONG[: 3 * index] or " x", " n", index=index) for index in range(25)]
    rows[7] = replace(rows[7], prompt="half a pair \ud800")
    together = list(
        truncate_each(rows, PLAIN, lambda r, _: refused.append(r.row_id), max_length=18, mode="keep_start")
    )
    kept = [example for example in rows if example is not rows[7]]
    assert together == [(example, cut(example, 18)) for example in kept]
    assert refused == [rows[7].row_id]


def test_single_completions_are_cut_too():
    example = replace(row("Human: hi", LONG), completions=(Completion("completion", LONG),))
    result = cut(example, 12)
    assert result.encoded is not None and result.encoded.longest == 12
