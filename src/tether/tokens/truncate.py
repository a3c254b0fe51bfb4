"""Rows that are too long: cut on a character boundary, so that every other model sees the same text.

    keep_start   the completion's tail goes (TRL's default); a prompt that leaves no room drops the row
    keep_end     the prompt goes first, from its start (chats: whole oldest turns, system messages stay), then
                 the completion's tail; a text prompt keeps at least its last token, a chat its last question
    drop         any row over the limit is left out

A cut completion has no end token: the model did not say that it ends there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tether.errors import DataError, UsageError
from tether.records.rows import Completion, Content, Message, Preference
from tether.tokens.control import special_tokens
from tether.tokens.render import CHUNK, EncodedGroup, Renderer
from tether.tokens.turns import assistant_turns

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

_CHARACTERS_PER_TOKEN, _SPARE_TOKENS = 8, 64


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
) -> Truncated:
    """Return the row with prompt + completion <= `max_length` tokens for each completion, or without a row.

    Raises:
        DataError: the row cannot be encoded at all.
        UsageError: `max_length` is smaller than 2, or `mode` is unknown.

    """
    ((_, result),) = truncate_each([row], renderer, _refuse, max_length=max_length, mode=mode)
    return result


def truncate_each(
    rows: Sequence[Preference],
    renderer: Renderer,
    refused: Callable[[Preference, DataError], None],
    *,
    max_length: int | None,
    mode: Mode,
) -> Iterator[tuple[Preference, Truncated]]:
    """Yield each row with `truncate` of it, tokenising rows together; `refused` is told of the others."""
    encoded = renderer.encode_each(rows, refused)
    return truncate_known(encoded, renderer, refused, max_length=max_length, mode=mode)


def truncate_known(
    encoded: Iterable[tuple[Preference, EncodedGroup]],
    renderer: Renderer,
    refused: Callable[[Preference, DataError], None],
    *,
    max_length: int | None,
    mode: Mode,
) -> Iterator[tuple[Preference, Truncated]]:
    """Yield rows whose ids are known with their truncation, in order; the cut ones are tokenised together."""
    if max_length is not None and max_length < 2:
        raise UsageError(f"max_length: {max_length} leaves no room for a prompt and a completion; at least 2")
    if mode not in ("keep_start", "keep_end", "drop"):
        raise UsageError(f"truncation_mode: {mode!r}; one of keep_start, keep_end, drop")
    pairs = iter(encoded)
    while chunk := list(itertools.islice(pairs, CHUNK)):
        fitter = _Fitter(renderer, max_length, mode)
        for row, group in chunk:
            try:
                fitter.add(row, group)
            except DataError as error:
                refused(row, error)
        yield from fitter.results(refused)


@dataclass(slots=True)
class _Waiting:
    """A row whose completions must be cut: what was done to it before, and one job per long completion."""

    row: Preference
    known: EncodedGroup
    done: set[str]
    jobs: dict[int, "Job"]


class _Fitter:
    """Makes a chunk of rows fit: decides row by row, cuts completions of all rows together."""

    def __init__(self, renderer: Renderer, limit: int | None, mode: Mode) -> None:
        self._renderer, self._limit, self._mode = renderer, limit, mode
        self._found: list[tuple[Preference, Truncated | _Waiting]] = []

    def add(self, row: Preference, known: EncodedGroup) -> None:
        """Take a row with its ids; settle it, or note what must be cut."""
        self._found.append((row, self._first(row, known)))

    def results(
        self, refused: Callable[[Preference, DataError], None]
    ) -> Iterator[tuple[Preference, Truncated]]:
        """Yield every row with what became of it."""
        waiting = [part for _, part in self._found if isinstance(part, _Waiting)]
        cut_completions([job for part in waiting for job in part.jobs.values()], self._renderer)
        for row, part in self._found:
            try:
                yield row, self._joined(part) if isinstance(part, _Waiting) else part
            except DataError as error:
                refused(row, error)

    def _first(self, row: Preference, known: EncodedGroup) -> Truncated | _Waiting:
        limit = self._limit
        if limit is None or known.longest <= limit:
            return Truncated(row, known)
        if self._mode == "drop":
            return _left_out("dropped_too_long")
        done: set[str] = set()
        if self._mode == "keep_end":
            row, known, cut = _cut_prompt(row, known, self._renderer, limit)
            done |= {"prompt_cut"} if cut else set()
        if known.longest <= limit:
            return Truncated(row, known, frozenset(done))
        room = limit - len(known.prompt_ids)
        if room < 1:
            return _left_out("prompt_too_long")
        pairs = enumerate(zip(row.completions, known.completions, strict=True))
        jobs = {i: Job(row, source, room) for i, (source, before) in pairs if len(before.ids) > room}
        return _Waiting(row, known, done, jobs)

    def _joined(self, part: _Waiting) -> Truncated:
        """Put the cut completions of a row in the place of the long ones."""
        row, known = part.row, part.known
        if any(job.cut is None for job in part.jobs.values()):
            return _left_out("dropped_too_long")
        sources = list(row.completions)
        encoded = list(known.completions)
        notes: set[str] = set()
        for index, job in part.jobs.items():
            assert job.cut is not None and job.encoded is not None
            sources[index], encoded[index] = job.cut, job.encoded.completions[0]
            notes |= job.encoded.notes
        shorter = replace(row, completions=tuple(sources))
        notes = notes.union(*(completion.notes for completion in encoded))
        group = replace(known, completions=tuple(encoded), notes=frozenset(notes))
        if "special_in_content" in known.notes:
            # Whether a row takes the slow path depends on all of its texts together.
            group = self._renderer.encode(shorter)
        if _became_equal(known, group):
            return _left_out("equal_after_cut")
        return Truncated(shorter, group, frozenset(part.done | {"completion_cut"}))


def _left_out(why: str) -> Truncated:
    return Truncated(None, None, frozenset({why}))


def _refuse(_row: Preference, error: DataError) -> None:
    raise error


def _became_equal(before: EncodedGroup, after: EncodedGroup) -> bool:
    for index, second in enumerate(after.completions):
        for earlier, first in enumerate(after.completions[:index]):
            if first.ids == second.ids and before.completions[earlier].ids != before.completions[index].ids:
                return True
    return False


class Job:
    """One completion to cut to `room` tokens: the longest start of it, in steps of tokens, that fits.

    Of an answer of several turns the last is cut; where not even its start fits and all turns are scored,
    later turns go as a whole. Afterwards `cut` and its ids, or None where it cannot be cut.
    """

    def __init__(self, row: Preference, source: Completion, room: int) -> None:
        self.row, self.room = row, room
        self.cut: Completion | None = None
        self.encoded: EncodedGroup | None = None
        self._source = source
        self._text = _last_text(source.content)
        self._ends: list[int] | None = None
        self._keep = 0
        self.given_up = self._text is None

    @property
    def open(self) -> bool:
        """Whether there is still something to try."""
        return self.cut is None and not self.given_up

    @property
    def unmeasured(self) -> str | None:
        """The text whose token ends are not known yet."""
        return self._text if self._ends is None else None

    def measure(self, ends: list[int]) -> None:
        """Take where the text's first `room` tokens end."""
        self._ends, self._keep = ends, min(self.room, len(ends))

    def candidate(self) -> Preference:
        """Return the row with the next start of the completion that might fit."""
        assert self._text is not None and self._ends is not None
        text = self._text[: self._ends[self._keep - 1]] if self._keep > 0 else ""
        self._tried = replace(self._source, content=_start(self._source.content, text), cut=True)
        return replace(self.row, completions=(self._tried,))

    def answer(self, encoded: EncodedGroup | None, *, all_turns: bool) -> None:
        """Take the candidate's ids (None: it could not be encoded); settle, or try a shorter one."""
        if encoded is None:
            self.given_up = True
            return
        ids = encoded.completions[0].ids
        if ids and len(ids) <= self.room and self._keep > 0:
            self.cut, self.encoded = self._tried, encoded
            return
        self._keep -= max(1, len(ids) - self.room)
        if self._keep > 0:
            return
        shorter = _without_last_turn(self._source.content) if all_turns else None
        if shorter is None:
            self.given_up = True
            return
        self._source, self._ends = replace(self._source, content=shorter), None
        self._text = _last_text(shorter)
        self.given_up = self._text is None


