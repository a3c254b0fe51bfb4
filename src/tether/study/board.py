"""The table every question is asked of: settings x seeds x prompts, with the start model as row 0.

Values of one prompt are means over its samples. Only prompts that every compared model answered, and only
seeds that every compared setting has, are in it; what that left out is said in `notices`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tether.analysis.selection import prompt_shifts, seed_variances
from tether.analysis.stats import crossed_variances
from tether.records.findings import Setting

Array = NDArray[np.float64]
Index = NDArray[np.int64]

DRAWS = 2000
POWER = 0.8


@dataclass(frozen=True)
class Dialled:
    """One trained model sampled at one dial value: scores and KL to the start per prompt of the board."""

    cell: str
    setting: Setting
    dial: float
    scores: Array
    """[prompts]"""
    kl: Array
    """[prompts]"""


@dataclass(frozen=True)
class Words:
    """How answers speak of the settings, in the words of the command whose board it is."""

    take: str = "Of these trained models take the one at"
    """Before the setting's name, where there is one seed."""
    trained: int | None = None
    """Models that were trained, where not one per setting."""
    seeds: str = "--seed 0,1,2 would tell"
    strengths: str = "which tether study add can try"


@dataclass(frozen=True)
class Board:
    """Scores and KL of the start model (row 0) and of every compared setting."""

    settings: tuple[Setting, ...]
    scores: Array
    """[1 + settings, seeds, prompts]"""
    kl: Array
    """[1 + settings, seeds, prompts], nats per sequence."""
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    degenerate: tuple[tuple[str, ...], ...]
    """Per setting."""
    gold: Array | None = None
    """[1 + settings]: mean gold reward; only ever read to print regret."""
    gold_name: str = ""
    dialled: tuple[Dialled, ...] = ()
    notices: tuple[str, ...] = ()
    draws: int = DRAWS
    words: Words = Words()

    @property
    def n(self) -> int:
        """Prompts."""
        return self.scores.shape[2]

    @property
    def several_seeds(self) -> bool:
        """Whether differences can be told from luck in training."""
        return len(self.seeds) > 1

    @property
    def gains(self) -> Array:
        """Scores less the start model's on the same prompt."""
        return self.scores - self.scores[:1]

    def rows(self, wanted: Callable[[Setting], bool], *, sound: bool = True) -> list[int]:
        """Return rows of settings; `sound` leaves out those with a degeneration flag."""
        return [
            index + 1
            for index, setting in enumerate(self.settings)
            if wanted(setting) and not (sound and self.degenerate[index])
        ]

    def setting(self, row: int) -> Setting:
        """Return the setting of a row."""
        return self.settings[row - 1]

    def name(self, row: int) -> str:
        """Return the name of a row."""
        return "start" if row == 0 else self.setting(row).name

    def arms(self) -> list[str]:
        """Return the arms in the order of the settings."""
        return list(dict.fromkeys(setting.arm for setting in self.settings))

    def only(self, wanted: Callable[[Setting], bool]) -> "Board":
        """Return the board of some of the settings."""
        kept = self.rows(wanted, sound=False)
        rows = [0, *kept]
        return replace(
            self,
            settings=tuple(self.setting(row) for row in kept),
            scores=self.scores[rows],
            kl=self.kl[rows],
            degenerate=tuple(self.degenerate[row - 1] for row in kept),
            gold=None if self.gold is None else self.gold[rows],
        )


def standard_error(table: Array) -> float:
    """Return the standard error of the mean of a [seeds, prompts] table over both levels."""
    seeds, prompts = table.shape
    if prompts < 2:
        return float("nan")
    if seeds == 1:
        return float(np.sqrt(table[0].var(ddof=1) / prompts))
    seed_part, prompt_part, rest = crossed_variances(table)
    return float(np.sqrt(max(seed_part + prompt_part - rest, seed_part, prompt_part)))


def resampled(board: Board, *, seed: int) -> tuple[Array, Array]:
    """Return [draws, rows] of resampled mean scores and mean KLs; both move together, prompts and seeds.

    What seeds add is as in `analysis.selection`: never below the mean over settings, with Student's tails.
    """
    seeds, tables = len(board.seeds), (board.scores, board.kl)
    drawn = [table.mean(axis=(1, 2)) for table in tables]
    shifts = [prompt_shifts(table, draws=board.draws, seed=seed) for table in tables]
    if seeds > 1:
        generator = np.random.default_rng([seed, 4])
        multipliers = generator.standard_normal((board.draws, len(board.scores), seeds))
        _, freedom = seed_variances(board.scores)
        tails = np.sqrt(freedom / generator.chisquare(freedom, size=(board.draws, 1)))
        for shift, table in zip(shifts, tables, strict=True):
            by_seed = table.mean(axis=2)
            off = by_seed - by_seed.mean(axis=1, keepdims=True)
            squares = (off**2).sum(axis=1)
            wanted = np.divide(
                seed_variances(table)[0], squares, out=np.zeros_like(squares), where=squares > 0
            )
            shift += np.einsum("drs,rs->dr", multipliers, off * np.sqrt(wanted)[:, None]) * tails
    return drawn[0] + shifts[0], drawn[1] + shifts[1]


def tightness(settings: Sequence[Setting]) -> list[float]:
    """Return beta per setting; larger holds tighter."""
    return [0.0 if setting.beta is None else setting.beta for setting in settings]
