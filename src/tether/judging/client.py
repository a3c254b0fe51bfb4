"""Questions to an OpenAI-compatible server: bounded tries, a deadline per try, and keys that go nowhere else.

The key is read from one environment variable. It is in no name, identity, message or file; nor is anything a
server says in an error, which may repeat the key.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from tether.errors import UsageError
from tether.judging.judges import Usage

TRANSIENT = frozenset({408, 409, 425, 429})
"""Status codes worth another try; so is every 5xx."""
LONGEST_WAIT = 60.0
LARGEST_REPLY = 16_000_000
OPTIONAL = ("logprobs", "top_logprobs", "temperature", "top_p")
"""Fields left out, for good, when a server refuses them by name."""
RENAMED = {"max_tokens": "max_completion_tokens"}
"""Fields some servers know by another name."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach a server and how long to insist."""

    url: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    """Seconds one try may take, however slowly the answer drips in."""
    attempts: int = 5
    workers: int = 8
    """Questions asked at the same time."""
    wait: float = 0.5
    """Seconds before the second try; they double from then on, with a random half."""
    sleep: Callable[[float], object] | None = None
    """Waits in place of the client's own pause."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url!r} is no address of a server; write http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            # The address is part of the judge's name, which is written into every verdict.
            raise UsageError(
                f"the address of {parts.hostname} carries a user, key or query; "
                "put the key into an environment variable"
            )
        if self.timeout <= 0 or self.attempts < 1 or self.workers < 1:
            raise UsageError("timeout above 0, attempts and workers of at least 1 are needed")


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice of a reply, as the server sent it; None with the reason where there is none."""

    choice: Mapping[str, Any] | None
    error: str = ""


class Client:
    """Asks one server; safe to use from several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.usage = Usage()
        self._refused: dict[str, str] = {}
        self._stopped = threading.Event()
        self._client = openai.OpenAI(
            base_url=server.url,
            api_key=os.environ.get(server.key_variable) or "none",
            organization="",
            project="",
            timeout=server.timeout,
            max_retries=0,
        )

    def stop(self) -> None:
        """End all waiting: no question is tried again."""
        self._stopped.set()

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a chat request; what fails for a passing reason is tried again."""
        problem, tries = "", 0
        while tries < self.server.attempts and not self._stopped.is_set():
            request = self._accepted(body)
            tries += 1
            self.usage.count(requests=1, retries=int(tries > 1))
            wait: float | None = None
            try:
                reply = self._once(request)
            except openai.APIStatusError as error:
                status = error.status_code
                if status in (400, 422) and self._learn(error, request):
                    tries -= 1
                    continue
                problem, wait = f"HTTP {status}", _seconds(error.response.headers.get("retry-after"))
                if status not in TRANSIENT and status < 500:
                    break
            except (openai.APITimeoutError, TimeoutError):
                problem = "timeout"
            except (openai.APIError, ConnectionError, ValueError) as error:
                problem = f"unreadable answer or no connection ({type(error).__name__})"
            else:
                self.usage.count(reply=reply)
                return _first_choice(reply)
            if tries < self.server.attempts:
                self._pause(tries, wait)
        return Answer(None, f"{problem or 'stopped'} after {tries} attempts")

    def _once(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        deadline = time.monotonic() + self.server.timeout
        with self._client.chat.completions.with_streaming_response.create(**request) as response:
            reply = json.loads(_read(response.iter_bytes(), deadline))
        if not isinstance(reply, dict):
            raise ValueError("the answer is no JSON object")
        return reply

    def _accepted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request in the words this server has not refused."""
        request = {self._refused.get(name, name): value for name, value in body.items()}
        request.pop("", None)
        return request

    def _learn(self, error: openai.APIStatusError, request: Mapping[str, Any]) -> bool:
        """Note the field a server refuses by name; return whether the request can do without it."""
        text = str(error.message)
        for name in [*RENAMED, *OPTIONAL]:
            if name in request and re.search(rf"\b{name}\b", text):
                if name == "logprobs":
                    self._refused["top_logprobs"] = ""
                self._refused[name] = RENAMED.get(name, "")
                return True
        return False

    def _pause(self, tries: int, wanted: float | None) -> None:
        seconds = self.server.wait * 2 ** (tries - 1) * (0.5 + random.random() / 2)
        seconds = min(max(seconds, wanted or 0.0), LONGEST_WAIT)
        if self.server.sleep is not None:
            self.server.sleep(seconds)
        else:
            self._stopped.wait(seconds)


def _read(pieces: Iterable[bytes], deadline: float) -> bytes:
    """Return the whole body by the deadline: the client's own timeout begins anew with every byte."""
    content = bytearray()
    try:
        for piece in pieces:
            content += piece
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(content) > LARGEST_REPLY:
                raise ConnectionError("an endless answer")
    except (TimeoutError, ConnectionError):
        raise
    except Exception as error:  # a broken body comes as the error of whatever HTTP library the client uses
        if "Timeout" in type(error).__name__:
            raise TimeoutError from error
        raise ConnectionError(type(error).__name__) from error
    return bytes(content)


def _first_choice(reply: Mapping[str, Any]) -> Answer:
    choices = reply.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return Answer(choices[0])
    return Answer(None, "unparsed: no choice in the reply")


def text_of(choice: Mapping[str, Any]) -> str:
    """Return what a choice says: its text, or the arguments of the function it calls."""
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return ""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], Mapping):
        function = calls[0].get("function")
        return str(function.get("arguments") or "") if isinstance(function, Mapping) else ""
    content = message.get("content")
    return content if isinstance(content, str) else ""


def token_logprobs(choice: Mapping[str, Any], position: int) -> dict[str, float] | None:
    """Return the log-probabilities of the likeliest tokens at a place of the answer; None where not given."""
    try:
        entries = choice["logprobs"]["content"][position]["top_logprobs"]
        found = {str(entry["token"]): float(entry["logprob"]) for entry in entries}
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return found if found and all(value <= 1e-6 for value in found.values()) else None


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value or ""))
    except ValueError:
        return None
