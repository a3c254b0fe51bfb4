"""A row on its way to tokens: the texts the tokenizer will be given, and what is known about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.errors import DataError
from tether.records.rows import Completion, Content, Message, Preference, text_key
from tether.tokens.chat import ChatTemplate, Conversation
from tether.tokens.control import ControlTokens, Markers, markers_for, special_tokens
from tether.tokens.turns import ScoreTurns, assistant_turns


@dataclass(slots=True)
class DraftPrompt:
    """A prompt as text, before the tokenizer."""

    text: str
    lead: list[int]
    """Ids in front of the text's own: the beginning-of-text token of plain text rows."""
    markers: Markers
    marked: bool
    """The text holds control strings of the data between markers: it takes the slow path."""
    conversation: Conversation | None
    """What the template was given, control strings marked; None for plain text."""
    notes: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class DraftCompletion:
    """A completion as text, before the tokenizer."""

    source: Completion
    text: str
    key: str
    answer: tuple[Message, ...] = ()
    """The messages the template was given, control strings marked; empty for plain text."""
    notes: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Draft:
    """A row as texts, before the tokenizer."""

    row: Preference
    prompt: DraftPrompt
    completions: list[DraftCompletion]


class Drafter:
    """Turns rows into texts: renders chats, finds control strings, settles the BOS of plain text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate,
        control: ControlTokens,
        score_turns: ScoreTurns,
    ) -> None:
        self._score_turns: ScoreTurns = score_turns
        self._template = template
        self._control = control
        special = special_tokens(tokenizer)
        self._bos, self._eos = special.bos, special.eos
        self._bos_ids = [] if special.bos_id is None else [special.bos_id]
        probe = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids: list[int] = probe["input_ids"]
        added: list[int] = probe["special_tokens_mask"]
        # What the tokenizer puts after a text (an EOS) is left off: a completion follows.
        prefix = ids[: added.index(0)] if 0 in added else []
        self._prefix = _one_bos(prefix, self._bos_ids)
        self._prefix_doubled = self._prefix != prefix

    def row(self, row: Preference) -> Draft:
        """Return the texts of a row.

        Raises:
            DataError: the row mixes forms in a way that has no one meaning, or its template refuses it.

        """
        chat = not isinstance(row.prompt, str) or any(not isinstance(c.content, str) for c in row.completions)
        prompt: Content = row.prompt
        if chat and isinstance(prompt, str):
            prompt = ({"role": "user", "content": prompt},)
        answers = [_answer(completion) for completion in row.completions] if chat else []
        texts = [] if chat else [self._text_completion(completion) for completion in row.completions]
        draft = self.prompt(prompt, row.tools, row.template_arguments, also=answers if chat else texts)
        completions: list[DraftCompletion] = []
        for index, source in enumerate(row.completions):
            made = DraftCompletion(source, "", self._key(row, source))
            if chat and len(answers[index]) > 1:
                made.answer = answers[index]  # rendered turn by turn (`tokens.turns`)
            elif chat:
                made.answer = (
                    self._control.mark(answers[index], draft.markers) if draft.marked else answers[index]
                )
                made.text = self._chat_completion(draft, made)
            elif draft.marked:
                made.text = self._control.mark(texts[index], draft.markers)
            else:
                made.text = texts[index]
            _refuse_surrogates(made.text, source.role)
            completions.append(made)
        return Draft(row, draft, completions)

    def _key(self, row: Preference, completion: Completion) -> str:
        content = completion.content
        several = not isinstance(content, str) and len(assistant_turns(content)) > 1
        try:
            return text_key(
                row.prompt,
                content,
                row.tools,
                row.template_arguments,
                cut=completion.cut,
                all_turns=several and self._score_turns == "all",
            )
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{completion.role}: messages, tools or arguments are not JSON: {error}"
            ) from error

    def prompt(
        self,
        prompt: Content,
        tools: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any],
        also: Sequence[object] = (),
    ) -> DraftPrompt:
        """Return the text of a prompt; `also` are the completions, whose control strings mark the row too."""
        if isinstance(prompt, str):
            return self._text_prompt(prompt, also)
        if not prompt:
            raise DataError("the prompt has no messages; give at least one, or a plain text prompt")
        marked = self._control.found_in(prompt, tools, arguments, also)
        markers = markers_for(prompt, tools, arguments, also)
        conversation = Conversation(prompt, tools, arguments)
        if marked:
            conversation = Conversation(*self._control.mark(tuple(conversation), markers))
        notes = {"special_in_content"} if marked else set[str]()
        text = self._template.prompt(conversation)
        _refuse_surrogates(text, "prompt")
        return DraftPrompt(text, [], markers, marked, conversation, notes)

    def _text_prompt(self, prompt: str, also: Sequence[object]) -> DraftPrompt:
        text, written = prompt, 0
        while self._bos and text.startswith(self._bos):
            text, written = text.removeprefix(self._bos), written + 1
        adds = bool(self._bos_ids) and self._bos_ids[0] in self._prefix
        lead = list(self._prefix) if adds or not written else self._prefix + self._bos_ids
        notes: set[str] = set()
        if self._prefix_doubled or written + adds > 1:
            notes.add("double_bos")
        marked = self._control.found_in(text, also)
        markers = markers_for(text, also)
        if marked:
            notes.add("special_in_content")
            text = self._control.mark(text, markers)
        _refuse_surrogates(text, "prompt")
        return DraftPrompt(text, lead, markers, marked, None, notes)

    def _text_completion(self, completion: Completion) -> str:
        """Return a plain text without the end token it may already be written with; it gets one as an id."""
        assert isinstance(completion.content, str)
        return completion.content if completion.cut else completion.content.removesuffix(self._eos)

    def _chat_completion(self, prompt: DraftPrompt, made: DraftCompletion) -> str:
        assert prompt.conversation is not None
        if made.source.cut:
            parts = self._template.content_and_ending(
                prompt.text, prompt.conversation, made.answer, prompt.markers
            )
            if parts is None:
                raise DataError(
                    f"{made.source.role}: a cut completion must end in a message of plain text that the chat "
                    "template shows whole"
                )
            return parts[0]
        rendered = self._template.completion(prompt.text, prompt.conversation, made.answer, prompt.markers)
        if rendered.rewritten:
            made.notes.add("template_rewrites")
        return rendered.text


def _one_bos(prefix: list[int], bos: list[int]) -> list[int]:
    kept: list[int] = []
    for token in prefix:
        if token not in bos or token not in kept:
            kept.append(token)
    return kept


def _answer(completion: Completion) -> tuple[Message, ...]:
    if isinstance(completion.content, str):
        return ({"role": "assistant", "content": completion.content},)
    if not completion.content:
        raise DataError(f"{completion.role}: no messages; give at least one assistant message")
    first = completion.content[0].get("role")
    if first in ("user", "system"):
        raise DataError(
            f"{completion.role}: begins with a {first} message; leave what belongs to the prompt out of it"
        )
    return completion.content


def _refuse_surrogates(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name}: half a surrogate pair ({text[error.start]!r}) cannot be tokenised; "
            "repair or remove the row"
        ) from None
