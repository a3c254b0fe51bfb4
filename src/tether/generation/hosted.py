"""Completions by a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted API."""

import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from tether.generation.client import Client, Endpoint, Server, ServerFailure
from tether.generation.completions import StoppedBy
from tether.generation.engines import Sampling
from tether.generation.prompts import Prompt


@dataclass(frozen=True)
class Reply:
    """One completion from a server."""

    text: str
    stopped_by: StoppedBy
    tokens: int | None
    """What the server counted, or None."""


class Hosted:
    """One model of one server; safe to share between threads."""

    failure = ServerFailure
    """What its methods raise."""

    def __init__(self, server: Server, model: str) -> None:
        self.url, self.model = server.url, model
        self.retries = 0
        """Requests that were sent again."""
        self._key_variable = server.key_variable
        self._client = _Counting(server, self)

    def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Reply:
        """Answer a prompt: a chat as a chat, a text by continuing it.

        Raises:
            ServerFailure: refused, or no completion in all attempts.

        """
        endpoint, body = self._body(prompt, sampling, seed)
        return self._client.request(
            endpoint, body, lambda reply: _reply(reply, sampling.stop), optional=_optional(sampling)
        )

    def stream(self, prompt: Prompt, sampling: Sampling, seed: int) -> Generator[str, None, Reply]:
        """Yield the answer piece by piece and return the whole of it.

        Raises:
            ServerFailure: no completion; also half-way through.

        """
        endpoint, body = self._body(prompt, sampling, seed)
        text, last = "", dict[str, Any]()
        for choice in self._client.stream(endpoint, body, optional=_optional(sampling)):
            piece = choice["delta"].get("content") if "delta" in choice else choice.get("text")
            last = choice
            if isinstance(piece, str) and piece:
                text += piece
                yield piece
        _check_end(last.get("finish_reason"))
        return Reply(_cut(text, sampling.stop), _stopped(last, sampling.stop), None)

    def explain(self, failure: ServerFailure) -> str:
        """Return what went wrong and, where it is known, what to do."""
        hints = {
            401: f": is the key in {self._key_variable} right?",
            404: f": is there a model {self.model!r} at this URL?",
        }
        return f"{self.url}: {failure}{hints.get(failure.status, '')}"

    def _body(self, prompt: Prompt, sampling: Sampling, seed: int) -> tuple[Endpoint, dict[str, Any]]:
        """Return the endpoint and what is sent: filters and stop texts only when asked for."""
        body: dict[str, Any] = {
            "model": self.model,
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


class _Counting(Client):
    def __init__(self, server: Server, owner: Hosted) -> None:
        super().__init__(server)
        self._owner, self._lock = owner, threading.Lock()

    def counted(self, *, again: bool) -> None:
        with self._lock:
            self._owner.retries += int(again)


def _optional(sampling: Sampling) -> list[str]:
    """Return the fields that say nothing a server would not do without them."""
    plain = [name for name in ("temperature", "top_p") if getattr(sampling, name) == 1]
    return ["seed", *plain]


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
