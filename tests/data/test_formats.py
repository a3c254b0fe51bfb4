"""Each row format is recognised by its columns and read into the same rows; complaints name the field."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data.checks import load
from tether.data.fields import EXTRA_COLUMNS, RowProblem
from tether.data.formats import FORMATS, Format, detect, parse, reads_as, unused_columns
from tether.data.prompts import (
    ASSISTANT,
    common_prefix,
    explicit,
    prompt_text,
    split_dialogue,
    split_messages,
    split_text,
)
from tether.data.raw import RawRow
from tether.data.report import KINDS
from tether.errors import DataError
from tether.records.rows import Completion, Origin, Preference, text_key

USER = {"role": "user", "content": "Hi?"}
SYSTEM = {"role": "system", "content": "Be kind."}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "No."}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def row(value: dict[str, Any]) -> Preference:
    return parse(detect([value]), RawRow(Origin("f.jsonl", 0, 1), value))


def shown(value: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Format, prompt, role -> content."""
    read = row(value)
    return detect([value]).name, read.prompt, {c.role: c.content for c in read.completions}


CHAT = {"chosen": (GOOD,), "rejected": (BAD,)}
DIALOGUE = "\n\nHuman: Hi?\n\nAssistant:"

CASES: list[tuple[dict[str, Any], str, Any, dict[str, Any]]] = [
    (
        {"prompt": "Q", "chosen": " a", "rejected": " b"},
        "preference",
        "Q",
        {"chosen": " a", "rejected": " b"},
    ),
    ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, "preference", (USER,), CHAT),
    ({"prompt": "Hi?", "chosen": [GOOD], "rejected": [BAD]}, "preference", (USER,), CHAT),
    ({"prompt": [USER], "chosen": "Hello!", "rejected": "No."}, "preference", (USER,), CHAT),
    ({"prompt": [USER], "chosen": GOOD, "rejected": BAD}, "preference", (USER,), CHAT),
    ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "preference", (USER,), CHAT),
    (
        {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        "preference-implicit",
        (SYSTEM, USER),
        CHAT,
    ),
    (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "preference-implicit",
        "The sky is",
        {"chosen": " blue.", "rejected": " green."},
    ),
    (
        {"chosen": DIALOGUE + " Hello!", "rejected": DIALOGUE + " Hell no."},
        "hh-rlhf",
        DIALOGUE,
        {"chosen": " Hello!", "rejected": " Hell no."},
    ),
    (
        {
            "prompt": "Hi?",
            "prompt_id": "x",
            "chosen": [USER, GOOD],
            "rejected": [USER, BAD],
            "messages": [USER, GOOD],
            "score_chosen": 8.0,
            "score_rejected": 3.5,
        },
        "ultrafeedback",
        (USER,),
        CHAT,
    ),
    (
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "chosen_logprob": -3.0, "rejected_logprob": -4.0},
        "refdpo",
        (USER,),
        CHAT,
    ),
    (
        {
            "prompt": [USER],
            "chosen": [GOOD],
            "rejected": [BAD],
            "ref_chosen_logps": -3,
            "ref_rejected_logps": -4,
        },
        "refdpo",
        (USER,),
        CHAT,
    ),
    ({"messages": [SYSTEM, USER, GOOD]}, "messages", (SYSTEM, USER), {"completion": (GOOD,)}),
    ({"messages": [USER, BAD, USER, GOOD]}, "messages", (USER, BAD, USER), {"completion": (GOOD,)}),
    ({"prompt": "Q", "completion": " a"}, "prompt-completion", "Q", {"completion": " a"}),
    ({"prompt": [USER], "completion": [GOOD]}, "prompt-completion", (USER,), {"completion": (GOOD,)}),
    ({"prompt": "Hi?", "completion": [USER, GOOD]}, "prompt-completion", (USER,), {"completion": (GOOD,)}),
    ({"prompt": "Q", "completion": " a", "label": True}, "unpaired", "Q", {"desirable": " a"}),
    ({"prompt": "Q", "completion": " a", "label": "False"}, "unpaired", "Q", {"undesirable": " a"}),
    ({"prompt": "Q", "completion": " a", "label": "poem"}, "prompt-completion", "Q", {"completion": " a"}),
    (
        {
            "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        "openai-preference",
        (USER,),
        CHAT,
    ),
    (
        {
            "context": [USER],
            "completions": [{"rank": 1, "completion": [BAD]}, {"rank": 0, "completion": [GOOD]}],
            "task_name": "t",
        },
        "nemo-rl",
        (USER,),
        CHAT,
    ),
    (
        {
            "context": [USER],
            "completions": [{"rank": r, "completion": [m]} for r, m in enumerate((GOOD, BAD, USER))],
        },
        "nemo-rl",
        (USER,),
        {"rank-0": (GOOD,), "rank-1": (BAD,), "rank-2": (USER,)},
    ),
    (
        {
            "prompt": DIALOGUE,
            "answers": [{"answer": "b", "rank": 2}, {"answer": "a", "rank": 1}, {"answer": "c", "rank": 3}],
        },
        "nectar",
        DIALOGUE,
        {"rank-0": "a", "rank-1": "b", "rank-2": "c"},
    ),
    (
        {"prompt": "Q", "completions": ["x", "y", "z"], "scores": [0.1, 0.9, 0.5]},
        "scored-list",
        "Q",
        {"rank-0": "y", "rank-1": "z", "rank-2": "x"},
    ),
    (
        {"instruction": "Hi?", "generations": ["No.", "Hello!"], "ratings": [1, 5]},
        "distilabel",
        (USER,),
        CHAT,
    ),
    (
        {"instruction": "Hi?", "chosen_response": "Hello!", "rejected_response": "No.", "system": "Be kind."},
        "argilla",
        (SYSTEM, USER),
        CHAT,
    ),
    (
        {
            "conversations": [human("Hi?")],
            "chosen": gpt("Hello!"),
            "rejected": gpt("No."),
            "system": "Be kind.",
        },
        "sharegpt-ranking",
        (SYSTEM, USER),
        CHAT,
    ),
    (
        {"instruction": "Hi?", "input": "", "chosen": "Hello!", "rejected": "No."},
        "alpaca-ranking",
        (USER,),
        CHAT,
    ),
    (
        {
            "instruction": "Say:",
            "input": "Hi",
            "history": [["Hi?", "Hello!"]],
            "chosen": "Hello!",
            "rejected": "No.",
        },
        "alpaca-ranking",
        (USER, GOOD, {"role": "user", "content": "Say:\nHi"}),
        CHAT,
    ),
    ({"messages": [USER], "chosen": GOOD, "rejected": BAD}, "messages-ranking", (USER,), CHAT),
    (
        {"system": "Be kind.", "question": "Hi?", "chosen": "Hello!", "rejected": "No."},
        "question-ranking",
        (SYSTEM, USER),
        CHAT,
    ),
    ({"input": "Hi?", "chosen": "Hello!", "rejected": "No."}, "input-ranking", (USER,), CHAT),
    (
        {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "model_b"},
        "lmarena",
        (USER,),
        CHAT,
    ),
    (
        {
            "prompt": '["Hi?"]',
            "response_a": '["Hello!"]',
            "response_b": '["No."]',
            "winner_model_a": "1",
            "winner_model_b": "0",
            "winner_tie": "0",
        },
        "lmarena-table",
        (USER,),
        CHAT,
    ),
    (
        {"system": "Be kind.", "question": "Hi?", "completion": "Hello!", "label": True},
        "question-unpaired",
        (SYSTEM, USER),
        {"desirable": (GOOD,)},
    ),
    (
        {"instruction": "Hi?", "completion": "No.", "label": "False"},
        "instruction-unpaired",
        (USER,),
        {"undesirable": (BAD,)},
    ),
    ({"completion": [USER, BAD], "label": 0}, "chat-unpaired", (USER,), {"undesirable": (BAD,)}),
    (
        {"messages": [SYSTEM, USER, GOOD], "label": True},
        "messages-unpaired",
        (SYSTEM, USER),
        {"desirable": (GOOD,)},
    ),
    ({"conversations": [human("Hi?"), gpt("Hello!")]}, "sharegpt", (USER,), {"completion": (GOOD,)}),
    (
        {"conversations": [human("Hi?"), gpt("Hello!")], "kto_tag": False},
        "sharegpt",
        (USER,),
        {"undesirable": (GOOD,)},
    ),
    ({"instruction": "Hi?", "output": "Hello!"}, "alpaca", (USER,), {"completion": (GOOD,)}),
    ({"instruction": "Hi?", "output": "Hello!", "kto_tag": True}, "alpaca", (USER,), {"desirable": (GOOD,)}),
]


