"""A conversation: what was asked, the answers it got, which of them goes on; and a preference row of two."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tether.errors import UsageError
from tether.generation.prompts import Prompt
from tether.records.rows import Content, Message


@dataclass(frozen=True)
class Spoken:
    """One answer."""

    model: str
    text: str
    ended: bool
    """Came to its own end; false: cut at a limit, or stopped by the user."""


@dataclass
class Turn:
    """One question and its answers; the picked one is what the conversation goes on from."""

    asked: str
    answers: list[Spoken] = field(default_factory=list[Spoken])
    picked: int = 0


class Conversation:
    """Turns so far. With `chat` they are messages for a template, else one text that is continued."""

    def __init__(self, *, chat: bool, system: str | None = None) -> None:
        self.chat = chat
        self.system = system
        self.turns: list[Turn] = []

    def ask(self, text: str) -> Turn:
        """Begin a turn."""
        self.turns.append(Turn(text))
        return self.turns[-1]

    def prompt(self) -> Prompt:
        """Return what the last turn's answers answer."""
        return Prompt("chat", self._content())

    def _content(self) -> Content:
        *before, last = self.turns
        if not self.chat:
            told = "".join(f"{turn.asked}{_picked(turn)}\n" for turn in before)
            return "".join([f"{self.system}\n" if self.system else "", told, last.asked])
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in before:
            messages.append({"role": "user", "content": turn.asked})
            messages.append({"role": "assistant", "content": _picked(turn)})
        return (*messages, {"role": "user", "content": last.asked})

    def undo(self) -> str:
        """Take the last turn back and return what was asked.

        Raises:
            UsageError: there is none.

        """
        if not self.turns:
            raise UsageError("nothing to undo")
        return self.turns.pop().asked

    def reset(self) -> None:
        """Begin anew; the system message stays."""
        self.turns.clear()

    def pick(self, number: int) -> None:
        """Go on from this answer of the last turn (from 1).

        Raises:
            UsageError: it has no such answer.

        """
        self._answer(number)
        self.turns[-1].picked = number - 1

    def preference(self, better: int, worse: int | None = None) -> dict[str, Any]:
        """Return the last turn's answer `better` as chosen over `worse` (from 1; the other of two).

        Raises:
            UsageError: no such answers, equal ones, or one that did not come to its end: training would
                teach the model to stop there.

        """
        if worse is None:
            worse = self._other(better)
        chosen, rejected = self._answer(better), self._answer(worse)
        if chosen.text == rejected.text:
            raise UsageError(f"answers {better} and {worse} are the same text: neither is better")
        for number, answer in ((better, chosen), (worse, rejected)):
            if not answer.ended:
                raise UsageError(
                    f"answer {number} was cut, and a row would teach its cut as its end; raise "
                    "/max_new_tokens, then /again"
                )

        def said(answer: Spoken) -> Any:
            return [{"role": "assistant", "content": answer.text}] if self.chat else answer.text

        content = self._content()
        return {
            "prompt": content if isinstance(content, str) else list(content),
            "chosen": said(chosen),
            "rejected": said(rejected),
            "chosen_model": chosen.model,
            "rejected_model": rejected.model,
        }

    def _other(self, better: int) -> int:
        count = len(self.turns[-1].answers) if self.turns else 0
        if count < 2:
            raise UsageError("a preference needs two answers: /again gives another")
        if count > 2:
            raise UsageError(f"better than which of {count} answers? /save {better} over N")
        return 3 - better

    def _answer(self, number: int) -> Spoken:
        answers: Sequence[Spoken] = self.turns[-1].answers if self.turns else []
        if not 1 <= number <= len(answers):
            raise UsageError(f"there is no answer {number} here; the last turn has {len(answers)}")
        return answers[number - 1]


def _picked(turn: Turn) -> str:
    return turn.answers[turn.picked].text if turn.answers else ""
