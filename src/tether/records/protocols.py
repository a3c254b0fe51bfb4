"""What a lower layer may be handed by a higher one, so that `training` needs neither worlds nor judges."""

from collections.abc import Sequence
from typing import Protocol

from tether.records.rows import Content


class Evaluator(Protocol):
    """Scores completions: a world's known reward, a reward model, a judge."""

    name: str
    """Shown in reports and used as the metric name (`gold_reward`, `win_rate`...)."""

    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        """Return one score per completion, higher is better."""
        ...
