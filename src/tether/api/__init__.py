"""The functions behind the commands; each returns the record its command prints.

>>> import tether
>>> record = tether.train(model="models/base", data="pairs.jsonl", output_dir="runs/first", beta=0.1)
>>> record.results["eval_loss"]

Each stands in a module of its own kind and is found when it is first asked for (PEP 562), so that a run does
not wait for the libraries of a page.
"""

import importlib
from typing import Any

HOME = {
    "check": "tether.api.rows",
    "convert": "tether.api.rows",
    "plan": "tether.api.training",
    "train": "tether.api.training",
    "train_config": "tether.api.training",
    "merge": "tether.api.training",
    "score": "tether.api.training",
    "report": "tether.api.pages",
    "generate": "tether.api.answers",
    "judge": "tether.api.answers",
    "plan_judging": "tether.api.answers",
    "compare": "tether.api.answers",
    "calibrate": "tether.api.studies",
    "calibrate_config": "tether.api.studies",
    "compare_references": "tether.api.studies",
    "run_study": "tether.api.studies",
    "study_config": "tether.api.studies",
    "study_plan": "tether.api.studies",
    "make_world": "tether.api.worlds",
    "plan_task": "tether.tasks.whole",
    "task": "tether.tasks.whole",
}
"""Where each function stands."""


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'tether.api' has no attribute {name!r}")
    return getattr(importlib.import_module(HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(HOME)