@pytest.mark.parametrize(
    ("value", "name", "prompt", "contents"), CASES, ids=[f"{i}-{c[1]}" for i, c in enumerate(CASES)]
)
def test_a_row_is_recognised_and_read(value: dict, name: str, prompt: Any, contents: dict) -> None:
    assert shown(value) == (name, prompt, contents)


def test_every_format_of_the_table_has_a_case() -> None:
    assert {case[1] for case in CASES} == {format_.name for format_ in FORMATS}


def test_scores_and_reference_logprobs_come_along() -> None:
    value = CASES[9][0]
    assert [c.score for c in row(value).completions] == [8.0, 3.5]
    value = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "chosen_logprob": -1.5,
        "rejected_logprob": "-2.5",
    }
    assert [c.reference_logprob for c in row(value).completions] == [-1.5, -2.5]
    value = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen-rating": 4, "rejected-rating": 2}
    assert [c.score for c in row(value).completions] == [4, 2]


def test_columns_that_every_format_may_carry() -> None:
    value = {
        "prompt": [USER],
        "chosen": [GOOD],
        "rejected": [BAD],
        "tools": json.dumps([TOOL]),
        "chat_template_kwargs": {"enable_thinking": False},
        "weight": 0.5,
        "margin": "0.25",
        "probability": 0.75,
    }
    read = row(value)
    assert read.tools == (TOOL,)
    assert read.template_arguments == {"enable_thinking": False}
    assert (read.weight, read.margin, read.probability) == (0.5, 0.25, 0.75)
    openai = {
        "input": {"messages": [USER], "tools": [TOOL]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    }
    assert row(openai).tools == (TOOL,)
    plain = row({"prompt": "p", "chosen": "a", "rejected": "b", "weight": None, "margin": ""})
    assert (plain.weight, plain.margin, plain.probability) == (1.0, 0.0, 1.0)


def test_a_tie_of_the_arena_is_equal_scores() -> None:
    value = {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "tie (bothbad)"}
    assert [c.score for c in row(value).completions] == [0.5, 0.5]


def test_tool_calls_and_text_parts_are_kept() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [TOOL]}
    value = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "?"}]},
            call,
        ]
    }
    assert shown(value)[1:] == ((USER,), {"completion": (call,)})
    called = {"from": "function_call", "value": '{"name": "clock", "arguments": {}}'}
    (message,) = row({"conversations": [human("Hi?"), called]}).completions[0].content
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "clock", "arguments": {}}}],
    }


