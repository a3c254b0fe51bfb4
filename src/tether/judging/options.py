"""What a user may say about answering, asking and deciding; each field is an option of a command."""

from dataclasses import dataclass
from pathlib import Path

from tether.records.comparison import Rate


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask a judge: what concerns servers, and the device of models on this machine."""

    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    workers: int = 8
    """Questions a server is asked at the same time."""
    timeout: float = 60.0
    """Seconds one try may take."""
    attempts: int = 5
    """Tries per question; the pauses between them double."""
    reply_tokens: int = 1
    """Most tokens of a server's reply; above 1 the letter is read from the text."""
    device: str = "cpu"
    """Where local and reward models run: cpu, cuda, cuda:1."""
    judge_seed: int = 0
    """Of the judge random."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens, in any currency; without both there is no cost."""

    price_in: float | None = None
    """Price of a million tokens sent, in any currency; without both prices no cost is shown."""
    price_out: float | None = None
    """Price of a million tokens received."""


@dataclass(frozen=True, slots=True)
class Answering:
    """How model folders answer; everything else is as tether generate does it."""

    max_new_tokens: int = 256
    """For model folders: most tokens of an answer."""
    temperature: float = 1.0
    """For model folders: 0 is greedy."""
    num_samples: int = 1
    """For model folders: answers per prompt."""
    batch_size: int = 16
    """For model folders: answers written at the same time."""
    answer_seed: int = 0
    """For model folders: seed of the sampling."""


@dataclass(frozen=True, slots=True)
class Deciding:
    """By which rate, and how surely."""

    by: Rate = "win_rate"
    """The rate that decides a gate: win_rate, or lc_win_rate (at equal length)."""
    require: str | None = None
    """Gate such as "A > B": exit status 5 when not shown."""
    draws: int = 1000
    """Bootstrap samples of prompts."""
    seed: int = 0
    """Of the bootstrap, and of the order in which --stream asks."""


@dataclass(frozen=True, slots=True)
class Tables:
    """AlpacaEval 2's two tables, for annotations against its baseline."""

    difficulty: Path | None = None
    """For annotations: CSV of instruction difficulty, for AlpacaEval 2's length control."""
    gamed: Path | None = None
    """For annotations: CSV of the gamed baselines' rows."""
