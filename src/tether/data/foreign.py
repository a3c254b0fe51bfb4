"""Readers of the formats other trainers and labelling tools write: columns -> `Preference`."""

from collections.abc import Sequence
from typing import Any

from tether.data.fields import (
    Columns,
    RowProblem,
    as_content,
    as_label,
    as_messages,
    as_number,
    as_text,
    as_tools,
    build,
    decoded,
)
from tether.data.prompts import as_answer, as_prompt, explicit, single, split_messages
from tether.data.raw import type_name
from tether.data.readers import pair, ranked, split_last, unpaired
from tether.records.rows import Completion, Content, Message, Origin, Preference


def read_openai(origin: Origin, columns: Columns) -> Preference:
    """Read OpenAI preference rows: `input {messages, tools}`, `preferred_output`, `non_preferred_output`."""
    given = columns.need("input")
    if not isinstance(given, dict):
        raise RowProblem("input", f"is {type_name(given)}, must be an object with messages")
    contents = explicit(
        as_messages(given.get("messages"), "input.messages"),
        as_messages(columns.need("preferred_output"), "preferred_output"),
        as_messages(columns.need("non_preferred_output"), "non_preferred_output"),
    )
    return pair(origin, columns, contents, as_tools(given.get("tools"), "input.tools"))


def read_nemo(origin: Origin, columns: Columns) -> Preference:
    """NeMo-RL: `context`, `completions: [{rank, completion}]`, rank 0 best; two make a pair."""
    columns.get("task_name")
    context = columns.content("context")
    parts = _objects(columns.need("completions"), "completions")
    answers = [
        (
            as_content(part.get("completion"), f"completions[{i}].completion"),
            -_rank(part, f"completions[{i}]"),
        )
        for i, part in enumerate(parts)
    ]
    return _list_or_pair(origin, columns, as_prompt(context), answers)


def read_nectar(origin: Origin, columns: Columns) -> Preference:
    """Nectar: `prompt`, `answers: [{answer, rank}]`, rank 1 best."""
    parts = _objects(columns.need("answers"), "answers")
    answers = [
        (as_content(part.get("answer"), f"answers[{i}].answer"), -_rank(part, f"answers[{i}]"))
        for i, part in enumerate(parts)
    ]
    return _list_or_pair(origin, columns, columns.content("prompt"), answers)


def read_scored_list(origin: Origin, columns: Columns) -> Preference:
    """Read a prompt, a list of answers and a list of scores (`completions` + `scores`, distilabel's)."""
    prompt_name = "prompt" if "prompt" in columns else "instruction"
    list_name = _first(columns, "completions", "generations", "responses")
    score_name = _first(columns, "scores", "ratings", "rewards")
    contents, scores = columns.need(list_name), columns.need(score_name)
    if not isinstance(contents, list) or not isinstance(scores, list) or len(contents) != len(scores):
        raise RowProblem(score_name, f"must be a list as long as {list_name}, one score per answer")
    # distilabel's instruction is what a user says, not text to continue
    chat = prompt_name == "instruction"
    answers: list[tuple[Content, float]] = []
    for i, (value, score) in enumerate(zip(contents, scores, strict=True)):
        content = as_content(value, f"{list_name}[{i}]")
        answers.append((as_answer(content) if chat else content, as_number(score, f"{score_name}[{i}]")))
    prompt = columns.content(prompt_name)
    return _list_or_pair(origin, columns, as_prompt(prompt) if chat else prompt, answers)


def _first(columns: Columns, *names: str) -> str:
    """Return the first of these columns that a row has, or the first name, to be reported as missing."""
    return next((name for name in names if name in columns), names[0])


def _list_or_pair(
    origin: Origin, columns: Columns, prompt: Content, answers: list[tuple[Content, float]]
) -> Preference:
    row = ranked(origin, columns, prompt, answers)
    if len(row.completions) > 2:
        return row
    roles = ("chosen", "rejected")
    named = [Completion(role, c.content, c.score) for role, c in zip(roles, row.completions, strict=True)]
    return build(origin, columns, row.prompt, named)


def _rank(part: dict[str, Any], field: str) -> float:
    if part.get("rank") is None:
        raise RowProblem(f"{field}.rank", "is missing", "missing_field")
    return as_number(part["rank"], f"{field}.rank")


