"""Texts a study page shows: the same prompt under every strength, and answers coloured token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tether.records.rows import Content
from tether.reports.study_figures import shown
from tether.reports.tables import number
from tether.reports.verbatim import Turn, turns, verbatim

TEXT = 1_200
"""Characters of one answer that the explorer shows."""
FIRST = 4
"""Prompts shown before a reader asks for more."""
SHADES = ((-5.0, "f3"), (-2.0, "f2"), (-0.5, "f1"), (0.5, ""), (2.0, "r1"), (5.0, "r2"))
"""Upper end of each shade of a token's log-ratio, nats; beyond the last: r3."""


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
class Picture:
    """A held-out answer under every strength: (setting, [(token, log policy - log start in nats)])."""

    prompt: Content
    role: str
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    left_out: int = 0
    """Tokens beyond those shown."""


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


def coloured(picture: Picture) -> list[tuple[str, Markup, str]]:
    """Return (setting, tokens as coloured HTML, sum of log-ratios) per row of a picture."""
    return [
        (
            setting,
            Markup("").join(_token(text, value) for text, value in row),
            number(sum(value for _, value in row), 1, signed=True),
        )
        for setting, row in picture.rows
    ]


def _token(text: str, value: float) -> Markup:
    shade = next((name for limit, name in SHADES if value < limit), "r3")
    told = number(value, 2, signed=True)
    return Markup('<span class="tok {}" data-v="{}" title="{} nats">{}</span>').format(
        shade, told, told, _spaced(text)
    )


def _spaced(text: str) -> str:
    """Keep ordinary spaces as they are and make other white space visible."""
    return shown(text) if not text.strip() and text != " " else text.replace("\n", "⏎")


def _facts(answer: Answered, score: str) -> str:
    parts = [f"{score} {number(answer.score, 2)}" if answer.score is not None else ""]
    parts.append(f"KL {number(answer.kl, 1)}" if answer.kl is not None and answer.setting != "start" else "")
    parts.append(f"{answer.tokens} tokens{', cut' if answer.cut else ''}")
    return " · ".join(part for part in parts if part)
