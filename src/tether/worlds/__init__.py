"""Tasks whose true reward is known, so that claims about training can be checked."""

from difflib import get_close_matches
from pathlib import Path

from tether.errors import DataError, UsageError
from tether.records.protocols import Evaluator
from tether.worlds.dialogue import Dialogue
from tether.worlds.enumerable import Enumerable, worlds
from tether.worlds.exact import Conditionals, Exact, Optimum
from tether.worlds.files import WorldFiles, WorldRecord, read_world
from tether.worlds.sentiment import Sentiment
from tether.worlds.summarization import Summarization
from tether.worlds.world import World

WORLDS: dict[str, World] = {
    world.name: world for world in (Sentiment(), Summarization(), Dialogue(), *worlds())
}
"""Every world by its name."""


def load_world(name: str | Path) -> World:
    """Return a world by its name, by a folder that holds a world.json, or by that file.

    Raises:
        UsageError: there is no world of this name.
        DataError: the folder's world.json is missing, unreadable, or of another version or other numbers.

    """
    if isinstance(name, str) and name in WORLDS:
        return WORLDS[name]
    path = Path(name)
    if not path.exists():
        near = get_close_matches(str(name), WORLDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"worlds: {', '.join(WORLDS)}"
        raise UsageError(f"{name}: neither a world nor a folder made by tether world make; {hint}")
    record = read_world(path)
    world = WORLDS.get(record.name)
    if world is None:
        raise DataError(
            f"{path}: made from world {record.name!r}, which this version of tether does not have"
        )
    if (record.version, record.parameters) != (world.version, world.parameters()):
        raise DataError(
            f"{path}: made from {record.name} version {record.version}, but this tether has version "
            f"{world.version} or other numbers; make it again with: tether world make {record.name}"
        )
    return world


def evaluator_named(name: str) -> Evaluator:
    """Return the evaluator a config names: `world:NAME`.

    Raises:
        UsageError: no such evaluator.

    """
    kind, _, rest = name.partition(":")
    if kind != "world" or not rest:
        raise UsageError(f"evaluators: {name!r} is not known; use world:NAME (see tether world list)")
    return load_world(rest).evaluator()


__all__ = [
    "WORLDS",
    "Conditionals",
    "Enumerable",
    "Exact",
    "Optimum",
    "World",
    "WorldFiles",
    "WorldRecord",
    "evaluator_named",
    "load_world",
    "read_world",
]