def test_null_members_of_a_message_do_not_change_it() -> None:
    assert shown({"messages": [{**USER, "name": None}, {**GOOD, "tool_calls": None}]})[1] == (USER,)


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}

COMPLAINTS: list[tuple[dict[str, Any], str, str]] = [
    ({**PAIR, "rejected": None}, "missing_field", "rejected is null"),
    ({"prompt": "p", "chosen": "a"}, "missing_field", "rejected is missing"),
    ({**PAIR, "chosen": 5}, "wrong_type", "chosen is a number (5), must be text or a list of messages"),
    ({**PAIR, "chosen": True}, "wrong_type", "chosen is true"),
    ({**PAIR, "chosen": [GOOD]}, "wrong_type", "chosen is messages and rejected is text"),
    ({**PAIR, "prompt": [USER], "chosen": [5]}, "wrong_type", "chosen[0] is a number (5), must be a message"),
    ({**PAIR, "chosen": [{"role": "assistant"}]}, "missing_field", "chosen[0].content is missing or null"),
    ({**PAIR, "chosen": [{"content": "x"}]}, "wrong_type", "chosen[0].role is null"),
    ({**PAIR, "chosen": [{**GOOD, "content": 5}]}, "wrong_type", "chosen[0].content is a number"),
    (
        {**PAIR, "chosen": [{**GOOD, "content": [{"type": "image_url"}]}]},
        "wrong_type",
        "chosen[0].content[0] is a part of type 'image_url'; only text",
    ),
    ({**PAIR, "chosen": [{"from": "alien", "value": "x"}]}, "wrong_type", "chosen[0].from is 'alien'"),
    (
        {**PAIR, "chosen": [{**GOOD, "x": float("nan")}]},
        "wrong_type",
        "chosen[0] holds a value that JSON cannot say",
    ),
    ({**PAIR, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "different_prompts", "prompt is not the one"),
    ({**PAIR, "chosen": [USER, GOOD], "rejected": [BAD]}, "different_prompts", "repeated in only one"),
    ({**PAIR, "weight": -1}, "wrong_type", "weight is -1, must not be negative"),
    ({**PAIR, "weight": float("nan")}, "wrong_type", "weight is nan, must be finite"),
    ({**PAIR, "margin": "wide"}, "wrong_type", "margin is 'wide', must be a number"),
    ({**PAIR, "probability": 1.5}, "wrong_type", "probability is 1.5, must lie in [0, 1]"),
    ({**PAIR, "tools": "not json"}, "wrong_type", "tools is text that is not JSON"),
    ({**PAIR, "tools": [5]}, "wrong_type", "tools is a list of 1, must be a list of tool"),
    ({**PAIR, "chat_template_kwargs": []}, "wrong_type", ""),
    ({**PAIR, "chosen_logprob": -1.0}, "missing_field", "rejected_logprob is missing"),
    ({"messages": "text"}, "wrong_type", "messages is text"),
    ({"messages": [GOOD, USER]}, "no_final_assistant", "messages end with a user message"),
    (
        {"chosen": [USER, GOOD], "rejected": [SYSTEM, BAD]},
        "different_prompts",
        "differ before an answer (message 0)",
    ),
    ({"chosen": [USER], "rejected": [USER]}, "no_final_assistant", "share no assistant message"),
    (
        {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "me"},
        "wrong_type",
        "winner is 'me', must be model_a",
    ),
    (
        {"prompt": "p", "completions": ["a"], "scores": [1]},
        "missing_field",
        "holds 1, a ranking needs at least 2",
    ),
    (
        {"prompt": "p", "completions": ["a", "b"], "scores": [1]},
        "wrong_type",
        "scores must be a list as long",
    ),
    (
        {"context": [USER], "completions": [{"rank": None, "completion": [GOOD]}]},
        "missing_field",
        "completions[0].rank",
    ),
    (
        {"instruction": "x", "history": ["y"], "chosen": "a", "rejected": "b"},
        "wrong_type",
        "history[0] is text",
    ),
]


@pytest.mark.parametrize(
    ("value", "kind", "text"), COMPLAINTS, ids=[c[2][:40] or str(i) for i, c in enumerate(COMPLAINTS)]
)
def test_a_bad_field_is_named_with_what_it_holds(value: dict, kind: str, text: str) -> None:
    format_ = next((f for f in FORMATS if f.matches(value)), detect([PAIR]))
    if not text:
        assert parse(format_, RawRow(Origin("f", 0), value)).template_arguments == {}
        return
    with pytest.raises(RowProblem) as caught:
        parse(format_, RawRow(Origin("f", 0), value))
    assert (caught.value.kind, text in str(caught.value)) == (kind, True), str(caught.value)


def test_unknown_columns_are_answered_with_what_was_seen_and_what_is_known() -> None:
    with pytest.raises(DataError) as caught:
        detect([{"question": "a", "answer\x1b[2J": "b"}])
    message = str(caught.value)
    assert "question, 'answer\\x1b[2J'" in message and "\x1b" not in message
    assert "preference (prompt, chosen, rejected)" in message and "\n" not in message


def test_a_pair_without_its_prompt_is_not_reread_as_one_with_an_implicit_prompt() -> None:
    format_ = detect([PAIR, PAIR, {"chosen": "a", "rejected": "b", "prompt": None}])
    assert format_.name == "preference"
    assert reads_as(format_, {"chosen": "a", "rejected": "b", "prompt": None}) is format_
    assert reads_as(format_, {"messages": [USER, GOOD]}).name == "messages"
    kto = detect([{"prompt": "p", "completion": "c", "label": True}])
    assert reads_as(kto, {"prompt": "p", "completion": "c"}) is kto


def test_the_format_is_that_of_most_rows() -> None:
    assert detect([{"messages": [USER, GOOD]}, PAIR, PAIR]).name == "preference"


def test_columns_that_are_not_used_are_known() -> None:
    value = {**PAIR, "id": 5, "score_chosen": 1, "score_rejected": 0, "weight": None}
    assert unused_columns(detect([value]), [value]) == ["id"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from([USER, GOOD, TOOL]),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "rank", "answer", "completion", "messages"]), part
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda f: f.name)
@settings(max_examples=20)
@given(data=st.data())
def test_whatever_a_row_holds_it_is_read_or_complained_about(format_: Format, data: st.DataObject) -> None:
    others = (*EXTRA_COLUMNS, "system", "history", "scores", "kto_tag", "label")
    needed = dict.fromkeys(format_.columns, ANYTHING)
    optional = {name: ANYTHING for name in others if name not in needed}
    value = data.draw(st.fixed_dictionaries(needed, optional=optional))
    try:
        read = parse(format_, RawRow(Origin("f", 0), value))
    except RowProblem as problem:
        assert problem.kind in KINDS and "\n" not in str(problem)
    else:
        assert all(
            text_key(read.prompt, c.content, read.tools, read.template_arguments) for c in read.completions
        )
    load([value, PAIR])


