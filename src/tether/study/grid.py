"""The cells of a study: every combination of its factors that makes sense, each an ordinary training run."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.config.hub import Pins
from tether.config.parse import build
from tether.config.study import FACTORS, StudyConfig, as_list
from tether.config.train import HELD_OUT, TrainConfig
from tether.errors import UsageError
from tether.objectives import OBJECTIVES, check, needs_reference
from tether.records.study import Factors, cell_folder, run_name

EXCLUDED = "excluded"
"""Reason of a combination the options leave out by name."""


def pinned_study(config: StudyConfig, pins: Pins) -> StudyConfig:
    """Return the study with its models of the hub named by commit, fetched.

    Raises:
        ModelError: the hub does not have one, or cannot be reached.

    """

    def of(factors: Mapping[str, Any]) -> dict[str, Any]:
        named = [pins.reference(name) for name in factors.get("reference", ())]
        return {**factors, **({"reference": named} if named else {})}

    model = pins.model(str(config.fixed["model_name_or_path"]))
    return config.model_copy(
        update={
            "fixed": {**config.fixed, "model_name_or_path": model},
            "reference": tuple(pins.reference(name) for name in config.reference),
            "exclude": tuple(of(entry) for entry in config.exclude),
            "add": tuple(of(entry) for entry in config.add),
        }
    )


class Cell:
    """One cell before it is run: its name, its factors, and the config `tether train` would take."""

    def __init__(self, cell_id: str, factors: Factors, config: TrainConfig) -> None:
        self.cell_id = cell_id
        self.factors = factors
        self.config = config


def cells(config: StudyConfig) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Return the cells in order, and what was left out: factors and the reason.

    Combinations that differ only in a factor their objective does not read are one cell.

    Raises:
        UsageError: no cell is left.

    """
    found: dict[str, Cell] = {}
    skipped: list[dict[str, Any]] = []
    for values in _combinations(config):
        if any(_matches(values, entry) for entry in config.exclude):
            skipped.append({**values, "reason": EXCLUDED})
            continue
        factors = _factors(values)
        name = cell_name(factors)
        if name in found and found[name].factors == factors:
            continue
        if name in found:
            name += "-" + hashlib.sha256(factors.model_dump_json().encode()).hexdigest()[:6]
        try:
            settings = cell_config(config, factors, name)
            reads = OBJECTIVES[settings.loss_type[0]].reads
            check(settings, has_reference=settings.reference != "none", reads=reads)
        except UsageError as error:
            skipped.append({**values, "reason": str(error)})
            continue
        found[name] = Cell(name, factors, settings)
    if not found:
        reasons = "; ".join(dict.fromkeys(str(entry["reason"]) for entry in skipped))
        raise UsageError(f"{config.output_dir}: no cell is left to run: {reasons}")
    return list(found.values()), skipped


def _combinations(config: StudyConfig) -> Iterator[dict[str, Any]]:
    base = {name: list(getattr(config, name)) for name in FACTORS}
    seen: list[dict[str, Any]] = []
    for part in ({}, *config.add):
        for values in itertools.product(*({**base, **part}[name] for name in FACTORS)):
            combination: dict[str, Any] = dict(zip(FACTORS, values, strict=True))
            if combination not in seen:
                seen.append(combination)
                yield combination
        # A grid added later crosses its values with all that were there before.
        for name, values in part.items():
            base[name] = [*base[name], *(value for value in values if value not in base[name])]


def _matches(values: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return all(values[name] in as_list(wanted) for name, wanted in entry.items())


def _factors(values: Mapping[str, Any]) -> Factors:
    names = str(values["loss_type"]).split("+")
    known = [OBJECTIVES[name] for name in names if name in OBJECTIVES]
    reads_beta = len(known) < len(names) or any("beta" in objective.options for objective in known)
    reads_reference = len(known) < len(names) or any(o.reference != "none" for o in known)
    return Factors(
        loss_type=str(values["loss_type"]),
        beta=float(values["beta"]) if reads_beta else None,
        reference=str(values["reference"]) if reads_reference else "none",
        learning_rate=float(values["learning_rate"]),
        seed=int(values["seed"]),
        data_fraction=float(values["data_fraction"]),
        labels=values["labels"],
    )


def main_cells(found: Iterable[Cell]) -> list[Cell]:
    """Return the cells of the arm that is asked how tight first, of the labels as given.

    An arm is all cells alike but for beta, learning rate and seed: DPO with reference self where it has two
    strengths, else on the most pairs, else of the most strengths.
    """
    arms: dict[Factors, list[Cell]] = {}
    for cell in found:
        if cell.factors.labels == "given":
            alike = {"beta": None, "learning_rate": 0.0, "seed": 0}
            arms.setdefault(cell.factors.model_copy(update=alike), []).append(cell)

    def order(arm: Factors) -> tuple[bool, float, int]:
        strengths = len({(c.factors.beta, c.factors.learning_rate) for c in arms[arm]})
        dpo = (arm.loss_type, arm.reference) == ("sigmoid", "self")
        return not (dpo and strengths > 1), -arm.data_fraction, -strengths

    return arms[min(arms, key=order)] if arms else []


def cell_name(factors: Factors) -> str:
    """Return a readable name of a cell; it never depends on the study's other cells."""
    kind, _, path = factors.reference.partition(":")
    parts = [factors.loss_type]
    reads_reference = factors.reference != "none" or any(
        OBJECTIVES[name].reference != "none" for name in factors.loss_type.split("+") if name in OBJECTIVES
    )
    if reads_reference:
        parts.append(f"{kind}.{run_name(path)}" if path else kind)
    if factors.beta is not None:
        parts.append(f"beta{factors.beta:g}")
    parts += [f"lr{factors.learning_rate:g}", f"seed{factors.seed}"]
    if factors.data_fraction < 1:
        parts.append(f"data{factors.data_fraction:g}")
    if factors.labels != "given":
        parts.append(factors.labels)
    return re.sub(r"[^A-Za-z0-9._+-]", "_", "-".join(parts))


def cell_config(config: StudyConfig, factors: Factors, cell_id: str) -> TrainConfig:
    """Return what `tether train` runs for a cell: the fixed keys, its factors, its folder.

    Rows are split by the study's first seed whatever the cell's, so that all cells are measured on the same
    rows, a tenth of them where nothing else is said; samples are measured once, after training, unless
    `measure_prompts` says otherwise.

    Raises:
        UsageError: the combination is impossible.

    """
    values: dict[str, Any] = {
        "split_seed": config.seed[0],
        **({} if HELD_OUT & set(config.fixed) else {"eval_fraction": 0.1}),
        "measure_prompts": 0,
        "save_total_limit": 1,
        **config.fixed,
        "loss_type": factors.loss_type.split("+"),
        "reference": factors.reference,
        "learning_rate": factors.learning_rate,
        "seed": factors.seed,
        "data_fraction": factors.data_fraction,
        "labels": factors.labels,
        "output_dir": str(cell_folder(Path(config.output_dir), cell_id)),
    }
    if factors.beta is not None:
        values["beta"] = factors.beta
    if values["measure_prompts"]:
        values["evaluators"] = config.evaluators
    settings = build(TrainConfig, values, source=f"cell {cell_id}")
    if needs_reference(settings) or settings.reference == "none":
        return settings
    return settings.model_copy(update={"reference": "none"})
