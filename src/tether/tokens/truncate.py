"""Rows that are too long: cut on a character boundary, so that every other model sees the same text.

    keep_start   the completion's tail goes (TRL's default); a prompt that leaves no room drops the row
    keep_end     the prompt goes first, from its start (chats: whole oldest turns, system messages stay), then
                 the completion's tail; a text prompt keeps at least its last token, a chat its last question
    drop         any row over the limit is left out

A cut completion has no end token: the model did not say that it ends there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tether.errors import DataError, UsageError
from tether.records.rows import Completion, Content, Message, Preference
from tether.tokens.control import special_tokens
from tether.tokens.render import EncodedGroup, Renderer

Mode = Literal["keep_start", "keep_end", "drop"]

CUTS = {
    "completion_cut": "a completion was cut at its end",
    "prompt_cut": "the prompt was cut at its start",
    "prompt_too_long": "left out: the prompt leaves no room for a completion",
    "dropped_too_long": "left out: longer than the limit",
    "equal_after_cut": "left out: two completions are the same after the cut",
}
"""What can happen to a row that is too long."""

KEPT_ROLES = ("system", "developer")
"""Leading messages with these roles stay when the oldest turns go."""

_CHARACTERS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Truncated:
    """A row that fits, or None; `cut` names what was done to it (keys of `CUTS`)."""

    row: Preference | None
    encoded: EncodedGroup | None
    cut: frozenset[str] = frozenset()


def truncate(
    row: Preference,
    renderer: Renderer,
    *,
    max_length: int | None,
    mode: Mode,
    encoded: EncodedGroup | None = None,
) -> Truncated:
    """Return the row with prompt + completion <= `max_length` tokens for each completion, or without a row.

    `encoded` is the row's encoding where it is already known.

    Raises:
        DataError: the row cannot be encoded at all.
        UsageError: `max_length` is smaller than 2, or `mode` is unknown.

    """
    if max_length is not None and max_length < 2:
        raise UsageError(f"max_length: {max_length} leaves no room for a prompt and a completion; at least 2")
    if mode not in ("keep_start", "keep_end", "drop"):
        raise UsageError(f"truncation_mode: {mode!r}; one of keep_start, keep_end, drop")
    known = renderer.encode(row) if encoded is None else encoded
    if max_length is None or known.longest <= max_length:
        return Truncated(row, known)
    if mode == "drop":
        return Truncated(None, None, frozenset({"dropped_too_long"}))
    done: set[str] = set()
    if mode == "keep_end":
        row, known, cut = _cut_prompt(row, known, renderer, max_length)
        done |= {"prompt_cut"} if cut else set()
    if known.longest <= max_length:
        return Truncated(row, known, frozenset(done))
    return _cut_completions(row, known, renderer, max_length, done)


def truncate_each(
    rows: Sequence[Preference],
    renderer: Renderer,
    refused: Callable[[Preference, DataError], None],
    *,
    max_length: int | None,
    mode: Mode,
) -> Iterator[tuple[Preference, Truncated]]:
    """Yield each row with `truncate` of it, tokenising rows together; `refused` is told of the others."""
    for row, group in renderer.encode_each(rows, refused):
        try:
            yield row, truncate(row, renderer, max_length=max_length, mode=mode, encoded=group)
        except DataError as error:
            refused(row, error)


def _cut_completions(
    row: Preference, known: EncodedGroup, renderer: Renderer, limit: int, done: set[str]
) -> Truncated:
    room = limit - len(known.prompt_ids)
    if room < 1:
        return Truncated(None, None, frozenset({"prompt_too_long"}))
    completions: list[Completion] = []
    for completion, before in zip(row.completions, known.completions, strict=True):
        kept = completion if len(before.ids) <= room else cut_completion(row, completion, renderer, room)
        if kept is None:
            return Truncated(None, None, frozenset({"dropped_too_long"}))
        completions.append(kept)
    shorter = replace(row, completions=tuple(completions))
    encoded = renderer.encode(shorter)
    if _became_equal(known, encoded):
        return Truncated(None, None, frozenset({"equal_after_cut"}))
    return Truncated(shorter, encoded, frozenset(done | {"completion_cut"}))


def _became_equal(before: EncodedGroup, after: EncodedGroup) -> bool:
    for index, second in enumerate(after.completions):
        for earlier, first in enumerate(after.completions[:index]):
            if first.ids == second.ids and before.completions[earlier].ids != before.completions[index].ids:
                return True
    return False


def cut_completion(
    row: Preference, completion: Completion, renderer: Renderer, room: int
) -> Completion | None:
    """Return the longest start of a completion (in steps of tokens) that fits; None where it cannot be cut.

    Only the first message of several is scored (through its end token), so only that is kept.
    """
    text = _text(completion.content)
    if text is None:
        return None
    ends = _token_ends(text, renderer, room)
    keep = min(room, len(ends))
    while keep > 0:
        candidate = replace(completion, content=_start(completion.content, text[: ends[keep - 1]]), cut=True)
        try:
            ids = renderer.encode(replace(row, completions=(candidate,))).completions[0].ids
        except DataError:
            return None
        if ids and len(ids) <= room:
            return candidate
        keep -= max(1, len(ids) - room)
    return None


def _text(content: Content) -> str | None:
    text: Any = content if isinstance(content, str) else content[0].get("content")
    return text if isinstance(text, str) else None


def _start(content: Content, text: str) -> Content:
    if isinstance(content, str):
        return text
    first: Message = {key: value for key, value in content[0].items() if key != "tool_calls"}
    return ({**first, "content": text},)


def _token_ends(text: str, renderer: Renderer, tokens: int) -> list[int]:
    """Return where (in characters) each of a text's first tokens ends, reading no more than needed."""
    characters = _CHARACTERS_PER_TOKEN * tokens
    while True:
        ends = [end for _, end in _offsets(text[:characters], renderer)]
        if len(ends) >= tokens or characters >= len(text):
            return ends
        characters *= 2


