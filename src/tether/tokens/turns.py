"""Answers of several turns: each assistant turn is tokenised as if it were asked for, the rest is context.

An answer may go on after its first turn: a tool call, the tool's result, a final message; or a whole
conversation. What stands between assistant turns was said by others and is never scored. Of the assistant
turns either the last is scored or all are (`score_turns`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from tether.errors import DataError
from tether.records.rows import Completion, Message, Preference

ScoreTurns = Literal["last", "all"]


class Turn(NamedTuple):
    """One assistant turn as ids: what stands before it in the conversation, and the turn."""

    context: list[int]
    ids: list[int]
    notes: frozenset[str]


class Turns(NamedTuple):
    """An answer of several turns: its ids after the prompt's, and which of them are scored."""

    ids: list[int]
    scored: tuple[bool, ...]
    notes: frozenset[str]


def assistant_turns(answer: tuple[Message, ...]) -> list[int]:
    """Return which messages of an answer the assistant says."""
    return [index for index, message in enumerate(answer) if message.get("role") == "assistant"]


def encode_turns(
    row: Preference,
    source: Completion,
    prompt_ids: list[int],
    encode: Callable[[Preference], Turn],
    score_turns: ScoreTurns,
) -> Turns:
    """Return the ids of an answer of several messages; `encode` is for rows of one answer of one message.

    Raises:
        DataError: it does not end with the assistant, or the template renders earlier turns differently once
            later ones are there, so that their tokens cannot be told apart.

    """
    prompt, answer = row.prompt, source.content
    assert not isinstance(answer, str)
    spoken: tuple[Message, ...] = (
        ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    )
    places = assistant_turns(answer)
    if not places or places[-1] != len(answer) - 1:
        raise DataError(f"{source.role}: must end with an assistant message")

    def turn(index: int) -> Turn:
        alone = Completion(source.role, (answer[index],), cut=source.cut and index == places[-1])
        return encode(replace(row, prompt=(*spoken, *answer[:index]), completions=(alone,)))

    last = turn(places[-1])
    skipped = len(prompt_ids)
    if last.context[:skipped] != prompt_ids:
        raise _rewritten(source, "leave only the last turn in the answer, or use another template")
    ids = last.context[skipped:] + last.ids
    scored = [False] * (len(ids) - len(last.ids)) + [True] * len(last.ids)
    notes = set(last.notes)
    for index in places[:-1] if score_turns == "all" else ():
        earlier = turn(index)
        start = len(earlier.context) - skipped
        end = start + len(earlier.ids)
        if last.context[: len(earlier.context)] != earlier.context or ids[start:end] != earlier.ids:
            raise _rewritten(source, "use score_turns last, or make every turn a row of its own")
        scored[start:end] = [True] * len(earlier.ids)
        notes |= earlier.notes
    if len(places) > 1 and score_turns == "last":
        notes.add("several_turns")
    return Turns(ids, tuple(scored), frozenset(notes))


def _rewritten(source: Completion, advice: str) -> DataError:
    return DataError(
        f"{source.role}: the chat template renders earlier turns differently once later ones follow; {advice}"
    )
