"""Requests to an OpenAI-compatible server: bounded tries, a deadline per try, and keys that go nowhere else.

The key is read from one environment variable and goes into the request's header: it is in no name, message or
file. `Client` sends requests; `hosted` and the judges say what is in them.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import openai

from tether.config.generate import check_address
from tether.errors import UsageError

Read = TypeVar("Read")
Endpoint = Literal["chat", "text"]

TRANSIENT = frozenset({408, 409, 425, 429})
"""Status codes worth another try; so is every 5xx."""
HOPELESS = frozenset({401, 403, 404})
"""Status codes that every other request would meet too: no key, no right, no such model or path."""
RENAMED = {"max_tokens": "max_completion_tokens"}
"""Fields some servers know by another name."""
LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more waiting (Retry-After) is not waited for longer."""
LARGEST_REPLY = 16_000_000
"""Bytes."""
SHOWN = 160
"""Characters of a server's own words in a message."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach a server and how long to insist."""

    url: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    """Seconds one try may take, however slowly the answer drips in."""
    attempts: int = 5
    workers: int = 8
    """Requests at the same time."""
    wait: float = 0.5
    """Seconds before the second try; they double from then on, with a random half."""
    sleep: Callable[[float], object] | None = None
    """Waits in place of the client's own pause."""

    def __post_init__(self) -> None:
        # The address becomes part of names and files.
        try:
            check_address(self.url)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if self.timeout <= 0 or self.attempts < 1 or self.workers < 1:
            raise UsageError("timeout above 0, attempts and workers of at least 1 are needed")


class ServerFailure(Exception):
    """A request failed for good."""

    def __init__(self, problem: str, *, tries: int | None = None, words: str = "", status: int = 0) -> None:
        """`problem` is ours to say, `words` the server's own."""
        after = "" if tries is None else f" after {tries} attempts"
        super().__init__(f"{problem}{f' ({words})' if words else ''}{after}")
        self.problem = f"{problem}{after}"
        """Without the server's words, which may repeat a key."""
        self.status = status
        self.hopeless = status in HOPELESS
        """Whether every other request would fail too."""


class Client:
    """Sends requests to one server; safe to use from several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._refused: set[str] = set()
        self._stopped = threading.Event()
        self._secret = os.environ.get(server.key_variable) or ""
        self._client = openai.OpenAI(
            base_url=server.url,
            api_key=self._secret or "none",
            organization="",
            project="",
            timeout=server.timeout,
            max_retries=0,
        )

    def stop(self) -> None:
        """End all waiting: nothing is tried again."""
        self._stopped.set()

    def counted(self, *, again: bool) -> None:
        """Be told of every request, and whether it was sent before."""

    def request(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Read],
        *,
        optional: Sequence[str] = (),
    ) -> Read:
        """Return what `read` makes of the reply; a ValueError it raises is tried again like a 500.

        `optional` fields are left out, from then on, when the server refuses them by name.

        Raises:
            ServerFailure: refused, or no good reply in all attempts.

        """
        return self._tried(body, optional, lambda request: read(self._once(endpoint, request)))

    def stream(
        self, endpoint: Endpoint, body: Mapping[str, Any], *, optional: Sequence[str] = ()
    ) -> Generator[dict[str, Any]]:
        """Yield the first choice of every event of a streamed reply; only its opening is tried again.

        Raises:
            ServerFailure: no reply, or one that breaks off.

        """
        create = self._create(endpoint)
        events = self._tried(body, optional, lambda request: create.create(stream=True, **request))
        try:
            for event in events:
                if event.choices:
                    yield event.choices[0].to_dict()
        except Exception as error:  # the HTTP library's errors, and whatever half an answer leads to
            raise ServerFailure(f"the answer broke off ({type(error).__name__})") from error
        finally:
            events.close()

    def _create(self, endpoint: Endpoint) -> Any:
        return self._client.chat.completions if endpoint == "chat" else self._client.completions

    def _tried(
        self, body: Mapping[str, Any], optional: Sequence[str], send: Callable[[dict[str, Any]], Read]
    ) -> Read:
        problem, words, tries = "", "", 0
        while tries < self.server.attempts and not self._stopped.is_set():
            request = self._accepted(body, optional)
            tries += 1
            self.counted(again=tries > 1)
            wait: float | None = None
            try:
                return send(request)
            except openai.APIStatusError as error:
                status = error.status_code
                if status in (400, 422) and self._learn(error, request, optional):
                    tries -= 1
                    continue
                problem, words = f"HTTP {status}", self._words(error)
                wait = _seconds(error.response.headers.get("retry-after"))
                if status not in TRANSIENT and status < 500:
                    raise ServerFailure(problem, tries=tries, words=words, status=status) from error
            except (openai.APITimeoutError, TimeoutError):
                problem, words = "timeout", ""
            except (openai.APIError, ConnectionError, ValueError) as error:
                problem, words = f"unreadable answer or no connection ({type(error).__name__})", ""
            if tries < self.server.attempts:
                self._pause(tries, wait)
        raise ServerFailure(problem or "stopped", tries=tries, words=words)

    def _once(self, endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + self.server.timeout
        with self._create(endpoint).with_streaming_response.create(**request) as response:
            reply = json.loads(_whole_body(response.iter_bytes(), deadline))
        if not isinstance(reply, dict):
            raise ValueError("the answer is no JSON object")
        return reply

    def _accepted(self, body: Mapping[str, Any], optional: Sequence[str]) -> dict[str, Any]:
        """Return the request in the words this server has not refused."""
        request = {
            RENAMED[name] if name in self._refused and name in RENAMED else name: value
            for name, value in body.items()
        }
        for name in self._refused.intersection(optional):
            request.pop(name, None)
        return request

    def _learn(
        self, error: openai.APIStatusError, request: Mapping[str, Any], optional: Sequence[str]
    ) -> bool:
        """Note the field a server refuses by name; return whether the request can do without it."""
        text = str(error.message)
        for name in [*RENAMED, *optional]:
            if name in request and re.search(rf"\b{name}\b", text):
                self._refused |= {name, "top_logprobs"} if name == "logprobs" else {name}
                return True
        return False

    def _pause(self, tries: int, wanted: float | None) -> None:
        seconds = self.server.wait * 2 ** (tries - 1) * (0.5 + random.random() / 2)
        seconds = min(max(seconds, wanted or 0.0), LONGEST_WAIT)
        if self.server.sleep is not None:
            self.server.sleep(seconds)
        else:
            self._stopped.wait(seconds)

    def _words(self, error: openai.APIStatusError) -> str:
        """Return the server's own words, short, on one line, without the key."""
        body = error.body
        text = str(body.get("message") or "") if isinstance(body, dict) else ""
        if self._secret:
            text = text.replace(self._secret, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text[:SHOWN] + ("..." if len(text) > SHOWN else "")


def _whole_body(pieces: Iterator[bytes], deadline: float) -> bytes:
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


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value or ""))
    except ValueError:
        return None
