"""A study folder in memory: settings, the board, and what single cells measured. No torch."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from tether.errors import RunFolderError
from tether.records.findings import Setting, SettingFinding
from tether.records.results import read_lines
from tether.records.rows import canonical_json
from tether.records.study import (
    CROSSED,
    MEASURES,
    SCORERS,
    SHARED,
    CellMeasures,
    CellRecord,
    Factors,
    StudyRecord,
    cell_folder,
    measures,
    read_study,
    run_name,
)
from tether.study.board import Array, Board, Dialled, standard_error
from tether.study.tables import Samples, read_table

GOLD = "gold_reward"
"""The evaluator of a world: its true reward."""
OBJECTIVES = {
    ("sigmoid", "self"): "DPO",
    ("sigmoid", "none"): "posterior",
    ("sigmoid", "prior"): "likelihood",
    ("ipo", "self"): "IPO",
    ("simpo", "none"): "SimPO",
    ("orpo", "none"): "ORPO",
    ("cpo", "none"): "CPO",
}
"""Names of objective and reference together, as RefDPO and the papers call them."""


@dataclass(frozen=True)
class Cell:
    """One measured cell."""

    record: CellRecord
    setting: Setting
    numbers: CellMeasures
    samples: Samples
    folder: Path

    @property
    def seed(self) -> int:
        """Seed of training."""
        return self.record.factors.seed


@dataclass(frozen=True)
class Study:
    """A study folder as read; `cells` are those that were measured."""

    folder: Path
    record: StudyRecord
    start: CellMeasures
    start_samples: Samples
    cells: tuple[Cell, ...]
    planned: dict[str, Setting]
    """Setting of every cell of the grid, measured or not."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings of the grid, in its order."""
        return tuple(dict.fromkeys(self.planned.values()))

    @property
    def judge(self) -> str | None:
        """Name of the scores the rules see, None where no judge was declared; a world judges by gold."""
        judge = self.record.judge
        return GOLD if judge is not None and judge.startswith("world:") else judge

    @property
    def gold(self) -> str | None:
        """Name of the world's true reward, where the study has one."""
        return GOLD if self.record.world and GOLD in self.record.evaluators else None

    @cached_property
    def prompt_of(self) -> dict[str, str]:
        """One key per distinct prompt, by row id: rows with the same prompt are one unit."""
        path = self.folder / SHARED / "prompts.jsonl"
        return {str(row["row_id"]): canonical_json(row["prompt"]) for row in read_lines(path)}

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """Token text by id."""
        path = self.folder / SHARED / "vocabulary.json"
        if not path.is_file():
            return {}
        try:
            return {int(key): str(value) for key, value in json.loads(path.read_bytes()).items()}
        except (ValueError, AttributeError) as error:
            raise RunFolderError(f"{path}: damaged, no JSON object of token texts by id: {error}") from error

    @property
    def scorers(self) -> tuple[float, ...]:
        """Betas of cross-fitting's scorers, the one that scores first; empty where the study has none."""
        return tuple(float(beta) for beta in self.record.config.get("cross_fit", ()))

    def halves(self) -> "Study | None":
        """Return the study with the samples of the halves' policies instead; None where there are none."""
        start = self.folder / SHARED / SCORERS / "start.parquet"
        paths = [cell.folder / MEASURES / CROSSED for cell in self.cells]
        both = zip(self.cells, paths, strict=True)
        crossed = [replace(cell, samples=read_table(Samples, path)) for cell, path in both if path.is_file()]
        if not start.is_file() or not crossed:
            return None
        return replace(self, cells=tuple(crossed), start_samples=read_table(Samples, start))

    def of(self, setting: Setting) -> list[Cell]:
        """Return the measured cells of a setting, by seed."""
        return sorted((c for c in self.cells if c.setting == setting), key=lambda c: c.seed)


def read_folder(folder: Path) -> Study:
    """Read what a study has measured so far.

    Raises:
        RunFolderError: no study here, nothing measured yet, or a damaged file.

    """
    record = read_study(folder)
    start = measures(folder / SHARED / "start")
    if start is None:
        raise RunFolderError(f"{folder}: the start model is not measured yet; run tether study again")
    name = namer([cell.factors for cell in record.cells])
    planned = {cell.cell_id: name(cell.factors) for cell in record.cells}
    cells: list[Cell] = []
    for cell in record.cells:
        home = cell_folder(folder, cell.cell_id)
        numbers = measures(home) if (home / MEASURES).is_dir() else None
        if numbers is not None:
            samples = read_table(Samples, home / MEASURES / "samples.parquet")
            cells.append(Cell(cell, planned[cell.cell_id], numbers, samples, home))
    return Study(
        folder=folder,
        record=record,
        start=start,
        start_samples=read_table(Samples, folder / SHARED / "start" / "samples.parquet"),
        cells=tuple(cells),
        planned=planned,
    )


