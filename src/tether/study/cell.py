"""One cell of a study, from its factors to its measures: an ordinary run, then measured from its folder."""

import gc
import shutil
import time
from pathlib import Path

import torch

from tether.config.train import TrainConfig
from tether.errors import Interrupted, TetherError
from tether.records.results import RunRecord, read_lines, read_run, write_json
from tether.records.study import CELL, CellRecord, cell_folder, measures, read_record
from tether.study.bench import Bench
from tether.study.extras import measure_extras
from tether.training.run import Given, train
from tether.training.track import Watcher


def run_cell(bench: Bench, cell_id: str, watcher: Watcher, worker: int | None = None) -> CellRecord:
    """Train and measure one cell; whatever goes wrong with it is written into its record.

    Raises:
        Interrupted: a signal stopped it; its state is saved.

    """
    path = cell_folder(bench.folder, cell_id) / CELL
    path.parent.mkdir(parents=True, exist_ok=True)
    record = (
        read_record(CellRecord, path)
        if path.is_file()
        else CellRecord(cell_id=cell_id, factors=bench.cells[cell_id].factors)
    )
    record = record.model_copy(
        update={"state": "running", "attempts": record.attempts + 1, "error": None, "worker": worker}
    )
    write_json(path, record)
    seconds = dict(record.seconds)
    try:
        _train_and_measure(bench, cell_id, watcher, seconds)
        record = record.model_copy(update={"state": "finished", "seconds": seconds})
    except Interrupted:
        stopped = {"state": "interrupted", "attempts": record.attempts - 1, "seconds": seconds}
        write_json(path, record.model_copy(update=stopped))
        raise
    except Exception as error:  # one cell never stops the others, not even by a bug
        record = record.model_copy(update={"state": "failed", "error": failure(error), "seconds": seconds})
    finally:
        _free()
    write_json(path, record)
    return record


def _train_and_measure(bench: Bench, cell_id: str, watcher: Watcher, seconds: dict[str, float]) -> None:
    cell, home = bench.cells[cell_id], cell_folder(bench.folder, cell_id)
    began = time.perf_counter()
    try:
        known = read_run(home) if (home / "run.json").is_file() else None
        if known is not None and known.status == "finished":
            run = known
        else:
            bench.load()
            evaluators = bench.evaluators if cell.config.measure_prompts else []
            run = train(cell.config, given=Given(shared=bench.shared), evaluators=evaluators, watcher=watcher)
    finally:
        seconds["train"] = seconds.get("train", 0.0) + time.perf_counter() - began
    _free()
    if measures(home) is None:
        watcher.stage("measuring")
        began = time.perf_counter()
        bench.measure(cell, held_out_loss(run, home))
        seconds["measure"] = time.perf_counter() - began
    measure_extras(bench, cell, watcher, seconds)
    if not bench.config.keep_checkpoints:
        shutil.rmtree(home / "checkpoints", ignore_errors=True)


def failure(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, TetherError) else f"{type(error).__name__}: {text}"


def held_out_loss(record: RunRecord, folder: Path) -> tuple[float, float | None] | None:
    """Return the held-out loss of the weights that were kept, and its standard error."""
    config = TrainConfig.model_validate(record.config)
    lines = [
        line for line in read_lines(folder / "metrics.jsonl") if line["phase"] == "eval" and line["step"]
    ]
    if not lines:
        return None
    line = lines[-1]
    name = config.metric_for_best_model
    if config.load_best_model_at_end and all(name in candidate for candidate in lines):
        # The first of equals is kept: a later one must be better.
        line = (max if config.best_is_greater else min)(lines, key=lambda entry: entry[name])
    return line["eval_loss"], line.get("eval_loss_se")


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
