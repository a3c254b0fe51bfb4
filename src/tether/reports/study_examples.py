"""Texts a study page shows: the same prompt answered under every strength."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tether.records.rows import Content
from tether.reports.tables import number
from tether.reports.verbatim import Turn, turns, verbatim

TEXT = 1_200
"""Characters of one answer that the explorer shows."""
FIRST = 4
"""Prompts shown before a reader asks for more."""


@dataclass(frozen=True)
class Answered:
    """One model's answer to a prompt; `setting` is `start` for the start model."""

    setting: str
    text: str
    score: float | None
    kl: float | None
    tokens: int
    cut: bool = False


@dataclass(frozen=True)
class Asked:
    """A held-out prompt and the answers to it."""

    prompt: Content
    answers: tuple[Answered, ...]


@dataclass(frozen=True)
class ShownAnswer:
    """An answer ready for the page."""

    setting: str
    text: Markup
    facts: str


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt ready for the page; `late` ones are hidden until the reader asks for them."""

    prompt: list[Turn]
    answers: list[ShownAnswer]
    late: bool


def explorer(asked: Sequence[Asked], score: str) -> list[ShownPrompt]:
    """Return prompts and answers ready for the page, in the order of the study's prompts."""
    return [
        ShownPrompt(
            turns(one.prompt),
            [ShownAnswer(a.setting, verbatim(a.text, TEXT), _facts(a, score)) for a in one.answers],
            index >= FIRST,
        )
        for index, one in enumerate(asked)
    ]


def _facts(answer: Answered, score: str) -> str:
    parts = [f"{score} {number(answer.score, 2)}" if answer.score is not None else ""]
    parts.append(f"KL {number(answer.kl, 1)}" if answer.kl is not None and answer.setting != "start" else "")
    parts.append(f"{answer.tokens} tokens{', cut' if answer.cut else ''}")
    return " · ".join(part for part in parts if part)
