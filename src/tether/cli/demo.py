"""`tether demo`: a small study in a world whose true reward is known; three questions in miniature."""

import shutil
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tether.cli.output import print_json

WORLD = "sentiment"
STUDY: dict[str, Any] = {
    "loss_type": ["sigmoid"],
    "reference": ["self", "none", "prior"],
    "beta": [3, 1, 0.3, 0.1, 0.03, 0.01],
    "exclude": [
        {"reference": "none", "beta": [3, 0.03, 0.01]},
        {"reference": "prior", "beta": [3, 1, 0.03, 0.01]},
    ],
    "learning_rate": [1e-3],
    "num_train_epochs": 1,
    "train_batch_size": 16,
    "warmup_steps": 5,
    "logging_steps": 16,
    "eval_strategy": "steps",
    "eval_steps": 32,
    "kl_max_new_tokens": 60,
    "max_length": 256,
    # The README prints this study: its rounding must not move with the default.
    "max_tokens_per_microbatch": 1024,
    "measured_prompts": 100,
    "judge": f"world:{WORLD}",
    "dial": [0.5, 1.25, 1.5, 2],
    "dial_cells": ["sigmoid-self-beta1-lr0.001-seed0"],
}
"""Small enough for two cores and three minutes; a real study starts from a smaller learning rate."""
OWN = "sigmoid-self-beta0.1-lr0.001-seed0"
"""The cell that is the other reference of the third question, as in RefDPO (2407.13709), appendix E."""
OWN_BETAS = [1, 0.3]


def demo(
    *,
    output_dir: Annotated[Path, Parameter(help="Folder for the world, the study and the page.")] = Path(
        "demo"
    ),
    pairs: Annotated[int, Parameter(help="Preference pairs to draw.")] = 1000,
    json: Annotated[bool, Parameter(help="Print the study's record as JSON.", negative="")] = False,
) -> int:
    """Make a readable world, study its base model, and write DIR/report.html."""
    from tether import api
    from tether.cli.study import show
    from tether.cli.study_progress import StudyTerminal
    from tether.config.study import build_study
    from tether.worlds import WORLDS

    world, folder = output_dir / "world", output_dir / "study"
    terminal = StudyTerminal(quiet=json)
    try:
        terminal.stage(f"making the {WORLD} world: {pairs} pairs by its own model")
        WORLDS[WORLD].make(world, pairs=pairs, eval_pairs=200, prompts=64, seed=0)
        values = {
            "model": str(world / "model"),
            "data": str(world / "train.jsonl"),
            "eval_data": str(world / "eval.jsonl"),
            "output_dir": str(folder),
            **STUDY,
        }
        tuned = output_dir / "tuned"
        if not tuned.is_dir():
            api.study_config(build_study(values), watcher=terminal)
            shutil.copytree(folder / "cells" / OWN / "model", tuned)
        terminal.note("the model of beta 0.1 is now the reference of two more cells")
        more = {"reference": [f"model:{tuned}"], "beta": OWN_BETAS}
        record = api.study_config(build_study({**values, "add": [more]}), watcher=terminal)
    finally:
        terminal.close()
    shutil.copyfile(folder / "report.html", output_dir / "report.html")
    print_json(record) if json else show(record, folder, page=output_dir / "report.html")
    return 0