def _offsets(text: str, renderer: Renderer) -> list[tuple[int, int]]:
    return renderer.tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )["offset_mapping"]


def _cut_prompt(
    row: Preference, known: EncodedGroup, renderer: Renderer, limit: int
) -> tuple[Preference, EncodedGroup, bool]:
    room = max(1, limit - max(len(completion.ids) for completion in known.completions))
    if len(known.prompt_ids) <= room:
        return row, known, False
    if isinstance(row.prompt, str):
        return _cut_text_prompt(row, row.prompt, known, renderer, room)
    return _cut_turns(row, row.prompt, known, renderer, room)


def _cut_text_prompt(
    row: Preference, prompt: str, known: EncodedGroup, renderer: Renderer, room: int
) -> tuple[Preference, EncodedGroup, bool]:
    """Cut a text prompt from its start until it fits; its last token always stays."""
    bos = special_tokens(renderer.tokenizer).bos
    opening = bos if bos and prompt.startswith(bos) else ""
    text = prompt.removeprefix(opening)
    starts = [start for start, _ in _offsets(text, renderer)]
    dropped, cut = 0, False
    while len(known.prompt_ids) > room and dropped < len(starts) - 1:
        dropped = min(len(starts) - 1, dropped + len(known.prompt_ids) - room)
        row = replace(row, prompt=opening + text[starts[dropped] :])
        known = renderer.encode(row)
        cut = True
    return row, known, cut


def _cut_turns(
    row: Preference, prompt: tuple[Message, ...], known: EncodedGroup, renderer: Renderer, room: int
) -> tuple[Preference, EncodedGroup, bool]:
    """Leave out the oldest turns until the prompt fits; system messages and the last user turn stay."""
    roles = [message.get("role") for message in prompt]
    first = next(
        (index for index, role in enumerate(roles) if role not in ("system", "developer")), len(roles)
    )
    cut = False
    for start in (index for index in range(first + 1, len(roles)) if roles[index] == "user"):
        if len(known.prompt_ids) <= room:
            break
        row = replace(row, prompt=prompt[:first] + prompt[start:])
        known = renderer.encode(row)
        cut = True
    return row, known, cut
