"""The exact optimum beside a study's frontier, where every completion is listed (see `worlds.exact`)."""

from pathlib import Path
from typing import Any

from tether.records.findings import OptimumPoint
from tether.records.results import write_lines
from tether.records.study import SHARED
from tether.study.frontier import OPTIMUM
from tether.worlds.enumerable import Enumerable
from tether.worlds.world import World

BETAS = tuple(10 ** (1 - k / 8) for k in range(27))
"""From 10 to 0.0056, eight a decade: strengths of the optimum's curve."""


def write_optimum(folder: Path, world: World, model: Any, tokenizer: Any) -> bool:
    """Write `shared/optimum.jsonl` of a study whose start model is `model`; False where the world has none.

    Reward and KL are those of start(y) exp(r(y) / beta) / Z over the listed completions: no policy at that
    KL from the start model has more reward. The model is used as it is: put it in eval mode first.
    """
    if not isinstance(world, Enumerable):
        return False
    start = world.conditionals(model, tokenizer)
    points = [(beta, world.optimum(start, beta)) for beta in BETAS]
    path = folder / SHARED / OPTIMUM
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, (OptimumPoint(beta=beta, kl=o.kl, reward=o.reward) for beta, o in points))
    return True
