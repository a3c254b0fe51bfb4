"""One world's studies: its files, its references, the grids, and what every trained model is worth."""

import os
import random
import resource
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml

from studies.choosing import choices, opponents
from studies.claims import Row
from studies.references import STRONGER, opened, stronger
from tether import api
from tether.config.study import build_study
from tether.config.train import TrainConfig
from tether.records.results import read_lines, write_lines
from tether.records.study import SHARED, CellRecord, cell_folder, measures
from tether.study.execute import Unwatched, run_study
from tether.worlds import WORLDS, Enumerable

ROOT = Path(__file__).resolve().parents[1]


def read_plan(path: Path, *, quick: bool, every_world: bool = False) -> dict[str, Any]:
    """Read a plan; `quick` puts its smaller grids in, in fewer worlds unless `every_world`."""
    plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    smaller = plan.pop("quick")
    if not quick:
        return plan
    kept = {k: v for k, v in plan["studies"].items() if k not in smaller.get("skipped", ())}
    return {
        **plan,
        "seeds": smaller["seeds"],
        "worlds": plan["worlds"] if every_world else smaller["worlds"],
        "studies": {name: {**grid, **smaller["studies"].get(name, {})} for name, grid in kept.items()},
    }


def run_world(plan: Mapping[str, Any], name: str, place: Path) -> None:
    """Make a world's files, its other references, and run every study in it; what is done stays."""
    place.mkdir(parents=True, exist_ok=True)
    api.make_world(name, place / "world", **plan["made"])
    for study, grid in plan["studies"].items():
        if (place / study / "rows.jsonl").is_file():
            continue
        print(f"{name}: {study}", flush=True)
        began = _processor()
        references = grid.get("reference", ["self"])
        for other in [r for r in references if r in STRONGER]:
            stronger(plan, name, place, other)
        data = shuffled(place) if grid.get("labels") == "shuffled" else place / "world" / "train.jsonl"
        factors = {key: value for key, value in grid.items() if key != "labels"}
        factors["reference"] = [f"model:{place / r / 'model'}" if r in STRONGER else r for r in references]
        values = {
            "model": str(place / "world" / "model"),
            "data": str(data),
            "eval_data": str(place / "world" / "eval.jsonl"),
            "output_dir": str(place / study),
            "evaluators": [f"world:{name}"],
            "seed": plan["seeds"],
            "save_strategy": "no",
            **plan["train"],
            **factors,
        }
        config = build_study(values, source=f"studies: {name} {study}")
        record = run_study(config, Unwatched())  # no page: the studies' own says what was found
        rows = [row for row in measured(name, place, study, record.cells) if row]
        write_lines(place / study / "choices.jsonl", chosen(plan, name, place, study))
        rows[0]["processor_seconds"] = _processor() - began
        write_lines(place / study / "rows.jsonl", rows)


def chosen(plan: Mapping[str, Any], name: str, place: Path, study: str) -> list[Row]:
    """Return what each way of choosing beta chose in a study, where the plan asks for it."""
    if not plan["studies"][study].get("cross_fit"):
        return []
    longest = plan["train"].get("kl_max_new_tokens", TrainConfig.model_fields["kl_max_new_tokens"].default)
    against = opponents(name, place, study, max_new_tokens=longest)
    return [{"world": name, "study": study, **line} for line in choices(place / study, against)]


def _processor() -> float:
    """Return processor seconds of this process and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def shuffled(place: Path) -> Path:
    """Write the training pairs with chosen and rejected swapped in a random half of them."""
    path, draw = place / "shuffled.jsonl", random.Random(5)
    rows = list(read_lines(place / "world" / "train.jsonl"))
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if draw.random() < 0.5 else row
        for row in rows
    ]
    write_lines(path, swapped)
    return path


def measured(name: str, place: Path, study: str, cells: Sequence[CellRecord]) -> Iterable[Row | None]:
    """Return what every cell's model is worth: exactly where the world is listed, else on samples."""
    folder, world = place / study, WORLDS[name]
    listed = world if isinstance(world, Enumerable) else None
    exact = exact_values(name, place, study, cells) if listed else {}
    for cell in [None, *cells]:
        found = measures(cell_folder(folder, cell.cell_id) if cell else folder / SHARED / "start")
        if found is None:
            yield None
            continue
        row: Row = {"world": name, "study": study, "cell": cell.cell_id if cell else "start"}
        if cell is not None:
            factors = cell.factors.model_dump()
            named = [k for k in STRONGER if factors["reference"].endswith(f"/{k}/model")]
            row |= {**factors, "reference": (named or [factors["reference"]])[0], "seconds": cell.seconds}
        row |= {
            "policy_accuracy": found.policy_accuracy,
            "chosen_log_ratio": found.chosen_log_ratio,
            "degenerate": list(found.degenerate),
            "reward": found.scores.get("gold_reward"),
            "kl": found.kl,
            "tokens": found.tokens,
            "entropy": found.entropy,
            "fluent": None,
        }
        if listed is not None:
            if cell is None:
                others = {k: place / k / "model" for k in STRONGER if (place / k / "model").is_dir()}
                start = exact_start(listed, place) if others else None
                row["stronger"] = {k: premise(listed, path, start) for k, path in others.items()}
            row |= exact[model_of(place, study, cell)]
        yield row


def model_of(place: Path, study: str, cell: CellRecord | None) -> Path:
    """Return the folder of a cell's model, None being the start model."""
    return (cell_folder(place / study, cell.cell_id) if cell else place / "world") / "model"


def exact_values(name: str, place: Path, study: str, cells: Sequence[CellRecord]) -> dict[Path, Row]:
    """Return what the start model and every finished cell's are worth, one process per core.

    A model's value takes as long as training it: millions of prefixes.
    """
    folders = [model_of(place, study, cell) for cell in [None, *cells]]
    there = [folder for folder in folders if folder.is_dir()]
    workers = min(len(there), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (name, place)) as pool:
        return dict(zip(there, pool.map(_exactly, there), strict=True))


_here: list[Any] = []
"""In a process of the pool: the world and the start model's distributions."""


def _begin(name: str, place: Path) -> None:
    torch.set_num_threads(1)
    world = WORLDS[name]
    assert isinstance(world, Enumerable)
    _here[:] = [world, exact_start(world, place)]


def _exactly(folder: Path) -> Row:
    return exactly(_here[0], folder, _here[1])


def exact_start(world: Enumerable, place: Path) -> Any:
    """Return the base model's next-token distributions after every prefix."""
    return world.conditionals(*opened(place / "world" / "model"))


def exactly(world: Enumerable, folder: Path, start: Any) -> Row:
    """Return a model's exact reward, KL, length, entropy and share of fluent answers."""
    value = world.exact(world.conditionals(*opened(folder)), start)
    return {
        "reward": value.reward,
        "kl": value.kl,
        "tokens": value.tokens,
        "entropy": value.entropy,
        "fluent": value.fluent,
    }


def premise(world: Enumerable, folder: Path, start: Any) -> Row:
    """Return how strong another reference is, and how far from the start model in both directions."""
    table = world.conditionals(*opened(folder))
    there, back = world.exact(table, start), world.exact(start, table)
    return {"reward": there.reward, "kl": there.kl, "kl_back": back.kl, "fluent": there.fluent}
