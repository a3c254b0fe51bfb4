"""What a calibration may cost, and what two runs on a half each cost beside one on all pairs."""

from collections.abc import Sequence
from pathlib import Path

from tether.config.train import TrainConfig
from tether.records.results import RunRecord, read_lines
from tether.study.crossed import HALVES, half_config
from tether.study.dialler import FEWEST

LIMIT = 1.5
"""Training, sampling and scoring may take this many training runs on all pairs."""


def halves_in_wholes(
    config: TrainConfig, records: Sequence[RunRecord], looks: Sequence[int], tokens: tuple[int, int]
) -> float:
    """Return what two runs on a half each cost, in runs on all pairs, counted in tokens read.

    Above 1: both score and evaluate the held-out rows, and an odd number of updates is rounded up. A token
    learnt from is read three times as long as one that is scored, twice where an adapter is trained.

    Args:
        config: of a run on all pairs.
        records: of the halves.
        looks: how often each of them evaluated the held-out rows.
        tokens: of all rows to train on, and of those held out.

    """
    rows, held_out = tokens
    pairs = sum(int(record.data["used"]) for record in records)
    passes = sum(record.epochs * int(record.data["used"]) for record in records) / pairs
    learnt = (2.0 if config.use_peft else 3.0) * passes * rows
    both = learnt + rows + sum(1 + number for number in looks) * held_out
    return both / (learnt / updates_in_wholes(config) + rows + (1 + min(looks)) * held_out)


def looks_of(run: Path) -> int:
    """Return how often a run evaluated its held-out rows."""
    return sum(line["phase"] == "eval" for line in read_lines(run / "metrics.jsonl"))


def updates_in_wholes(config: TrainConfig) -> float:
    """Return the updates of two halves in those of a run on all pairs: above 1 where one was rounded up."""
    if config.max_steps <= 0:
        return 1.0
    return 2 * half_config(config, HALVES[0], Path()).max_steps / config.max_steps


def cost_note(cost: float, asked: int, wanted: int | None) -> list[str]:
    """Say why a calibration took more than it may, where it did and the user did not say how many prompts."""
    if wanted is not None or cost <= LIMIT:
        return []
    why = "the last prompts took longer than those before them"
    if asked <= FEWEST:
        why = f"fewer than {asked} prompts would tell too little; a longer training run makes it cheaper"
    return [f"training, sampling and scoring took {cost:.2f} training runs, more than {LIMIT:g}: {why}"]
