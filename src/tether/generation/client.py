"""One OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, a hosted API.

Every request is tried a bounded number of times, with growing waits. The key comes from an environment
variable, goes into the request's header and nowhere else: not into messages, files or names.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
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
REFUSABLE = {"max_tokens": "max_completion_tokens", "seed": "", "top_p": ""}
"""Fields some servers refuse by name: sent under another name from then on, or left out."""
LARGEST_REPLY = 16_000_000
"""Bytes."""
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

    failure = ServerFailure
    """What its methods raise."""

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
        self.url, self.model, self.attempts = url, model, attempts
        self.timeout, self.wait = timeout, wait
        self.retries = 0
        """Requests that were sent again."""
        self._sleep = sleep
        self._secret = os.environ.get(key) or ""
        self._key_name = key
        self._refused: dict[str, str] = {}
        self._client = openai.OpenAI(
            base_url=url,
            api_key=self._secret or "none",
            organization="",
            project="",
            timeout=timeout,
            max_retries=0,
        )

    def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Reply:
        """Answer a prompt: a chat as a chat, a text by continuing it.

        Raises:
            ServerFailure: refused, or no completion in `attempts` tries.

        """
        endpoint, body = _body(prompt, sampling, seed)
        return self._tried(lambda: _reply(self._once(endpoint, body), sampling.stop))

    def stream(self, prompt: Prompt, sampling: Sampling, seed: int) -> Generator[str, None, Reply]:
        """Yield the answer piece by piece and return the whole of it.

        Raises:
            ServerFailure: no completion; also half-way through.

        """
        endpoint, body = _body(prompt, sampling, seed)
        create: Any = self._client.chat.completions if endpoint == "chat" else self._client.completions
        pieces = self._tried(lambda: create.create(model=self.model, stream=True, **self._accepted(body)))
        text, reason, last = "", None, dict[str, Any]()
        try:
            for piece in pieces:
                if not piece.choices:
                    continue
                last = piece.choices[0].to_dict()
                said = (last["delta"].get("content") if "delta" in last else last["text"]) or ""
                text += said
                reason = last.get("finish_reason") or reason
                if said:
                    yield said
        except Exception as error:  # the HTTP library's errors, and whatever half an answer leads to
            raise ServerFailure(f"the answer broke off ({type(error).__name__})") from error
        finally:
            pieces.close()
        _check_end(reason)
        return Reply(_cut(text, sampling.stop), _stopped(last, sampling.stop), None)

    def _tried(self, request: Callable[[], Answer]) -> Answer:
        """Make a request; a ValueError it raises on an unreadable reply is tried again like a 500."""
        problem, tries = "", 0
        while tries < self.attempts:
            tries += 1
            self.retries += int(tries > 1)
            pause = 0.0
            try:
                return request()
            except openai.APIStatusError as error:
                code = error.status_code
                if code in (400, 422) and self._learn(error):
                    tries -= 1
                    continue
                problem, pause = f"HTTP {code}{self._words(error)}", _asked_pause(error)
                if code not in TRANSIENT and code < 500:
                    raise ServerFailure(self._hint(code, problem), hopeless=code in HOPELESS) from error
            except (openai.APITimeoutError, TimeoutError):
                problem = "no answer in time"
            except openai.APIConnectionError:
                problem = "no connection"
            except (openai.APIError, ValueError) as error:
                problem = f"an unreadable answer ({type(error).__name__})"
            if tries < self.attempts:
                self._sleep(max(self._delay(tries), pause))
        raise ServerFailure(f"{problem}, {tries} times")

    def _once(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        create: Any = self._client.chat.completions if endpoint == "chat" else self._client.completions
        deadline, content = time.monotonic() + self.timeout, bytearray()
        # Piece by piece: the client's own timeout begins anew with every byte of a slow answer.
        with create.with_streaming_response.create(model=self.model, **self._accepted(body)) as response:
            for piece in _pieces(response):
                content += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(content) > LARGEST_REPLY:
                    raise ValueError("the answer is too large")
        reply = json.loads(content)
        if not isinstance(reply, dict):
            raise ValueError("the answer is no JSON object")
        return reply

    def _accepted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request in the words this server has not refused."""
        request = {self._refused.get(name, name): value for name, value in body.items()}
        request.pop("", None)
        return request

    def _learn(self, error: openai.APIStatusError) -> bool:
        """Note a field the server refuses by name; return whether the request can do without it."""
        text = str(error.message)
        for name, other in REFUSABLE.items():
            if name not in self._refused and re.search(rf"\b{name}\b", text):
                self._refused[name] = other
                return True
        return False

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


def _pieces(response: Any) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except Exception as error:  # openai lets the errors of its HTTP library, whichever it is, through
        raise ValueError(f"the answer broke off: {type(error).__name__}") from error


def _body(prompt: Prompt, sampling: Sampling, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the endpoint and what is sent: what differs from plain sampling is sent only when asked for."""
    body: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # 31 bits: llama.cpp and others keep seeds in a signed 32-bit number.
        "seed": seed % 2**31,
    }
    extra: dict[str, Any] = {
        name: getattr(sampling, name) for name in ("top_k", "min_p") if getattr(sampling, name)
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if isinstance(prompt.content, str):
        return "text", body | {"prompt": prompt.content, "extra_body": extra}
    if prompt.template_arguments:
        extra["chat_template_kwargs"] = dict(prompt.template_arguments)
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    return "chat", body | {"messages": list(prompt.content), "extra_body": extra}


def _reply(answer: Mapping[str, Any], stop: tuple[str, ...]) -> Reply:
    """Read an answer that may be of any shape: a server is not trusted to follow the protocol."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("no choice in the reply") from error
    _check_end(choice.get("finish_reason"))
    if not isinstance(text, str):
        raise ServerFailure("the server gave no text")
    usage = answer.get("usage")
    counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(_cut(text, stop), _stopped(choice, stop), counted if isinstance(counted, int) else None)


def _check_end(reason: object) -> None:
    if reason not in ("stop", "length"):
        raise ServerFailure(f"the server ended with {reason!r}, which is no completion")


def _cut(text: str, stop: tuple[str, ...]) -> str:
    """Cut before the first stop text: some servers leave it in."""
    return text[: min((place for entry in stop if (place := text.find(entry)) >= 0), default=len(text))]


def _stopped(choice: Mapping[str, Any], stop: tuple[str, ...]) -> StoppedBy:
    if choice.get("finish_reason") == "length":
        return "limit"
    if not stop:
        return "stop_token"
    # vLLM and SGLang say which: a text, a token id, or null for the model's own end.
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            return "stop_string" if isinstance(choice[name], str) else "stop_token"
    return "stop"