def _objects(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise RowProblem(field, f"is {type_name(value)}, must be a list of objects")
    return value


def _chat(columns: Columns, question: str) -> tuple[Message, ...]:
    """Return system, history and question columns as messages."""
    messages: list[Message] = []
    system = columns.optional_text("system")
    if system:
        messages.append({"role": "system", "content": system})
    history = columns.get("history") or []
    if not isinstance(history, list):
        raise RowProblem("history", f"is {type_name(history)}, must be a list of [question, answer]")
    for index, turn in enumerate(history):
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowProblem(f"history[{index}]", f"is {type_name(turn)}, must be [question, answer]")
        messages.append({"role": "user", "content": as_text(turn[0], f"history[{index}][0]")})
        messages.append({"role": "assistant", "content": as_text(turn[1], f"history[{index}][1]")})
    return (*messages, {"role": "user", "content": question})


def _instruction(columns: Columns) -> tuple[Message, ...]:
    """LLaMA-Factory joins `instruction` and `input` with a line break."""
    parts = (columns.optional_text("instruction"), columns.optional_text("input"))
    return _chat(columns, "\n".join(part for part in parts if part))


def read_alpaca_pair(origin: Origin, columns: Columns) -> Preference:
    """LLaMA-Factory alpaca ranking: `instruction, input, chosen, rejected` (system, history)."""
    contents = explicit(_instruction(columns), columns.content("chosen"), columns.content("rejected"))
    return pair(origin, columns, contents)


def read_alpaca(origin: Origin, columns: Columns) -> Preference:
    """Alpaca: `instruction, input, output`; with LLaMA-Factory's `kto_tag` unpaired feedback."""
    prompt, answer = _instruction(columns), as_answer(columns.content("output"))
    if "kto_tag" in columns:
        return unpaired(origin, columns, (prompt, answer), "kto_tag")
    return build(origin, columns, prompt, (Completion("completion", answer),))


def _conversation(columns: Columns) -> tuple[Message, ...]:
    messages = as_messages(columns.need("conversations"), "conversations")
    system = columns.optional_text("system")
    return ({"role": "system", "content": system}, *messages) if system else messages


def read_sharegpt_pair(origin: Origin, columns: Columns) -> Preference:
    """LLaMA-Factory sharegpt ranking: `conversations`, `chosen` and `rejected` one message each."""
    contents = explicit(_conversation(columns), columns.content("chosen"), columns.content("rejected"))
    return pair(origin, columns, contents)


def read_sharegpt(origin: Origin, columns: Columns) -> Preference:
    """ShareGPT: `conversations [{from, value}]`; with LLaMA-Factory's `kto_tag` unpaired feedback."""
    prompt, answer = split_last(_conversation(columns), "conversations")
    if "kto_tag" in columns:
        return unpaired(origin, columns, (prompt, answer), "kto_tag")
    return build(origin, columns, prompt, (Completion("completion", answer),))


def read_messages_pair(origin: Origin, columns: Columns) -> Preference:
    """Axolotl `chat_template.default`: `messages` as prompt, `chosen` and `rejected` one message each."""
    contents = explicit(columns.content("messages"), columns.content("chosen"), columns.content("rejected"))
    return pair(origin, columns, contents)


def read_question_pair(origin: Origin, columns: Columns) -> Preference:
    """Axolotl `intel` and `icr`: `question` or `input`, `chosen`, `rejected`, perhaps `system`."""
    question = columns.text("question" if "question" in columns else "input")
    contents = explicit(_chat(columns, question), columns.content("chosen"), columns.content("rejected"))
    return pair(origin, columns, contents)


def read_question_unpaired(origin: Origin, columns: Columns) -> Preference:
    """Axolotl's KTO types: `question` or `instruction`, `completion`, `label`, perhaps `system`."""
    question = columns.text("question" if "question" in columns else "instruction")
    contents = single(_chat(columns, question), columns.content("completion"))
    return unpaired(origin, columns, contents, "label")


def read_chat_unpaired(origin: Origin, columns: Columns) -> Preference:
    """Read a whole chat, `messages` or `completion`, whose last answer `label` is about."""
    name = "messages" if "messages" in columns else "completion"
    contents = split_last(as_messages(columns.need(name), name), name)
    return unpaired(origin, columns, contents, "label")


def read_argilla(origin: Origin, columns: Columns) -> Preference:
    """Argilla: `instruction, chosen_response, rejected_response` (axolotl `argilla`), perhaps `system`."""
    contents = explicit(
        _chat(columns, columns.text("instruction")),
        columns.content("chosen_response"),
        columns.content("rejected_response"),
    )
    return pair(origin, columns, contents)


def read_arena(origin: Origin, columns: Columns) -> Preference:
    """LMArena: `conversation_a`, `conversation_b`, `winner` (`model_a`, `model_b`, or a tie)."""
    first = as_messages(columns.need("conversation_a"), "conversation_a")
    second = as_messages(columns.need("conversation_b"), "conversation_b")
    return _vote(origin, columns, first, second, columns.text("winner"))


def read_arena_columns(origin: Origin, columns: Columns) -> Preference:
    """Read LMArena's Kaggle table: prompt and two responses as JSON lists of turns, `winner_*` as 0/1."""
    turns = [_turns(columns.need(name), name) for name in ("prompt", "response_a", "response_b")]
    if not len(turns[0]) == len(turns[1]) == len(turns[2]):
        raise RowProblem("response_a", "and response_b need one answer for each turn of the prompt")
    first, second = (
        tuple(
            message
            for question, answer in zip(turns[0], answers, strict=True)
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        )
        for answers in turns[1:]
    )
    won = [as_label(columns.need(name), name) for name in ("winner_model_a", "winner_model_b")]
    columns.get("winner_tie")
    return _vote(
        origin, columns, first, second, "tie" if won[0] == won[1] else ("model_a", "model_b")[won[1]]
    )


def _turns(value: Any, field: str) -> list[str]:
    try:
        turns = decoded(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowProblem(field, f"is text that is not a JSON list: {error}") from error
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise RowProblem(field, "must be a list of texts, one for each turn")
    return turns


def _vote(
    origin: Origin, columns: Columns, first: Sequence[Message], second: Sequence[Message], winner: str
) -> Preference:
    tie = winner.startswith("tie") or winner in ("both_bad", "bothbad")
    if not tie and winner not in ("model_a", "model_b"):
        raise RowProblem("winner", f"is {winner!r}, must be model_a, model_b or a tie")
    chosen, rejected = (second, first) if winner == "model_b" else (first, second)
    prompt, best, worst = split_messages(tuple(chosen), tuple(rejected))
    scores = (0.5, 0.5) if tie else (1.0, 0.0)
    completions = (Completion("chosen", best, scores[0]), Completion("rejected", worst, scores[1]))
    return build(origin, columns, prompt, completions)
