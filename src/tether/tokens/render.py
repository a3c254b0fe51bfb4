"""Preference rows to token ids: the prompt as at inference, each completion through its first stop token.

How a completion's ids are found. The prompt is tokenised alone, so its ids are those the model meets at
inference. Prompt and completion are tokenised in one go as well: where that begins with the prompt's ids, the
rest is the completion (so a SentencePiece tokenizer adds no space at the seam). Where a token spans the seam,
the completion is tokenised apart and the row carries the note `joint_differs`.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.errors import DataError, ModelError
from tether.records.rows import Content, Preference
from tether.tokens.chat import ChatTemplate
from tether.tokens.control import ControlTokens, special_tokens
from tether.tokens.draft import Draft, DraftCompletion, Drafter, DraftPrompt
from tether.tokens.seam import Joined, Seams
from tether.tokens.turns import ScoreTurns, Turn, encode_turns

NOTHING = Joined([], [])
CHUNK = 512
"""Rows tokenised by one call; bounds the memory of the texts, changes no number."""
FEW = 64
"""Tokens of a prompt and of a completion that suffice for a check on any row: of a layout, of repetition."""


@dataclass(frozen=True, slots=True)
class EncodedCompletion:
    """One completion as token ids, its end token included unless it was cut or has none."""

    role: str
    ids: list[int]
    key: str
    cut: bool
    reference_logprob: float | None
    scored: tuple[bool, ...] | None = None
    """Which of the ids are scored, where some are context only (turns between assistant turns)."""
    notes: frozenset[str] = frozenset()
    """What was unusual about this completion; also among its group's."""

    @property
    def scored_count(self) -> int:
        """How many of the ids are scored."""
        return len(self.ids) if self.scored is None else sum(self.scored)


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """One row as token ids."""

    row_id: str
    prompt_ids: list[int]
    completions: tuple[EncodedCompletion, ...]
    weight: float
    margin: float
    probability: float
    notes: frozenset[str]
    """What was unusual (see `tokens.inspect.NOTES`)."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt_ids) + max((len(c.ids) for c in self.completions), default=0)

    @property
    def tokens(self) -> int:
        """Tokens of the prompt, once, and of all completions."""
        return len(self.prompt_ids) + sum(len(c.ids) for c in self.completions)

    @property
    def max_id(self) -> int:
        """Largest token id in the row; it must be smaller than the model's embedding."""
        return max(
            (max(ids) for ids in (self.prompt_ids, *(c.ids for c in self.completions)) if ids), default=0
        )

    def shortened(self) -> "EncodedGroup":
        """Return the group with `FEW` tokens of its prompt's end and of each completion's beginning.

        Completions of which only some ids are scored stay whole. For checks only: keys name the whole texts.
        """
        few = tuple(replace(c, ids=c.ids[:FEW]) if c.scored is None else c for c in self.completions)
        return replace(self, prompt_ids=self.prompt_ids[-FEW:], completions=few)