# --- where the prompt ends ---

TEXT = st.text(st.sampled_from("ab \n,"), max_size=12)


@settings(max_examples=300)
@given(start=TEXT, first=TEXT, second=TEXT)
def test_an_implicit_text_prompt_loses_nothing_and_leaves_both_answers_something(
    start: str, first: str, second: str
) -> None:
    chosen, rejected = start + first, start + second
    prompt, a, b = split_text(chosen, rejected)
    assert (f"{prompt}{a}", f"{prompt}{b}") == (chosen, rejected)
    assert not chosen.strip() or str(a).strip()
    assert not rejected.strip() or str(b).strip()
    assert prompt == "" or str(prompt).endswith("\n") or (str(a)[0] == " " and str(b)[0] == " ")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The cat", "The car", "The"),
        ("Q: a\nYes", "Q: a\nNo", "Q: a\n"),
        ("Q: a\nYes it is", "Q: a\nYes it was", "Q: a\nYes it"),
        ("Hi there", "Hi there friend", "Hi"),
        ("abc", "abd", ""),
        ("same text", "same text", "same"),
        ("", "x", ""),
    ],
)
def test_an_implicit_text_prompt_ends_at_a_word_or_a_line(chosen: str, rejected: str, prompt: str) -> None:
    assert split_text(chosen, rejected)[0] == prompt


