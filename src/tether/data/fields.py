"""Columns of a row, typed: text, messages, numbers; every complaint names the field and what it holds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tether.data.raw import type_name
from tether.records.rows import Completion, Content, Message, Origin, Preference

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's `from` -> `role`."""

SCORE_COLUMNS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
LOGPROB_COLUMNS = (
    ("chosen_logprob", "rejected_logprob"),
    ("ref_chosen_logps", "ref_rejected_logps"),
    ("reference_chosen_logps", "reference_rejected_logps"),
)
"""RefDPO's, TRL's, and TRL's older names."""

EXTRA_COLUMNS = ("tools", "chat_template_kwargs", "weight", "margin", "probability")
"""Columns every format may carry."""


class RowProblem(ValueError):
    """A row cannot be used; `kind` is the kind of finding it becomes."""

    def __init__(self, field: str, message: str, kind: str = "wrong_type") -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.kind = kind


class Columns:
    """A row's columns; remembers which were read, so that the others can be reported as ignored."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def get(self, name: str) -> Any:
        """Return a column as it is, None where it is missing."""
        self.read.add(name)
        return self._value.get(name)

    def need(self, name: str) -> Any:
        """Return a column that must be there.

        Raises:
            RowProblem: missing or null (kind `missing_field`).

        """
        value = self.get(name)
        if value is None:
            state = "is null" if name in self._value else "is missing"
            raise RowProblem(name, state, "missing_field")
        return value

    def content(self, name: str) -> Content:
        """Return a required column as text or messages."""
        return as_content(self.need(name), name)

    def text(self, name: str) -> str:
        """Return a required column as text."""
        return as_text(self.need(name), name)

    def optional_text(self, name: str) -> str | None:
        """Return a column as text, None where it is missing or null."""
        value = self.get(name)
        return None if value is None else as_text(value, name)

    def number(self, name: str) -> float | None:
        """Return a column as a finite number, None where it is missing, null or a blank CSV cell."""
        value = self.get(name)
        return None if value is None or value == "" else as_number(value, name)

    def number_of(self, pairs: Iterable[tuple[str, str]]) -> tuple[float | None, float | None]:
        """Return the first of several column pairs whose two numbers are both there."""
        for first, second in pairs:
            numbers = (self.number(first), self.number(second)) if first in self and second in self else ()
            if len(numbers) == 2 and None not in numbers:
                return numbers
        return None, None


def as_text(value: Any, field: str) -> str:
    """Return the value if it is text.

    Raises:
        RowProblem: it is not.

    """
    if not isinstance(value, str):
        raise RowProblem(field, f"is {type_name(value)}, must be text")
    return value


def as_number(value: Any, field: str) -> float:
    """Return the value as a finite number; text that spells one counts (CSV has nothing else).

    Raises:
        RowProblem: it is not a number, or not finite.

    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowProblem(field, f"is {type_name(value)}, must be a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise RowProblem(field, f"is {str(value)[:40]!r}, must be a number") from None
    if not math.isfinite(number):
        raise RowProblem(field, f"is {number}, must be finite")
    return number


def as_label(value: Any, field: str) -> bool:
    """Return a KTO label: true/false, 1/0, or their spelling in CSV.

    Raises:
        RowProblem: it is anything else.

    """
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    label = known.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if label is None:
        shown = repr(value[:40]) if isinstance(value, str) else type_name(value)
        raise RowProblem(field, f"is {shown}, must be true (desirable) or false")
    return label


def as_content(value: Any, field: str) -> Content:
    """Return text as it is, a message or list of messages as messages.

    Raises:
        RowProblem: it is neither.

    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return (as_message(value, field),)
    if isinstance(value, list | tuple):
        return as_messages(value, field)
    if value is None:
        raise RowProblem(field, "is null", "missing_field")
    raise RowProblem(field, f"is {type_name(value)}, must be text or a list of messages")


def as_messages(value: Any, field: str) -> tuple[Message, ...]:
    """Return a list of messages, ShareGPT's `from`/`value` spelled as `role`/`content`.

    Raises:
        RowProblem: it is not a list of messages.

    """
    if not isinstance(value, list | tuple):
        raise RowProblem(field, f"is {type_name(value)}, must be a list of messages")
    return tuple(as_message(part, f"{field}[{index}]") for index, part in enumerate(value))


def as_message(value: Any, field: str) -> Message:
    """Return one message; null members are left out, content of text parts is joined.

    Raises:
        RowProblem: no role, no content, or content that is not text.

    """
    if not isinstance(value, dict):
        raise RowProblem(field, f"is {type_name(value)}, must be a message with role and content")
    if "role" not in value and "from" in value:
        return _sharegpt(value, field)
    role = value.get("role")
    if not isinstance(role, str) or not role:
        raise RowProblem(f"{field}.role", f"is {type_name(role)}, must be user, assistant, system or tool")
    content = value.get("content")
    if isinstance(content, list | tuple):
        content = _joined(content, f"{field}.content")
    elif content is not None and not isinstance(content, str):
        raise RowProblem(f"{field}.content", f"is {type_name(content)}, must be text")
    elif content is None and not value.get("tool_calls"):
        raise RowProblem(f"{field}.content", "is missing or null", "missing_field")
    others = {key: part for key, part in value.items() if key not in ("role", "content") and part is not None}
    _must_be_finite(others, field)
    return {"role": role, "content": content, **others}


def _sharegpt(value: Mapping[str, Any], field: str) -> Message:
    speaker = value.get("from")
    text = as_text(value.get("value"), f"{field}.value")
    if speaker == "function_call":
        try:
            call = decoded(text)
        except ValueError as error:
            raise RowProblem(f"{field}.value", f"is a function call that is not JSON: {error}") from error
        calls = call if isinstance(call, list) else [call]
        tool_calls = [{"type": "function", "function": part} for part in calls]
        return {"role": "assistant", "content": None, "tool_calls": tool_calls}
    role = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowProblem(f"{field}.from", f"is {speaker!r}; known speakers: {', '.join(SPEAKERS)}")
    return {"role": role, "content": text}


def _joined(parts: Sequence[Any], field: str) -> str:
    texts: list[str] = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RowProblem(
                f"{field}[{index}]", f"is a part of type {kind!r}; only text parts can be trained on"
            )
        texts.append(part["text"])
    return "".join(texts)


def _must_be_finite(value: Any, field: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowProblem(field, f"holds a value that JSON cannot say: {error}") from error


def decoded(text: str) -> Any:
    """Return what JSON text inside a column says.

    Raises:
        ValueError: it is not JSON, or nested without end.

    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _decoded(value: Any, field: str) -> Any:
    """Return a nested value; columns written as JSON text are decoded."""
    if not isinstance(value, str):
        return value
    try:
        return decoded(value) if value.strip() else None
    except ValueError as error:
        raise RowProblem(field, f"is text that is not JSON: {error}") from error


def as_tools(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """Return tool definitions: a list of objects, or JSON text of one.

    Raises:
        RowProblem: it is neither.

    """
    tools = _decoded(value, field) or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowProblem(field, f"is {type_name(tools)}, must be a list of tool definitions")
    _must_be_finite(tools, field)
    return tuple(tools)


def build(
    origin: Origin,
    columns: Columns,
    prompt: Content,
    completions: Sequence[Completion],
    tools: tuple[dict[str, Any], ...] | None = None,
) -> Preference:
    """Return the row, with the columns every format may carry.

    Raises:
        RowProblem: one of them is out of its range.

    """
    arguments = _decoded(columns.get("chat_template_kwargs"), "chat_template_kwargs") or {}
    if not isinstance(arguments, dict):
        raise RowProblem("chat_template_kwargs", f"is {type_name(arguments)}, must be an object")
    _must_be_finite(arguments, "chat_template_kwargs")
    weight, margin, probability = (columns.number(name) for name in ("weight", "margin", "probability"))
    if weight is not None and weight < 0:
        raise RowProblem("weight", f"is {weight:g}, must not be negative")
    if probability is not None and not 0 <= probability <= 1:
        raise RowProblem("probability", f"is {probability:g}, must lie in [0, 1]")
    return Preference(
        origin=origin,
        prompt=prompt,
        completions=tuple(completions),
        tools=as_tools(columns.get("tools"), "tools") if tools is None else tools,
        template_arguments=arguments,
        weight=1.0 if weight is None else weight,
        margin=0.0 if margin is None else margin,
        probability=1.0 if probability is None else probability,
    )
