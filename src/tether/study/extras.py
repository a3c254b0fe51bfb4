"""What a study makes beside its cells, once, whenever a run of it finds it missing.

On demand: the dial of one trained model, how alike the texts of each pair are, cross-fitting (`crossed`). By
itself, where samples are scored by a world whose completions are listed: the exact optimum (`optimum`).
"""

import time
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from tether.errors import UsageError
from tether.generation.measure import measure_dials
from tether.policies.logprobs import summed_hidden
from tether.records.results import write_json
from tether.records.study import CROSS_FIT, SHARED, SUMMARY, measures
from tether.study.bench import START, Bench
from tether.study.crossed import cross_fit, crossed_missing
from tether.study.grid import Cell
from tether.study.measure import sample_table
from tether.study.optimum import keep_optimum, optimum_missing
from tether.study.tables import Ches, write_table
from tether.tokens.collate import collate, plan_microbatches
from tether.tokens.render import EncodedGroup
from tether.training.score import autocast_for, device_of, uses_bf16
from tether.training.track import Watcher

DIAL = "dial"


def dial_cells(bench: Bench) -> tuple[str, ...]:
    """Return the cells whose dial is turned: those named, else the one of middle beta of the first arm."""
    config = bench.config
    if not config.dial:
        return ()
    if config.dial_cells:
        return config.dial_cells
    first = next(iter(bench.cells.values())).factors
    arm = {"beta": None}
    alike = [
        cell
        for cell in bench.cells.values()
        if cell.factors.beta is not None
        and cell.factors.model_copy(update=arm) == first.model_copy(update=arm)
    ]
    ordered = sorted(alike, key=lambda cell: cell.factors.beta or 0.0)
    return (ordered[len(ordered) // 2].cell_id,) if ordered else ()


def check_dials(bench: Bench) -> None:
    """Refuse a dial that would be turned on no cell.

    Raises:
        UsageError: `dial_cells` names a cell the study does not have, or no cell has a beta in the middle.

    """
    if not bench.config.dial:
        return
    unknown = next((name for name in bench.config.dial_cells if name not in bench.cells), None)
    if unknown is not None:
        near = get_close_matches(unknown, bench.cells, n=1)
        raise UsageError(
            f"dial_cells: this study has no cell {unknown!r}; "
            + (f"did you mean {near[0]}?" if near else f"its cells: {', '.join(bench.cells)}")
        )
    if not dial_cells(bench):
        raise UsageError("dial: no cell of the first arm has a beta; name the cells to turn in dial_cells")


def complete(bench: Bench) -> set[str]:
    """Return the cells that are measured, with everything asked of them on demand."""
    first = next(iter(bench.cells))
    start_missing = measures(bench.folder / SHARED / START) is None
    return {
        name
        for name in bench.finished()
        if not list(dials_missing(bench, name))
        and not crossed_missing(bench, name)
        and not ((start_missing or _ches_missing(bench) or optimum_missing(bench)) and name == first)
    }


def measure_extras(bench: Bench, cell: Cell, watcher: Watcher, seconds: dict[str, float]) -> None:
    """Make what belongs to this cell and is not there yet; `seconds` gets what cross-fitting took.

    Raises:
        Interrupted: a signal stopped it while it trained a half; its state is saved.

    """
    bench.start_measures()
    if optimum_missing(bench):
        with bench.shared.lock(START, "optimum"):
            if optimum_missing(bench):
                keep_optimum(bench)
    if crossed_missing(bench, cell.cell_id):
        began = time.process_time()  # of the processor: waiting for another worker's scorer costs nothing
        try:
            cross_fit(bench, cell, watcher)
        finally:
            seconds[CROSS_FIT] = seconds.get(CROSS_FIT, 0.0) + time.process_time() - began
    values = list(dials_missing(bench, cell.cell_id))
    if values:
        measure_dial(bench, cell, values)
    if _ches_missing(bench):
        with bench.shared.lock(START, "ches"):
            if _ches_missing(bench):
                _keep_ches(bench)


def dials_missing(bench: Bench, cell_id: str) -> Iterator[float]:
    """Yield the dial values that have still to be measured on a cell."""
    if cell_id in dial_cells(bench):
        yield from (value for value in bench.config.dial if not _dial_path(bench, cell_id, value).is_file())


def _dial_path(bench: Bench, cell_id: str, value: float) -> Path:
    return bench.folder / SHARED / DIAL / cell_id / f"d-{value:g}.parquet"


def _ches_path(bench: Bench) -> Path:
    return bench.folder / SHARED / START / "ches.parquet"


def _ches_missing(bench: Bench) -> bool:
    return bench.config.ches and not _ches_path(bench).is_file()


def _keep_ches(bench: Bench) -> None:
    """Write the pairs' scores, and their mean over held-out pairs into the start model's summary."""
    table = ches_table(bench)
    held_out = [v for v, part in zip(table.ches_normalised, table.part, strict=True) if part == "eval"]
    mean = float(np.mean(held_out)) if held_out else None
    summary = bench.start_measures().model_copy(update={"ches": mean})
    write_json(bench.folder / SHARED / START / SUMMARY, summary)
    write_table(_ches_path(bench), table)


def measure_dial(bench: Bench, cell: Cell, values: Sequence[float]) -> None:
    """Sample policy^d start^(1-d) of one trained model for every value d, on the study's prompts."""
    policy = bench.trained(cell)
    asking = bench.asking(bench.start)
    with autocast_for(uses_bf16(bench.common), device_of(bench.common.device))():
        measured = measure_dials(policy, values, **asking)
    for value, (_, samples) in zip(values, measured, strict=True):
        path = _dial_path(bench, cell.cell_id, value)
        judged = bench.judged(samples, path.parent)
        write_table(path, sample_table(judged, [row.row_id for row in bench.rows.asked]))


def ches_table(bench: Bench) -> Ches:
    """Return the CHES score of every pair under the start model, of training and held-out rows.

    CHES(x, w, l) = <sum h_w, sum h_l> - |sum h_w|^2, h the hidden states that predict the completion's
    tokens, before the head; normalised: <., .> / (|w| |l|) - |.|^2 / |w|^2. High scores go with the chosen
    text losing probability (Razin et al., arXiv 2410.08847, definition 2 and its length-normalised form).
    """
    parts = {"train": bench.rows.prepared.train.groups, "eval": bench.rows.prepared.held_out.groups}
    row_id: list[str] = []
    part: list[str] = []
    plain: list[float] = []
    normalised: list[float] = []
    engine = bench.engine(bench.start)
    for name, groups in parts.items():
        batch = collate([group for group in groups if _is_pair(group)])
        for chunk in plan_microbatches(batch, bench.budget, engine.layout):
            some = batch.select(chunk)
            with engine.autocast():
                sums = summed_hidden(engine.model, some, layout=engine.layout).double().cpu()
            chosen, rejected = (sums[some.with_role(role)] for role in ("chosen", "rejected"))
            long, short = (
                some.scored_lengths[some.with_role(role)].double() for role in ("chosen", "rejected")
            )
            cross, square = (chosen * rejected).sum(-1), (chosen * chosen).sum(-1)
            row_id += some.row_ids
            part += [name] * len(some)
            plain += (cross - square).tolist()
            normalised += (cross / (long * short) - square / (long * long)).tolist()
    return Ches(row_id, part, np.array(plain), np.array(normalised))


def _is_pair(group: EncodedGroup) -> bool:
    return sorted(c.role for c in group.completions) == ["chosen", "rejected"]
