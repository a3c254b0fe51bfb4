"""The exact optimum beside a study's frontier, where every completion is listed (see `worlds.exact`)."""

import copy
from typing import Any

from tether.errors import DataError
from tether.records.findings import OptimumPoint
from tether.records.results import write_lines
from tether.records.study import SHARED
from tether.study.bench import Bench
from tether.study.frontier import OPTIMUM
from tether.worlds.enumerable import Enumerable
from tether.worlds.world import GoldReward

BETAS = tuple(10 ** (1 - k / 8) for k in range(27))
"""From 10 to 0.0056, eight a decade: strengths of the optimum's curve."""


def optimum_missing(bench: Bench) -> bool:
    """Whether the study's samples are scored by a listed world whose optimum is not there yet."""
    return listed_world(bench) is not None and not (bench.folder / SHARED / OPTIMUM).is_file()


def listed_world(bench: Bench) -> Enumerable | None:
    """Return the world whose true reward scores the study's samples, where its completions are listed."""
    worlds = [e.world for e in bench.evaluators if isinstance(e, GoldReward)]
    return next((world for world in worlds if isinstance(world, Enumerable)), None)


def keep_optimum(bench: Bench) -> None:
    """Write `shared/optimum.jsonl`: nothing in it where the model does not spell the world word by word."""
    world = listed_world(bench)
    if world is None:
        return
    model: Any = bench.start
    if next(model.parameters()).device.type != "cpu":
        model = copy.deepcopy(model).to("cpu")
    try:
        points = optimum_of(world, model, bench.texts[0])
    except DataError:
        points = []  # another tokenizer than the world's: its completions cannot be listed
    path = bench.folder / SHARED / OPTIMUM
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, points)


def optimum_of(world: Enumerable, model: Any, tokenizer: Any) -> list[OptimumPoint]:
    """Return reward and KL of start(y) exp(r(y) / beta) / Z over the listed completions, beta by beta.

    No policy at that KL from the start model has more reward. The model is used as it is: put it in eval
    mode first.

    Raises:
        DataError: the tokenizer does not spell the world's words with one token each.

    """
    start = world.conditionals(model, tokenizer)
    found = [(beta, world.optimum(start, beta)) for beta in BETAS]
    return [OptimumPoint(beta=beta, kl=o.kl, reward=o.reward) for beta, o in found]
