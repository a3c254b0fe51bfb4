"""Chats to text: the prompt as at inference, and the part of the rendering that answers it.

The completion is the full rendering minus the prompt's rendering. Some templates write the two so that the
first does not begin with the second (a generation prompt that opens a thinking block, old turns that are
stripped once another follows). The note `template_rewrites` marks such rows; their completion is, in order:

1. what follows the assistant header, where the conversation before it is rendered the same way: the header is
   learned by rendering the same conversation with a marker for the answer;
2. the answer's own text, then the template's end text, learned with a marker from this conversation or, where
   the template does not show it, from a conversation of one question and one answer;
3. otherwise the row is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tether.errors import DataError, ModelError
from tether.records.rows import Message
from tether.tokens.control import Markers, special_tokens, strings
from tether.tokens.time_limit import OutOfTime, processor_time

RESERVED = frozenset(
    {"conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"}
    | {"tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors"}
    | {"return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)
"""Arguments of `apply_chat_template` that a row must not set."""

RENDER_SECONDS = 5
"""Processor time one rendering may take; a long conversation takes milliseconds."""
FREE_OUTPUT, OUTPUT_RATIO = 1_000_000, 64
"""A rendering may have this many characters, or this many times those of the row, whichever is more."""


class Conversation(NamedTuple):
    """What a template is given for one row."""

    messages: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]] = ()
    arguments: Mapping[str, Any] | None = None


class Rendered(NamedTuple):
    """The text of a completion and whether the template rewrote what came before it."""

    text: str
    rewritten: bool


class ChatTemplate:
    """A tokenizer's chat template: renders prompts and completions as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        text = template if isinstance(template, str) else "".join((template or {}).values())
        self.exists = bool(text)
        self.uses_clock = "strftime_now" in text
        """The template writes today's date: the same row has other tokens tomorrow."""

    def prompt(self, conversation: Conversation) -> str:
        """Return the conversation with the generation prompt, exactly as at inference."""
        return self._render(conversation, conversation.messages, generation=True)

    def completion(
        self, prompt: str, conversation: Conversation, answer: tuple[Message, ...], markers: Markers
    ) -> Rendered:
        """Return what the rendering of conversation and answer adds to the prompt's rendering.

        Raises:
            DataError: the template refuses the conversation, or rewrites it beyond recognition.

        """
        full = self._render(conversation, (*conversation.messages, *answer))
        if full.startswith(prompt):
            return Rendered(full[len(prompt) :], rewritten=False)
        return Rendered(self._rewritten(full, conversation, answer, markers), rewritten=True)

    def content_and_ending(
        self, prompt: str, conversation: Conversation, answer: tuple[Message, ...], markers: Markers
    ) -> tuple[str, str] | None:
        """Return a completion up to the end of its last content, and the template's text after it.

        None where the last message has no plain content, or the template does not show its end.
        """
        content = answer[-1].get("content")
        if not isinstance(content, str):
            return None
        marked = (*answer[:-1], {**answer[-1], "content": content + markers.here})
        text = self.completion(prompt, conversation, marked, markers).text
        if text.count(markers.here) != 1:
            return None
        before, _, after = text.partition(markers.here)
        return before, after

    def without_user(self) -> str | None:
        """Return the generation prompt with no user turn before it, or None where there is none.

        An empty conversation, where the template renders one; otherwise what the generation prompt adds to a
        conversation of one question, after the beginning-of-text token where the template writes one.
        """
        try:
            empty = self._empty()
        except Exception:  # templates look at messages[0], each failing in its own way
            empty = ""
        if empty:
            return empty
        question = Conversation(({"role": "user", "content": "a"},))
        try:
            prompt, base = self.prompt(question), self._render(question, question.messages)
        except DataError:
            return None
        if not prompt.startswith(base) or prompt == base:
            return None
        bos = special_tokens(self._tokenizer).bos
        return (bos if bos and prompt.startswith(bos) else "") + prompt[len(base) :]

    def _empty(self) -> str:
        variables: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        rendered, _ = render_jinja_template(
            conversations=[[]],
            chat_template=self._tokenizer.get_chat_template(),
            add_generation_prompt=True,
            **variables,
        )
        return rendered[0]

    def _rewritten(
        self, full: str, conversation: Conversation, answer: tuple[Message, ...], markers: Markers
    ) -> str:
        """Return the completion where the full rendering does not begin with the prompt's (see the head)."""
        base = self._render(conversation, conversation.messages)
        shown = self._render(conversation, (*conversation.messages, _said(markers.here)))
        ending: str | None = None
        if shown.count(markers.here) == 1:
            before, _, ending = shown.partition(markers.here)
            if before.startswith(base) and full.startswith(before):
                return full[len(before) :]
        content = answer[0].get("content")
        if isinstance(content, str) and answer[0].get("role") == "assistant":
            if ending is None:
                ending = self._probed_ending(markers)
            if ending is not None:
                return content + ending
        raise DataError(
            "the chat template rewrites the conversation when the answer is added, so the answer's tokens "
            "cannot be told from the prompt's; use plain text rows or another template"
        )

    def _probed_ending(self, markers: Markers) -> str | None:
        question = Conversation(({"role": "user", "content": "a"},))
        text = self._render(question, (*question.messages, _said(markers.here)))
        return text.partition(markers.here)[2] if text.count(markers.here) == 1 else None

    def _render(
        self, conversation: Conversation, messages: Sequence[Message], *, generation: bool = False
    ) -> str:
        if not self.exists:
            raise ModelError(
                "the rows are chats but the tokenizer has no chat template; "
                "use a model with one, or give prompt, chosen and rejected as plain text"
            )
        arguments = dict(conversation.arguments or {})
        if forbidden := RESERVED & arguments.keys():
            raise DataError(f"template arguments must not set {', '.join(sorted(forbidden))}")
        try:
            with processor_time(RENDER_SECONDS):
                text = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in conversation.tools] or None,
                    add_generation_prompt=generation,
                    tokenize=False,
                    **arguments,
                )
        except OutOfTime:
            raise ModelError(
                f"the chat template takes more than {RENDER_SECONDS} s of processor time for one "
                "conversation; use a model whose template you trust"
            ) from None
        except Exception as error:  # templates raise whatever they like
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"the chat template refuses this conversation: {reason}") from error
        assert isinstance(text, str)
        if len(text) > FREE_OUTPUT:
            given = sum(len(value) for value in strings([list(messages), conversation.tools, arguments]))
            if len(text) > OUTPUT_RATIO * given:
                raise ModelError(
                    f"the chat template makes {len(text)} characters of a row of {given} "
                    f"(limit {OUTPUT_RATIO} times or {FREE_OUTPUT}); use a model whose template you trust"
                )
        return text


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}
