"""tether: tune a language model on preferences, and learn how tightly to hold it to its reference.

>>> import tether
>>> record = tether.train(model="models/base", data="pairs.jsonl", output_dir="runs/first", beta=0.1)

Nothing heavy is imported until a function is used (PEP 562).
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = (
    "check",
    "compare",
    "convert",
    "generate",
    "judge",
    "make_world",
    "merge",
    "report",
    "run_study",
    "score",
    "task",
    "train",
)

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]  (lazy names)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tether' has no attribute {name!r}")
    return getattr(importlib.import_module("tether.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