def cut_completions(jobs: Sequence[Job], renderer: Renderer) -> None:
    """Cut completions together: each pass tokenises the candidates of all that are not settled."""
    while still := [job for job in jobs if job.open]:
        new = [(job, text) for job in still if (text := job.unmeasured) is not None]
        found = _token_ends([(text, job.room) for job, text in new], renderer)
        for (job, _), ends in zip(new, found, strict=True):
            job.measure(ends)
        made = [(job, job.candidate()) for job in still]
        rows = [row for _, row in made]
        known = {id(row): group for row, group in renderer.encode_each(rows, lambda row, error: None)}
        for job, row in made:
            job.answer(known.get(id(row)), all_turns=renderer.score_turns == "all")


def _last_text(content: Content) -> str | None:
    """Return the text that is cut: a plain answer's, or that of a chat's last message."""
    text: Any = content if isinstance(content, str) else content[-1].get("content")
    return text if isinstance(text, str) else None


def _start(content: Content, text: str) -> Content:
    if isinstance(content, str):
        return text
    last: Message = {key: value for key, value in content[-1].items() if key != "tool_calls"}
    return (*content[:-1], {**last, "content": text})


def _without_last_turn(content: Content) -> Content | None:
    """Return an answer up to the assistant turn before its last one, or None where there is none."""
    turns = [] if isinstance(content, str) else assistant_turns(content)
    return content[: turns[-2] + 1] if len(turns) > 1 else None


def _token_ends(asked: Sequence[tuple[str, int]], renderer: Renderer) -> list[list[int]]:
    """Return where (in characters) each text's first tokens end, reading no more of it than needed."""
    found: dict[int, list[int]] = {}
    characters = {i: _CHARACTERS_PER_TOKEN * (tokens + _SPARE_TOKENS) for i, (_, tokens) in enumerate(asked)}
    while open_ := [index for index in characters if index not in found]:
        pieces = [asked[index][0][: characters[index]] for index in open_]
        for index, offsets in zip(open_, _offsets(pieces, renderer), strict=True):
            text, tokens = asked[index]
            # The last tokens of a piece may be others in the whole text.
            if len(offsets) >= tokens + _SPARE_TOKENS or characters[index] >= len(text):
                found[index] = [end for _, end in offsets[:tokens]]
            characters[index] *= 2
    return [found[index] for index in range(len(asked))]


def _offsets(texts: Sequence[str], renderer: Renderer) -> list[list[tuple[int, int]]]:
    return renderer.tokenizer(
        list(texts),
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
    starts = [start for start, _ in _offsets([text], renderer)[0]]
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
    first = next((index for index, role in enumerate(roles) if role not in KEPT_ROLES), len(roles))
    cut = False
    for start in (index for index in range(first + 1, len(roles)) if roles[index] == "user"):
        if len(known.prompt_ids) <= room:
            break
        row = replace(row, prompt=prompt[:first] + prompt[start:])
        known = renderer.encode(row)
        cut = True
    return row, known, cut
