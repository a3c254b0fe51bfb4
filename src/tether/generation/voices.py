"""Who answers in a chat, piece by piece: a model run here, perhaps dialled, or one on a server."""

from collections.abc import Generator
from typing import Any, Protocol

from tether.errors import ResourceError, UsageError
from tether.generation.choice import sample_seeds
from tether.generation.conversation import Spoken
from tether.generation.engines import Sampling, completion_text, decoder, stream_ids
from tether.generation.prompts import Prompt
from tether.generation.speaker import Speaker, dial_between, who_answers
from tether.tokens.render import Renderer

Saying = Generator[str, None, Spoken]
"""Yields text as it is written and returns the whole answer."""


class Voice(Protocol):
    """A model that answers."""

    name: str
    chat: bool
    """Takes messages; else text is continued."""

    def answer(self, prompt: Prompt, sampling: Sampling, sample: int) -> Saying:
        """Answer a prompt; `sample` is which of its answers this is (from 0)."""
        ...


class LocalVoice:
    """A model run here; its first answer is what `tether generate` writes for this prompt."""

    def __init__(
        self, speaker: Speaker, *, reference: Speaker | None = None, dial: float | None = None
    ) -> None:
        self.speaker, self.reference, self._dial = speaker, reference, dial_between(reference, dial)
        self.name = speaker.path
        self._renderer = Renderer(speaker.tokenizer, speaker.stop_ids)
        self._decode = decoder(speaker.tokenizer)
        self.chat = bool(speaker.tokenizer.chat_template)

    @property
    def dial(self) -> float | None:
        """Where the dial stands, or None without a reference."""
        return None if self._dial is None else self._dial.value

    def turn(self, value: float) -> None:
        """Set the dial.

        Raises:
            UsageError: there is no reference, or the value is out of range.

        """
        if self.reference is None:
            raise UsageError("dial: needs a second model: start with --reference REF --dial 1")
        self._dial = dial_between(self.reference, value)

    def answer(self, prompt: Prompt, sampling: Sampling, sample: int) -> Saying:
        """Answer a prompt.

        Raises:
            DataError: it leaves the model no room to write.

        """
        stops = self.speaker.stop_ids
        who = who_answers(self.speaker, self.reference, self.dial)
        tokens = stream_ids(
            self.speaker.model,
            self._renderer.prompt_ids(prompt.content, prompt.tools, prompt.template_arguments),
            sampling,
            stop_ids=stops,
            seed=sample_seeds(sampling.seed, [prompt.key], sample + 1, who=who)[-1],
            decode=self._decode,
            dial=self._dial,
        )
        ids: list[int] = []
        said = text = ""
        while True:
            try:
                ids.append(next(tokens))
            except StopIteration as end:
                ended = end.value in ("stop_token", "stop_string")
                break
            text = completion_text(ids, self._decode, stops, sampling.stop)
            sure = _sure(text, sampling.stop)
            if len(sure) > len(said) and sure.startswith(said):
                yield sure[len(said) :]
                said = sure
        if text.startswith(said) and len(text) > len(said):
            yield text[len(said) :]
        return Spoken(self.name, text, ended)


def _sure(text: str, stop: tuple[str, ...]) -> str:
    """Return the part of the text that no later token can change: no half character, no half stop text."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = max((n for entry in stop for n in range(1, len(entry)) if text.endswith(entry[:n])), default=0)
    return text[: len(text) - held]


class ServerVoice:
    """A model on an OpenAI-compatible server (`hosted.Hosted`)."""

    chat = True

    def __init__(self, server: Any) -> None:
        self.name = str(server.model)
        self._server = server

    def answer(self, prompt: Prompt, sampling: Sampling, sample: int) -> Saying:
        """Answer a prompt.

        Raises:
            ResourceError: the server does not.

        """
        seed = sample_seeds(sampling.seed, [prompt.key], sample + 1, who=self.name)[-1]
        try:
            reply = yield from self._server.stream(prompt, sampling, seed)
        except self._server.failure as error:
            raise ResourceError(self._server.explain(error)) from error
        return Spoken(self.name, reply.text, reply.stopped_by != "limit")