@settings(max_examples=200)
@given(start=TEXT, first=TEXT, second=TEXT)
def test_the_common_prefix_is_the_longest(start: str, first: str, second: str) -> None:
    a, b = start + first, start + second
    n = common_prefix(a, b)
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])


def test_a_dialogue_splits_at_the_last_shared_assistant_tag() -> None:
    start = f"{DIALOGUE} Hello!\n\nHuman: And?{ASSISTANT}"
    assert split_dialogue(start + " Yes", start + "") == (start, " Yes", "")
    with pytest.raises(RowProblem, match="differ before the assistant's turn"):
        split_dialogue(f"{DIALOGUE} x\n\nHuman: a{ASSISTANT} b", f"{DIALOGUE} x\n\nHuman: c{ASSISTANT} b")
    with pytest.raises(RowProblem, match="differ before"):
        split_dialogue(f"\n\nHuman: a{ASSISTANT} b", f"\n\nHuman: c{ASSISTANT} b")


def test_a_text_without_turns_in_a_file_of_dialogues_is_not_split_by_guess() -> None:
    dialogues = detect([{"chosen": DIALOGUE + " a", "rejected": DIALOGUE + " b"}])
    with pytest.raises(RowProblem, match="rejected has no Human: and Assistant: turns"):
        parse(dialogues, RawRow(Origin("f", 0), {"chosen": DIALOGUE + " a", "rejected": "b"}))


def test_chats_split_at_the_turn_that_differs() -> None:
    assert split_messages((USER, GOOD), (USER, GOOD)) == ((USER,), (GOOD,), (GOOD,))
    longer = (USER, GOOD, USER, BAD)
    assert split_messages((USER, GOOD), longer) == ((USER,), (GOOD,), longer[1:])
    with pytest.raises(RowProblem, match=r"message 2"):
        split_messages((USER, GOOD, USER, BAD), (USER, GOOD, SYSTEM, BAD))


def test_a_repeated_prompt_is_taken_out_once() -> None:
    assert explicit((USER,), (USER, GOOD), (USER, BAD)) == ((USER,), (GOOD,), (BAD,))
    assert explicit("Hi?", (SYSTEM, USER, GOOD), (SYSTEM, USER, BAD)) == ((SYSTEM, USER), (GOOD,), (BAD,))


def test_the_same_question_is_the_same_prompt_as_text_and_as_message() -> None:
    assert prompt_text("Hi? ") == prompt_text((USER,)) == "Hi?"


def test_a_5_mb_implicit_pair_is_split_quickly() -> None:
    text = "x" * 2_500_000 + " " + "y" * 2_500_000
    assert split_text(text + "a", text + "b")[0] == "x" * 2_500_000


def test_completions_are_records_of_the_row() -> None:
    assert row(PAIR).completions == (Completion("chosen", "a"), Completion("rejected", "b"))
    assert row(PAIR).row_id == "f.jsonl:1"


def test_a_history_that_is_no_list_is_complained_about() -> None:
    row = {"instruction": "", "chosen_response": "a", "rejected_response": "b", "history": 1.0}
    format_ = next(f for f in FORMATS if f.name == "argilla")
    with pytest.raises(RowProblem, match="history"):
        parse(format_, RawRow(Origin("f", 0), row))
