"""Prompts and answers in the shapes other tools write: texts, single messages, turns, ShareGPT's words."""

import json
from collections.abc import Sequence
from typing import Any

from tether.data.fields import SPEAKERS, RowProblem
from tether.data.prompts import as_answer, as_prompt
from tether.records.rows import Completion, Content, Message, Preference


def answers_of(row: Preference) -> tuple[Completion, Completion]:
    """Return the two answers of a pair."""
    chosen, rejected = row.completions
    return chosen, rejected


def plain(content: Content) -> str | list[Message]:
    """Return text as it is, a chat as a list."""
    return content if isinstance(content, str) else [dict(message) for message in content]


def as_chat(content: Content) -> list[Message]:
    """Return a prompt as messages."""
    return [dict(message) for message in as_prompt(content)]


def as_said(content: Content) -> list[Message]:
    """Return an answer as messages."""
    return [dict(message) for message in as_answer(content)]


def one_message(content: Content, name: str) -> Message:
    """Return an answer as one message.

    Raises:
        RowProblem: it has several.

    """
    messages = as_answer(content)
    if len(messages) != 1:
        raise RowProblem(name, f"has {len(messages)} messages, this format takes one")
    return dict(messages[0])


def one_text(content: Content, name: str) -> str:
    """Return an answer of one message as text.

    Raises:
        RowProblem: it has several messages, or no plain text.

    """
    text = one_message(content, name).get("content")
    if not isinstance(text, str):
        raise RowProblem(name, "is no plain text, which is all this format takes")
    return text


def turns_of(row: Preference) -> tuple[str | None, list[tuple[str, str]], str]:
    """Return a prompt as (system, earlier turns, question).

    Raises:
        RowProblem: it is not made of a system message, pairs of turns, and a question.

    """
    messages = list(as_prompt(row.prompt))
    texts = [message.get("content") for message in messages]
    if any(
        not isinstance(text, str) or set(message) > {"role", "content"}
        for text, message in zip(texts, messages, strict=True)
    ):
        raise RowProblem("prompt", "holds more than plain text, which is all this format takes")
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise RowProblem("prompt", "must take turns, user and assistant, and end with the user's question")
    turns = [(messages[i]["content"], messages[i + 1]["content"]) for i in range(0, len(messages) - 1, 2)]
    return system, turns, messages[-1]["content"]


def single_question(row: Preference, name: str) -> dict[str, Any]:
    """Return a prompt of one question as a column, and perhaps `system`.

    Raises:
        RowProblem: it has earlier turns.

    """
    system, turns, question = turns_of(row)
    if turns:
        raise RowProblem("prompt", "has earlier turns, this format takes one question")
    return {**({"system": system} if system else {}), name: question}


def sharegpt(messages: Sequence[Message], name: str) -> list[dict[str, str]]:
    """Return messages as ShareGPT's, see `spoken`."""
    return [spoken(message, f"{name}[{i}]") for i, message in enumerate(messages)]


_FROM = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def spoken(message: Message, name: str) -> dict[str, str]:
    """Return a message as ShareGPT's `from`, `value`.

    Raises:
        RowProblem: a role or a content ShareGPT has no word for.

    """
    role, text, calls = message["role"], message.get("content"), message.get("tool_calls")
    if calls and not text:
        functions = [call.get("function", call) for call in calls]
        said = functions[0] if len(functions) == 1 else functions
        return {"from": "function_call", "value": json.dumps(said, ensure_ascii=False)}
    if role not in _FROM or not isinstance(text, str) or calls:
        raise RowProblem(name, "has a role or content that from and value cannot say")
    assert SPEAKERS[_FROM[role]] == role
    return {"from": _FROM[role], "value": text}