class Renderer:
    """Encodes rows for one model: its tokenizer, its chat template, the tokens that stop it.

    `without_prompt` replaces every prompt by the generation prompt with no user turn (chats) or the
    beginning-of-text token (plain text): the `prior` reference. Completions keep the ids they have with their
    prompt. `score_turns` says which assistant turns of an answer of several are scored (`tokens.turns`).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        *,
        without_prompt: bool = False,
        score_turns: ScoreTurns = "last",
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.without_prompt = without_prompt
        self.score_turns: ScoreTurns = score_turns
        self.template = ChatTemplate(tokenizer)
        self._control = ControlTokens(tokenizer, stop_ids)
        self._drafter = Drafter(tokenizer, self.template, self._control, score_turns)
        self._seams = Seams(tokenizer)
        special = special_tokens(tokenizer)
        self._bos, eos = special.bos_id, special.eos_id
        self.end_id = eos if eos is not None else min(stop_ids) if len(stop_ids) == 1 else None
        """The token put after a plain text completion, or None."""
        self._unknown = None if special.unk_id in {*stop_ids, self._bos} else special.unk_id
        self._blank: dict[tuple[int, ...], bool] = {}

    def prompt_ids(
        self,
        prompt: Content,
        tools: Sequence[dict[str, Any]] = (),
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of the prompt alone, generation prompt included, as at inference.

        Raises:
            DataError: the template refuses the conversation.
            ModelError: a chat, and the tokenizer has no template.

        """
        draft = self._drafter.prompt(prompt, tools, template_arguments or {})
        return self._prompt(draft, [] if draft.marked else self._seams.batch([draft.text])[0])

    def encode(self, row: Preference) -> EncodedGroup:
        """Return the row's token ids.

        Raises:
            DataError: the row cannot be rendered or tokenised; the message begins with the row's name.
            ModelError: the row is a chat and the tokenizer has no template.

        """
        return self.encode_all([row])[0]

    def encode_all(self, rows: Sequence[Preference]) -> list[EncodedGroup]:
        """Return every row's token ids: the same as `encode` row by row, in fewer calls of the tokenizer."""
        return [group for _, group in self.encode_each(rows, _refuse)]

    def encode_each(
        self, rows: Sequence[Preference], refused: Callable[[Preference, DataError], None]
    ) -> Iterator[tuple[Preference, EncodedGroup]]:
        """Yield every row that can be encoded, with its ids; `refused` is told of each that cannot."""
        for start in range(0, len(rows), CHUNK):
            drafts: list[Draft] = []
            for row in rows[start : start + CHUNK]:
                try:
                    with _named(row):
                        drafts.append(self._drafter.row(row))
                except DataError as error:
                    refused(row, error)
            plain = [draft for draft in drafts if not draft.prompt.marked]
            joined = iter(self._seams.encode(_texts(draft) for draft in plain))
            for draft in drafts:
                encoded = NOTHING if draft.prompt.marked else next(joined)
                try:
                    with _named(draft.row):
                        group = self._group(draft, encoded)
                except DataError as error:
                    refused(draft.row, error)
                else:
                    yield draft.row, group

    def _group(self, draft: Draft, encoded: Joined) -> EncodedGroup:
        prompt = draft.prompt
        prompt_ids = self._prompt(prompt, encoded.prompt)
        completions = [
            self._completion(draft, made, encoded, index) for index, made in enumerate(draft.completions)
        ]
        row = draft.row
        return EncodedGroup(
            row_id=row.row_id,
            prompt_ids=prompt_ids,
            completions=tuple(completions),
            weight=row.weight,
            margin=row.margin,
            probability=row.probability,
            notes=frozenset(prompt.notes).union(*(completion.notes for completion in completions)),
        )

    def _completion(
        self, draft: Draft, made: DraftCompletion, encoded: Joined, index: int
    ) -> EncodedCompletion:
        prompt, source = draft.prompt, made.source
        if len(made.answer) > 1:
            before = self._own_prompt(prompt, encoded.prompt)
            turns = encode_turns(draft.row, source, before, self._turn, self.score_turns)
            ids, scored = turns.ids, turns.scored
            made.notes |= turns.notes
        else:
            ids, scored = self._answer(prompt, made, encoded, index), None
        if self._unknown is not None and self._unknown in ids:
            made.notes.add("unknown_characters")
        if not ids:
            made.notes.add("no_tokens")
        return EncodedCompletion(
            source.role, ids, made.key, source.cut, source.reference_logprob, scored, frozenset(made.notes)
        )

    def _turn(self, row: Preference) -> Turn:
        group = self._with_prompt.encode_each([row], _refuse)
        (_, encoded), *_ = group
        return Turn(encoded.prompt_ids, encoded.completions[0].ids, encoded.notes)

    @cached_property
    def _with_prompt(self) -> "Renderer":
        return Renderer(self.tokenizer, self.stop_ids) if self.without_prompt else self

    def _answer(self, prompt: DraftPrompt, made: DraftCompletion, encoded: Joined, index: int) -> list[int]:
        """Return the ids of a completion of one turn, or of plain text, through its first stop token."""
        if prompt.marked:
            ids = self._control.encode_marked(made.text, prompt.markers, first=False)
        else:
            ids = self._rest(encoded.prompt, encoded.joint[index], made.text, made.notes)
        return self._ended(ids, prompt, made)

    def _prompt(self, draft: DraftPrompt, body: list[int]) -> list[int]:
        """Return the prompt's ids, or the prior's."""
        own = self._own_prompt(draft, body)
        if not self.without_prompt:
            return own
        return list(self._prior_text if draft.conversation is None else self._prior_chat)

    def _own_prompt(self, draft: DraftPrompt, body: list[int]) -> list[int]:
        """Return the prompt's ids: its lead, then its text with one BOS at most."""
        if draft.marked:
            body = self._control.encode_marked(draft.text, draft.markers, first=True)
        doubled = 0
        while self._bos is not None and body[doubled : doubled + 2] == [self._bos, self._bos]:
            doubled += 1
        if doubled:
            draft.notes.add("double_bos")
        return draft.lead + body[doubled:]

    def _rest(self, body: list[int], joint: list[int], text: str, notes: set[str]) -> list[int]:
        if joint[: len(body)] == body:
            return joint[len(body) :]
        notes.add("joint_differs")
        return self._control.continued(text)

    def _ended(self, ids: list[int], prompt: DraftPrompt, made: DraftCompletion) -> list[int]:
        """Return the ids through the first stop token; notes how the completion ends, or that it does not."""
        stop = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        if stop is not None:
            if not self._is_blank(ids[stop + 1 :]):
                made.notes.add("text_after_end")
            return ids[: stop + 1]
        if made.source.cut:
            return ids
        if prompt.conversation is not None:
            return self._without_stop(ids, prompt, made)
        if self.end_id is None:
            made.notes.add("no_end_token")
            return ids
        if self.end_id not in self.stop_ids:
            made.notes.add("end_not_stop")
        return [*ids, self.end_id]

    def _without_stop(self, ids: list[int], prompt: DraftPrompt, made: DraftCompletion) -> list[int]:
        """End a chat completion with no stop token: at the template's first control token, or bare."""
        assert prompt.conversation is not None
        parts = self.template.content_and_ending(
            prompt.text, prompt.conversation, made.answer, prompt.markers
        )
        if parts is None:
            made.notes.add("end_not_stop" if not self._control.ids.isdisjoint(ids) else "no_end_token")
            return ids
        text, ending = parts
        found = self._control.first_in(ending)
        made.notes.add("end_not_stop" if found else "no_end_token")
        text += ending[: found.end()] if found else ""
        if prompt.marked:
            return self._control.encode_marked(text, prompt.markers, first=False)
        (body, (joint,)) = self._seams.encode([(prompt.text, [text])])[0]
        return self._rest(body, joint, text, made.notes)

    def _is_blank(self, ids: list[int]) -> bool:
        """Say whether ids after a stop token are white space and control tokens only."""
        if len(ids) > 8:
            return not str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        known = tuple(ids)
        if known not in self._blank:
            self._blank[known] = not str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return self._blank[known]

    @cached_property
    def _prior_chat(self) -> list[int]:
        text = self.template.without_user()
        return self._seams.batch([text])[0] if text else self._prior_text

    @cached_property
    def _prior_text(self) -> list[int]:
        if self._bos is None:
            raise ModelError(
                "reference prior: the tokenizer has no beginning-of-text token, and no template renders a "
                "generation prompt without a user turn; choose another reference"
            )
        return [self._bos]


def _texts(draft: Draft) -> tuple[str, list[str]]:
    """Return what the tokenizer is given for a row: the prompt, and each completion."""
    return draft.prompt.text, [made.text for made in draft.completions]


@contextmanager
def _named(row: Preference) -> Generator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{row.row_id}: {error}") from error


def _refuse(_row: Preference, error: DataError) -> None:
    raise error
