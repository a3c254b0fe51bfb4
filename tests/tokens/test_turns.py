"""Answers of several turns: which tokens are scored, what they are, and what is refused."""

from dataclasses import replace

import pytest

from tests.tokens.variants import (
    CHATML,
    COUNTS_TURNS,
    STRIPS_THINKING,
    assistant,
    chat_tokenizer,
    renderer,
    row,
    sentencepiece_like,
    tokens,
    user,
)
from tether.errors import DataError
from tether.records.rows import Completion, Message
from tether.tokens.collate import collate
from tether.tokens.render import EncodedCompletion, Renderer
from tether.tokens.truncate import truncate
from tether.tokens.turns import ScoreTurns

CHAT = chat_tokenizer(CHATML)
ANSWER = (assistant("yes"), user("and the other?"), assistant("that too"))
MODES: tuple[ScoreTurns, ...] = ("last", "all")


def using(score_turns: ScoreTurns) -> Renderer:
    return renderer(CHAT, "<|im_end|>", score_turns=score_turns)


def scored(completion: EncodedCompletion) -> list[str]:
    """Return the scored stretches as text."""
    assert completion.scored is not None
    stretches: list[list[int]] = []
    before = False
    for token, mark in zip(completion.ids, completion.scored, strict=True):
        if mark and not before:
            stretches.append([])
        if mark:
            stretches[-1].append(token)
        before = mark
    return [tokens(CHAT, stretch) for stretch in stretches]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("last", ["that too<|im_end|>"]), ("all", ["yes<|im_end|>", "that too<|im_end|>"])],
)
def test_assistant_turns_are_scored_and_nothing_else(mode: ScoreTurns, expected: list[str]) -> None:
    group = using(mode).encode(row((user("hi"),), ANSWER))
    chosen, rejected = group.completions
    assert scored(chosen) == expected
    assert chosen.scored_count == sum(chosen.scored or ()) < len(chosen.ids)
    assert rejected.scored is None and rejected.scored_count == len(rejected.ids)
    assert tokens(CHAT, chosen.ids) == (
        "yes<|im_end|>\n<|im_start|>user\nand the other?<|im_end|>\n<|im_start|>assistant\nthat too<|im_end|>"
    )
    assert group.notes == ({"several_turns"} if mode == "last" else set())


@pytest.mark.parametrize("mode", MODES)
def test_context_and_turn_have_the_ids_they_have_at_inference(mode: ScoreTurns) -> None:
    chat = using(mode)
    group = chat.encode(row((user("hi"),), ANSWER))
    asked = chat.prompt_ids((user("hi"), *ANSWER[:2]))
    alone = chat.encode(row((user("hi"), *ANSWER[:2]), ANSWER[2:])).completions[0].ids
    assert group.prompt_ids + group.completions[0].ids == asked + alone


def test_a_tool_result_is_context() -> None:
    answer: tuple[Message, ...] = (
        assistant("calling"),
        {"role": "tool", "content": "42"},
        assistant("It is 42."),
    )
    group = using("all").encode(row((user("hi"),), answer))
    assert scored(group.completions[0]) == ["calling<|im_end|>", "It is 42.<|im_end|>"]


def test_only_rows_of_several_turns_have_other_keys_when_all_are_scored() -> None:
    several, single = row((user("hi"),), ANSWER), row((user("hi"),), ANSWER[:1])
    keys = {
        mode: [c.key for r in (several, single) for c in using(mode).encode(r).completions] for mode in MODES
    }
    assert keys["last"][0] != keys["all"][0]
    assert keys["last"][1:] == keys["all"][1:]


def test_control_strings_in_earlier_turns_stay_text() -> None:
    answer = (assistant("yes"), user("<|im_end|>"), assistant("that"))
    group = using("all").encode(row((user("hi"),), answer))
    assert scored(group.completions[0]) == ["yes<|im_end|>", "that<|im_end|>"]
    assert group.completions[0].ids.count(CHAT.convert_tokens_to_ids("<|im_end|>")) == 3
    assert "special_in_content" in group.notes


def test_a_prior_keeps_the_completion_as_it_is_with_its_prompt() -> None:
    prior = renderer(CHAT, "<|im_end|>", score_turns="all", without_prompt=True)
    example = row((user("hi"),), ANSWER)
    assert prior.encode(example).completions == using("all").encode(example).completions
    assert prior.encode(example).prompt_ids != using("all").encode(example).prompt_ids


def test_a_template_that_rewrites_earlier_turns_is_refused_with_advice() -> None:
    thinking = renderer(chat_tokenizer(STRIPS_THINKING), "<|im_end|>", score_turns="all")
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: chosen: the chat template renders earlier turns diff"
    ):
        thinking.encode(row((user("hi"),), ANSWER))
    counting = renderer(chat_tokenizer(COUNTS_TURNS), "<|im_end|>")
    with pytest.raises(DataError, match="leave only the last turn"):
        counting.encode(row((user("hi"),), ANSWER))


def test_an_answer_must_end_with_the_assistant() -> None:
    with pytest.raises(DataError, match="must end with an assistant message"):
        using("last").encode(row((user("hi"),), ANSWER[:2]))


def test_the_batch_marks_scored_tokens_and_selection_keeps_the_marks() -> None:
    groups = using("all").encode_all([row((user("hi"),), ANSWER), row((user("you"),), ANSWER[:1], index=1)])
    batch = collate(groups)
    counts = [c.scored_count for group in groups for c in group.completions]
    assert batch.scored_lengths.tolist() == counts
    assert (
        batch.scored is not None and batch.scored_ids.tolist() == batch.completion_ids[batch.scored].tolist()
    )
    turned = batch.select([1, 0])
    assert turned.scored_lengths.tolist() == counts[2:] + counts[:2]
    assert collate(groups[1:]).scored is None


def test_truncation_cuts_the_last_turn_and_leaves_out_what_it_does_not_reach() -> None:
    example = row((user("hi"),), (*ANSWER[:2], assistant("that " * 30)), rejected=(assistant("No."),))
    whole = using("last").encode(example)
    limit = whole.longest - 20
    cut = truncate(example, using("last"), max_length=limit, mode="keep_start")
    assert cut.row is not None and cut.encoded is not None and cut.encoded.longest == limit
    content = cut.row.completions[0].content
    assert content[:2] == ANSWER[:2] and content[2]["content"] == ("that " * 30)[: len(content[2]["content"])]  # type: ignore[index]
    assert cut.encoded == using("last").encode(cut.row)
    short = len(whole.prompt_ids) + 8
    assert truncate(example, using("last"), max_length=short, mode="keep_start").cut == {"dropped_too_long"}
    kept = truncate(example, using("all"), max_length=short, mode="keep_start")
    assert kept.row is not None and kept.encoded is not None
    assert kept.row.completions[0].content == (replace_text(ANSWER[0], kept.row.completions[0]),)
    assert kept.encoded.longest <= short


def replace_text(message: Message, completion: Completion) -> Message:
    (only,) = completion.content
    assert isinstance(only, dict) and str(message["content"]).startswith(str(only["content"]))
    return {**message, "content": only["content"]}


def test_a_tokenizer_that_puts_spaces_before_texts_gives_the_same_turns() -> None:
    tokenizer = sentencepiece_like()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    using = renderer(tokenizer, score_turns="all")
    example = row((user("hi"),), ANSWER)
    group = using.encode(example)
    assert group == using.encode(replace(example))
    assert group.completions[0].scored_count == sum(
        len(using.encode(row((user("hi"), *ANSWER[:k]), ANSWER[k : k + 1])).completions[0].ids)
        for k in (0, 2)
    )
