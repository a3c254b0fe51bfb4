"""One OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, a hosted API.

Every request is tried a bounded number of times, with growing waits. The key comes from an environment
variable, goes into the request's header and nowhere else: not into messages, files or names.
"""

import json
import os
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import openai

from tether.generation.completions import StoppedBy
from tether.generation.engines import Sampling
from tether.generation.prompts import Prompt

Answer = TypeVar("Answer")

TRANSIENT = frozenset({408, 409, 425, 429})
"""Status codes worth another try; so is every 5xx."""
HOPELESS = frozenset({401, 403, 404})
"""Status codes that every other request would meet too: no key, no right, no such model or path."""
LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more waiting (Retry-After) is not waited for longer."""
SHOWN = 160
"""Characters of a server's own words in a message."""


class ServerFailure(Exception):
    """A request failed for good; `hopeless` where every other one would."""

    def __init__(self, text: str, *, hopeless: bool = False) -> None:
        super().__init__(text)
        self.hopeless = hopeless


@dataclass(frozen=True)
class Reply:
    """One completion from a server."""

    text: str
    stopped_by: StoppedBy
    tokens: int | None
    """What the server counted, or None."""


class Server:
    """Sends requests to one model of one server; safe to share between threads."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        attempts: int = 5,
        wait: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`key` names the environment variable, `timeout` is seconds per request, `wait` the first pause."""
        self.url, self.model, self.attempts, self.wait = url, model, attempts, wait
        self.retries = 0
        """Requests that were sent again."""
        self._sleep = sleep
        self._secret = os.environ.get(key) or ""
        self._key_name = key
        self._limit_name = "max_tokens"
        self._client = openai.OpenAI(
            base_url=url, api_key=self._secret or "none", timeout=timeout, max_retries=0
        )

    def call(self, request: Callable[[openai.OpenAI], Answer]) -> Answer:
        """Make a request; a ValueError it raises on an unreadable reply is tried again like a 500.

        Raises:
            ServerFailure: refused, or no good answer in `attempts` tries.

        """
        problem, pause = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                self.retries += 1
                self._sleep(max(self._delay(attempt), pause))
            try:
                return request(self._client)
            except openai.APIStatusError as error:
                code = error.status_code
                problem, pause = f"HTTP {code}{self._words(error)}", _asked_pause(error)
                if code not in TRANSIENT and code < 500:
                    raise ServerFailure(self._hint(code, problem), hopeless=code in HOPELESS) from error
            except openai.APITimeoutError:
                problem, pause = "no answer in time", 0.0
            except openai.APIConnectionError:
                problem, pause = "no connection", 0.0
            except (openai.APIError, json.JSONDecodeError, ValueError) as error:
                problem, pause = f"an unreadable answer ({type(error).__name__})", 0.0
        raise ServerFailure(f"{problem}, {self.attempts} times")

    def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Reply:
        """Answer a prompt: a chat as a chat, a text by continuing it.

        Raises:
            ServerFailure: no completion.

        """
        return self.call(lambda client: _reply(self._create(client, prompt, sampling, seed), sampling.stop))

    def stream(self, prompt: Prompt, sampling: Sampling, seed: int) -> Generator[str, None, Reply]:
        """Yield the answer piece by piece and return the whole of it.

        Raises:
            ServerFailure: no completion; also half-way through.

        """
        pieces = self.call(lambda client: self._create(client, prompt, sampling, seed, stream=True))
        text, reason, choice = "", None, None
        try:
            for piece in pieces:
                if not getattr(piece, "choices", None):
                    continue
                choice = piece.choices[0]
                delta = getattr(choice, "delta", None)
                said = (choice.text if delta is None else delta.content) or ""
                text += said
                reason = getattr(choice, "finish_reason", None) or reason
                if said:
                    yield said
        except (openai.APIError, json.JSONDecodeError, ValueError, AttributeError, TypeError) as error:
            raise ServerFailure(f"the answer broke off ({type(error).__name__})") from error
        finally:
            pieces.close()
        if reason not in ("stop", "length"):
            raise ServerFailure(f"the server ended with {reason!r}, which is no completion")
        return Reply(_cut(text, sampling.stop), _stopped(choice, reason, sampling.stop), None)

    def _create(
        self, client: openai.OpenAI, prompt: Prompt, sampling: Sampling, seed: int, **more: Any
    ) -> Any:
        extra: dict[str, Any] = {}
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if sampling.min_p:
            extra["min_p"] = sampling.min_p
        options: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # 31 bits: llama.cpp and others keep seeds in a signed 32-bit number.
            "seed": seed % 2**31,
            **more,
        }
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if isinstance(prompt.content, str):
            options |= {"prompt": prompt.content, "max_tokens": sampling.max_new_tokens, "extra_body": extra}
            return client.completions.create(**options)
        if prompt.template_arguments:
            extra["chat_template_kwargs"] = dict(prompt.template_arguments)
        if prompt.tools:
            options["tools"] = list(prompt.tools)
        options |= {"messages": list(prompt.content), "extra_body": extra}
        try:
            return client.chat.completions.create(**options, **{self._limit_name: sampling.max_new_tokens})
        except openai.BadRequestError as error:
            # OpenAI's newer models take the limit under another name only.
            if self._limit_name == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                raise
            self._limit_name = "max_completion_tokens"
            return client.chat.completions.create(**options, **{self._limit_name: sampling.max_new_tokens})

    def _delay(self, attempt: int) -> float:
        return min(self.wait * 2 ** (attempt - 1), LONGEST_WAIT) * (0.5 + random.random() / 2)

    def _words(self, error: openai.APIStatusError) -> str:
        """Return the server's own words, short, on one line, without the key."""
        body = error.body
        text = str(body.get("message") or "") if isinstance(body, dict) else ""
        if self._secret:
            text = text.replace(self._secret, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return f" ({text[:SHOWN]}{'...' if len(text) > SHOWN else ''})" if text else ""

    def _hint(self, code: int, problem: str) -> str:
        if code == 401:
            known = "is not accepted" if self._secret else "is not set"
            return f"{problem}: the key in {self._key_name} {known}"
        return f"{problem}: is there a model {self.model!r} at this URL?" if code == 404 else problem


def _asked_pause(error: openai.APIStatusError) -> float:
    try:
        return min(max(float(error.response.headers.get("retry-after", 0)), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0


def _reply(answer: Any, stop: tuple[str, ...]) -> Reply:
    """Read an answer that may be of any shape: a server is not trusted to follow the protocol."""
    try:
        choice = answer.choices[0]
        message = getattr(choice, "message", None)
        text = choice.text if message is None else message.content
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError("no choice in the reply") from error
    reason = getattr(choice, "finish_reason", None)
    if reason not in ("stop", "length"):
        raise ServerFailure(f"the server ended with {reason!r}, which is no completion")
    if not isinstance(text, str):
        raise ServerFailure("the server gave no text")
    counted = getattr(getattr(answer, "usage", None), "completion_tokens", None)
    return Reply(
        _cut(text, stop), _stopped(choice, reason, stop), counted if isinstance(counted, int) else None
    )


def _cut(text: str, stop: tuple[str, ...]) -> str:
    """Cut before the first stop text: some servers leave it in."""
    return text[: min((place for entry in stop if (place := text.find(entry)) >= 0), default=len(text))]


def _stopped(choice: Any, reason: str, stop: tuple[str, ...]) -> StoppedBy:
    if reason == "length":
        return "limit"
    if not stop:
        return "stop_token"
    # vLLM and SGLang say which: a text, a token id, or null for the model's own end.
    known = getattr(choice, "stop_reason", getattr(choice, "matched_stop", ""))
    if known == "":
        return "stop"
    return "stop_string" if isinstance(known, str) else "stop_token"