def arm_name(factors: Factors, reference: str | None = None) -> str:
    """Return objective and reference in words; `reference` is its short name, where it has one."""
    known = OBJECTIVES.get((factors.loss_type, factors.reference))
    if known is not None:
        return known
    base = "DPO" if factors.loss_type == "sigmoid" else factors.loss_type
    if factors.reference in ("self", "none"):
        return base
    return f"{base}, reference {reference or factors.reference}"


def short_references(references: Iterable[str]) -> dict[str, str]:
    """Return a short name per reference: the last part of its path, where no other one has it too."""
    short = {name: _last_part(name) for name in references}
    counts = Counter(short.values())
    return {name: own if counts[own] == 1 else name for name, own in short.items()}


def _last_part(reference: str) -> str:
    kind, _, path = reference.partition(":")
    return run_name(path) or kind


def namer(factors: Sequence[Factors]) -> Callable[[Factors], Setting]:
    """Return a function from factors to settings whose names hold what varies, and beta."""
    short = short_references({f.reference for f in factors})
    arms = {arm_name(f) for f in factors}
    rates, fractions = {f.learning_rate for f in factors}, {f.data_fraction for f in factors}

    def setting(f: Factors) -> Setting:
        plain = arm = arm_name(f, short[f.reference])
        if len(fractions) > 1:
            arm += f", {100 * f.data_fraction:g} % of the pairs"
        if f.labels != "given":
            arm += f", {f.labels} labels"
        parts = [arm if len(arms) > 1 or arm != plain else ""]
        parts.append(f"β {f.beta:g}" if f.beta is not None else "")
        parts.append(f"lr {f.learning_rate:g}" if len(rates) > 1 else "")
        return Setting(
            name=" ".join(part for part in parts if part) or arm,
            arm=arm,
            **f.model_dump(exclude={"seed"}),
        )

    return setting


def cell_labels(record: StudyRecord) -> dict[str, str]:
    """Return a short name per cell id: its setting, and its seed where there are several."""
    factors = [cell.factors for cell in record.cells]
    name, several = namer(factors), len({f.seed for f in factors}) > 1
    return {
        cell.cell_id: name(cell.factors).name + (f", seed {cell.factors.seed}" if several else "")
        for cell in record.cells
    }


def board_of(study: Study, score: str) -> Board | None:
    """Return the board of one evaluator's scores; None where fewer than two prompts were scored by all."""
    compared, seeds, notices = _compared(study)
    tables = [study.start_samples, *(c.samples for s in compared for c in _seeded(study, s, seeds))]
    if not compared or any(score not in table.scores for table in tables[1:]):
        return None
    prompts = _shared_prompts(study, tables, score)
    if len(prompts) < 2:
        return None
    everything = {study.prompt_of.get(row, row) for row in study.start_samples.row_id}
    if len(prompts) < len(everything):
        notices.append(f"{len(everything) - len(prompts)} prompts were not scored for every model: left out.")
    start = _per_prompt(study, study.start_samples, score, prompts)
    kl = np.zeros_like(start)
    scores, kls = [np.repeat(start[None], len(seeds), 0)], [np.repeat(kl[None], len(seeds), 0)]
    for setting in compared:
        cells = _seeded(study, setting, seeds)
        scores.append(np.stack([_per_prompt(study, cell.samples, score, prompts) for cell in cells]))
        kls.append(np.stack([_per_prompt(study, cell.samples, "kl", prompts) for cell in cells]))
    return Board(
        settings=compared,
        scores=np.stack(scores),
        kl=np.stack(kls),
        seeds=seeds,
        prompts=prompts,
        degenerate=tuple(degenerate_of(study.of(setting)) for setting in compared),
        gold=_gold(study, compared, seeds),
        gold_name=study.gold or "",
        dialled=tuple(_dialled(study, score, prompts)),
        notices=tuple(notices),
    )


