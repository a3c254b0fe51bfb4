"""Worlds whose true reward is known, as files."""

from pathlib import Path
from typing import Any

from tether.worlds import load_world
from tether.worlds.world import WorldFiles


def make_world(name: str, out: str | Path, **options: Any) -> WorldFiles:
    """Write a world as ordinary files; the same as `tether world make`."""
    return load_world(name).make(Path(out), **options)
