"""Cross-fitted implicit reward: policies of one half of the pairs, scored by a model of the other half.

    policies   every cell of the main arm once more on the first half of its pairs and once on the second
    scorers    DPO from the start model (reference self) on each half, at betas b fixed beforehand
    score      of a half's policy sample y:  b (log scorer(y) - log start(y)),  the scorer of the other half

A policy is never scored by what was fitted to its own labels, so luck in them does not look like reward; the
same-half score rises without end as beta falls. The start model's samples get the mean over both halves. All
halves are ordinary runs: shared references, checkpoints, the same bits as `tether train --data-half`.

    cells/<cell_id>/halves/<half>/             a policy's run
    cells/<cell_id>/measures/crossed.parquet   `Samples` of both policies, scores `cross_fitted:<b>`
    shared/scorers/<half>-beta<b>/             a scorer's run
    shared/scorers/start.parquet               `Samples` of the start model
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tether.config.train import TrainConfig
from tether.errors import DataError, UsageError
from tether.generation.divergence import divergence
from tether.generation.streams import Source
from tether.records.results import read_run
from tether.records.study import CROSSED, MEASURES, SCORERS, SHARED, cell_folder, crossed_score
from tether.study.bench import START, Array, Bench
from tether.study.grid import Cell, main_cells
from tether.study.judged import with_scores
from tether.study.measure import sample_table
from tether.study.tables import Samples, read_table, write_table
from tether.training.prepare import task_of
from tether.training.run import Given, train
from tether.training.score import autocast_for, device_of, uses_bf16
from tether.training.track import Watcher

HALVES = ("first", "second")


def crossed_cells(bench: Bench) -> list[Cell]:
    """Return the cells that are cross-fitted: those of the main arm, where the study asks for it."""
    return main_cells(bench.cells.values()) if bench.config.cross_fit else []


def check_cross_fit(bench: Bench) -> None:
    """Refuse a study that cannot be cross-fitted.

    Raises:
        UsageError: the main arm reads no pairs or has no reference, or the study uses a half already.
        DataError: half of the pairs do not fill one update.

    """
    for cell in crossed_cells(bench)[:1]:
        config = cell.config
        where = f"cross_fit: the main arm is {cell.factors.loss_type}, reference {cell.factors.reference}"
        if task_of(config) != "preference":
            raise UsageError(f"{where}; it reads no pairs, so there is no other half to score by")
        if config.reference == "none":
            raise UsageError(
                f"{where}; implicit reward is beta x log(model / reference): name a reference, such as self"
            )
        if config.data_half != "both":
            raise UsageError(
                f"cross_fit halves the pairs itself; data_half is {config.data_half}: leave it out"
            )
        share = config.data_fraction / bench.common.data_fraction
        check_half("cross_fit", round(share * len(bench.rows.prepared.train.groups)) // 2, config)


def check_half(asked: str, pairs: int, config: TrainConfig) -> None:
    """Refuse a half that does not fill one update.

    Raises:
        DataError: naming its number of pairs; `asked` is what asked for halves.

    """
    if pairs < config.pairs_per_update:
        raise DataError(
            f"{asked}: a half of the pairs has {pairs}, fewer than one update takes "
            f"({config.pairs_per_update}); give more pairs or a smaller train_batch_size"
        )


def crossed_missing(bench: Bench, cell_id: str) -> bool:
    """Whether a cell's halves have still to be trained or scored."""
    if cell_id not in [cell.cell_id for cell in crossed_cells(bench)]:
        return False
    wanted = {crossed_score(beta) for beta in bench.config.cross_fit}
    return any(not _scored(path, wanted) for path in (_crossed_path(bench, cell_id), _start_path(bench)))


def _scored(path: Path, wanted: set[str]) -> bool:
    return path.is_file() and wanted <= set(read_table(Samples, path).scores)


def further_runs(bench: Bench) -> float:
    """Return what cross-fitting the whole study takes, in training runs on all pairs: two halves are one."""
    cells = crossed_cells(bench)
    return float(len(cells) + len(bench.config.cross_fit)) if cells else 0.0


