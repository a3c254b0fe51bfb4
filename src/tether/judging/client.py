"""Questions to an OpenAI-compatible server, with what they cost; `generation.client` sends them.

Nothing a server says in an error is kept, because it may repeat the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.generation import client
from tether.generation.client import Server, ServerFailure
from tether.judging.judges import Usage

OPTIONAL = ("logprobs", "top_logprobs", "temperature", "top_p")
"""Fields left out, for good, when a server refuses them by name."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice of a reply, as the server sent it; None with the reason where there is none."""

    choice: Mapping[str, Any] | None
    error: str = ""


class Client(client.Client):
    """Asks one server; safe to use from several threads."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.usage = Usage()

    def counted(self, *, again: bool) -> None:
        """Count a request."""
        self.usage.count(requests=1, retries=int(again))

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a chat request; what fails for a passing reason is tried again."""
        try:
            reply = self.request("chat", body, lambda reply: reply, optional=OPTIONAL)
        except ServerFailure as failure:
            return Answer(None, failure.problem)
        self.usage.count(reply=reply)
        return _first_choice(reply)


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