def degenerate_of(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Return every rule that raised the flag in any cell of a setting, with the seed."""
    several = len(cells) > 1
    return tuple(
        f"{reason} (seed {cell.seed})" if several else reason
        for cell in cells
        for reason in cell.numbers.degenerate
    )


def setting_findings(study: Study) -> list[SettingFinding]:
    """Return every setting with the means over its measured cells."""
    found: list[SettingFinding] = []
    for setting in study.settings:
        cells = study.of(setting)
        there = {cell.record.cell_id for cell in cells}
        missing = [
            f"{c.cell_id}: {c.state}{f', {c.error}' if c.error else ''}"
            for c in study.record.cells
            if study.planned[c.cell_id] == setting and c.cell_id not in there
        ]
        found.append(
            SettingFinding(
                setting=setting,
                cells=tuple(cell.record.cell_id for cell in cells),
                seeds=tuple(cell.seed for cell in cells),
                missing=tuple(missing),
                kl=_mean(cell.numbers.kl for cell in cells),
                kl_per_token=_mean(cell.numbers.kl_per_token for cell in cells),
                kl_se=_kl_se(study, cells),
                degenerate=degenerate_of(cells),
                numbers=_numbers([cell.numbers for cell in cells]),
                scores={
                    name: fmean(cell.numbers.scores[name] for cell in cells)
                    for name in study.record.evaluators
                    if cells and all(name in cell.numbers.scores for cell in cells)
                },
            )
        )
    return found


MEANS = (
    "loss", "implicit_accuracy", "policy_accuracy", "policy_accuracy_per_token", "chosen_log_ratio",
    "rejected_log_ratio", "chosen_log_ratio_per_token", "rejected_log_ratio_per_token", "large_share",
    "kl_reference", "entropy", "tokens", "end_rate", "cut_share", "repetition", "distinct", "ches",
)  # fmt: skip
"""Numbers of a cell that a setting reports as means over its seeds."""


def start_numbers(study: Study) -> dict[str, float | None]:
    """Return what was measured of the start model."""
    return _numbers([study.start]) | {f"score:{k}": v for k, v in study.start.scores.items()}


def _numbers(cells: Sequence[CellMeasures]) -> dict[str, float | None]:
    return {name: _mean(getattr(cell, name) for cell in cells) for name in MEANS}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _kl_se(study: Study, cells: Sequence[Cell]) -> float | None:
    tables = [_by_prompt(study, cell.samples, cell.samples.kl_start) for cell in cells]
    common = sorted(set(tables[0]).intersection(*tables[1:])) if tables else []
    if len(common) < 2:
        return None
    return standard_error(np.array([[table[key] for key in common] for table in tables]))


def _compared(study: Study) -> tuple[tuple[Setting, ...], tuple[int, ...], list[str]]:
    """Choose the seeds most settings have, and the settings that have all of them; name the others."""
    seeds_of = {setting: {cell.seed for cell in study.of(setting)} for setting in study.settings}
    measured = {setting: seeds for setting, seeds in seeds_of.items() if seeds}
    if not measured:
        return (), (), []
    patterns = [frozenset(seeds) for seeds in measured.values()]
    wanted = max(patterns, key=lambda p: (sum(p <= q for q in patterns) * len(p), len(p), sorted(p)))
    kept = tuple(setting for setting, seeds in measured.items() if wanted <= seeds)
    notices = [
        f"{setting.name}: not compared, {'nothing' if not seeds else f'not every seed ({sorted(wanted)})'} "
        "was measured."
        for setting, seeds in seeds_of.items()
        if setting not in kept
    ]
    return kept, tuple(sorted(wanted)), notices


def _seeded(study: Study, setting: Setting, seeds: Sequence[int]) -> list[Cell]:
    return [cell for cell in study.of(setting) if cell.seed in seeds]


def _by_prompt(study: Study, samples: Samples, values: Array) -> dict[str, float]:
    """Return means per distinct prompt; values that are not there (NaN) are left out."""
    found: dict[str, list[float]] = {}
    for row, value in zip(samples.row_id, values, strict=True):
        if np.isfinite(value):
            found.setdefault(study.prompt_of.get(row, row), []).append(float(value))
    return {key: fmean(group) for key, group in found.items()}


def _values(samples: Samples, name: str) -> Array:
    if name == "kl":
        return samples.kl_start
    if name in samples.scores:
        return samples.scores[name]
    # The start model against itself: a judge's win rate is one half by definition.
    return np.full(len(samples.row_id), 0.5)


def _shared_prompts(study: Study, tables: Sequence[Samples], score: str) -> tuple[str, ...]:
    keys = [_by_prompt(study, table, _values(table, score)) for table in tables]
    return tuple(key for key in keys[0] if all(key in other for other in keys[1:]))


def _per_prompt(study: Study, samples: Samples, name: str, prompts: Sequence[str]) -> Array:
    found = _by_prompt(study, samples, _values(samples, name))
    return np.array([found[prompt] for prompt in prompts])


def _gold(study: Study, compared: Sequence[Setting], seeds: Sequence[int]) -> Array | None:
    if study.gold is None:
        return None
    name = study.gold
    values = [
        _mean(cell.numbers.scores.get(name) for cell in _seeded(study, setting, seeds))
        for setting in compared
    ]
    known = [study.start.scores.get(name), *values]
    return None if any(v is None for v in known) else np.array(known, dtype=np.float64)


def _dialled(study: Study, score: str, prompts: Sequence[str]) -> Iterable[Dialled]:
    for cell in study.cells:
        for path in sorted((study.folder / SHARED / "dial" / cell.record.cell_id).glob("d-*.parquet")):
            samples = read_table(Samples, path)
            value = float(path.stem.removeprefix("d-"))
            if score in samples.scores and all(
                prompt in _by_prompt(study, samples, samples.scores[score]) for prompt in prompts
            ):
                yield Dialled(
                    cell=cell.record.cell_id,
                    setting=cell.setting,
                    dial=value,
                    scores=_per_prompt(study, samples, score, prompts),
                    kl=_per_prompt(study, samples, "kl", prompts),
                )