def cross_fit(bench: Bench, cell: Cell, watcher: Watcher) -> None:
    """Train and score what is missing of one cell's halves; the scorers and the start model's scores once.

    Raises:
        Interrupted: a signal stopped it; the run it was in is saved.

    """
    for half in HALVES:
        for beta in bench.config.cross_fit:
            _scorer(bench, half, beta, watcher)
    with bench.shared.lock(START, "crossed"):
        path = _start_path(bench)
        if not _scored(path, {crossed_score(beta) for beta in bench.config.cross_fit}):
            table = read_table(Samples, bench.folder / SHARED / START / "samples.parquet")
            write_table(path, replace(table, scores=table.scores | start_scores(bench, table)))
    samples: list[dict[str, Any]] = []
    for half, other in zip(HALVES, reversed(HALVES), strict=True):
        home = cell_folder(bench.folder, cell.cell_id) / "halves" / half
        _trained(bench, half_config(cell.config, half, home), watcher)
        watcher.stage(f"scoring the {half} half by the other")
        model = bench.model_at(home / "model", cell.config)
        mine = bench.answers(model, bench.start)
        del model
        scores = scorer_rewards(bench, other, [s["prompt"] for s in mine], [s["ids"] for s in mine])
        for name, values in scores.items():
            mine = with_scores(mine, name, values.tolist())
        samples += mine
    rows = [row.row_id for row in bench.rows.asked]
    write_table(_crossed_path(bench, cell.cell_id), sample_table(samples, rows))


def start_scores(bench: Bench, table: Samples) -> dict[str, Array]:
    """Return the start model's samples scored by both halves' scorers: the mean of the two."""
    places = {row.row_id: place for place, row in enumerate(bench.rows.asked)}
    prompts = [places[row] for row in table.row_id]
    first, second = (scorer_rewards(bench, half, prompts, table.token_ids) for half in HALVES)
    return {name: (first[name] + second[name]) / 2 for name in first}


def scorer_rewards(
    bench: Bench, half: str, prompts: Sequence[int], completions: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """Return b (log scorer - log start) of completions, in nats, for every scorer of one half.

    `prompts` are places among the study's prompts; `completions` their token ids.
    """
    ids = bench.asking(None)["prompt_ids"]
    given = [ids[place] for place in prompts]
    found: dict[str, Array] = {}
    for beta in bench.config.cross_fit:
        scorer = bench.model_at(_scorer_home(bench, half, beta) / "model", bench.common)
        with autocast_for(uses_bf16(bench.common), device_of(bench.common.device))():
            found[crossed_score(beta)] = implicit_rewards(scorer, bench.start, given, completions, beta)
    return found


def implicit_rewards(
    scorer: Any,
    start: Any,
    prompt_ids: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    beta: float,
) -> Array:
    """Return beta (log scorer - log start) of completions, in nats: one number each. Runs under autocast."""
    along = divergence(Source(scorer), {START: Source(start)}, prompt_ids, completions)
    return beta * along.log_ratio[START].cpu().numpy().astype(np.float64)


def half_config(config: TrainConfig, half: str, home: Path) -> TrainConfig:
    """Return a run on one half: as many passes, so half the updates where updates were counted."""
    steps = config.max_steps
    changed: dict[str, Any] = {
        "data_half": half,
        "output_dir": str(home),
        "measure_prompts": 0,
        "evaluators": (),
        "max_steps": steps if steps <= 0 else max(1, -(-steps // 2)),
    }
    return config.model_copy(update=changed)


def _scorer(bench: Bench, half: str, beta: float, watcher: Watcher) -> None:
    """Train a scorer, unless another worker did: it is alone with it while it trains."""
    home = _scorer_home(bench, half, beta)
    like = crossed_cells(bench)[0].config
    as_dpo: dict[str, Any] = {
        "loss_type": ("sigmoid",),
        "reference": "self",
        "beta": beta,
        "seed": bench.config.seed[0],
        "learning_rate": bench.config.learning_rate[0],
        "loss_weights": None,
    }
    with bench.shared.lock(SCORERS, home.name):
        _trained(bench, half_config(like, half, home).model_copy(update=as_dpo), watcher)


def _trained(bench: Bench, config: TrainConfig, watcher: Watcher) -> None:
    home = Path(config.output_dir)
    if not ((home / "run.json").is_file() and read_run(home).status == "finished"):
        train(config, given=Given(shared=bench.shared), watcher=watcher)
    if not bench.config.keep_checkpoints:
        shutil.rmtree(home / "checkpoints", ignore_errors=True)


def _scorer_home(bench: Bench, half: str, beta: float) -> Path:
    return bench.folder / SHARED / SCORERS / f"{half}-beta{beta:g}"


def _crossed_path(bench: Bench, cell_id: str) -> Path:
    return cell_folder(bench.folder, cell_id) / MEASURES / CROSSED


def _start_path(bench: Bench) -> Path:
    return bench.folder / SHARED / SCORERS / "start.parquet"
