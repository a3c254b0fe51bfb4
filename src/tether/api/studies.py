"""Many runs: studies, calibration, references beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.study import StudyConfig, build_study
from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.judging.named import judge_named
from tether.judging.pairwise import Cache
from tether.records.calibration import Calibration
from tether.records.references import ReferenceComparison
from tether.records.study import StudyRecord
from tether.study.bench import Bench
from tether.study.calibrate import DIALS
from tether.study.calibrate import calibrate as run_calibration
from tether.study.dialler import Judging
from tether.study.execute import StudyFolder, StudyWatcher, Unwatched
from tether.study.execute import run_study as run_in_folder
from tether.study.plan import StudyPlan, plan_study
from tether.study.references import compare_references as references_beside
from tether.study.report import write_study_report
from tether.training.track import Watcher
from tether.worlds import evaluator_named


def run_study(
    model: str | Path,
    data: str | Path,
    output_dir: str | Path,
    *,
    watcher: StudyWatcher | None = None,
    **options: Any,
) -> StudyRecord:
    """Run a study, or go on with it; the same as `tether study`. Factors are lists (`beta=[1, 0.1]`)."""
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": str(output_dir)}
    return study_config(build_study({**values, **options}, source="study"), watcher=watcher)


def study_config(config: StudyConfig, *, watcher: StudyWatcher | None = None) -> StudyRecord:
    """Run a resolved study, or go on with it; then write its findings and page."""
    record = run_in_folder(config, watcher or Unwatched())
    if any(cell.state == "finished" for cell in record.cells):
        write_study_report(Path(config.output_dir))
    return record


def study_plan(config: StudyConfig) -> StudyPlan:
    """Plan a study without running it; a few of its rows are timed.

    Raises:
        RunFolderError: the folder holds something else, or a study of other options.

    """
    folder = StudyFolder(config)
    folder.refuse_strangers()
    folder.known()
    return plan_study(Bench(folder.config), timing=True)


def calibrate(
    model: str | Path,
    data: str | Path,
    output_dir: str | Path,
    *,
    dials: Sequence[float] = DIALS,
    judge: str | None = None,
    evaluator: str | None = None,
    prompts: int | None = None,
    halves: bool = False,
    watcher: Watcher | None = None,
    **options: Any,
) -> Calibration:
    """Say how tight from one training run, or two on half of the pairs; the same as `tether calibrate`."""
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": str(output_dir)}
    config = build(TrainConfig, {**values, **options}, aliases=TRAIN_ALIASES, source="calibrate")
    return calibrate_config(
        config,
        dials=dials,
        judge=judge,
        evaluator=evaluator,
        prompts=prompts,
        halves=halves,
        watcher=watcher,
    )


def calibrate_config(
    config: TrainConfig,
    *,
    dials: Sequence[float] = DIALS,
    judge: str | None = None,
    evaluator: str | None = None,
    prompts: int | None = None,
    halves: bool = False,
    watcher: Watcher | None = None,
) -> Calibration:
    """Calibrate a resolved config.

    Raises:
        UsageError: a judge and an evaluator.

    """
    if judge is not None and evaluator is not None:
        raise UsageError("calibrate: give --judge or --evaluator, not both: one of them decides")
    judging: Judging | None = None
    if evaluator is not None:
        scored = evaluator_named(evaluator)
        judging = Judging(scored.name, evaluator=scored)
    elif judge is not None:
        cache = Path(config.output_dir) / "opinions.jsonl"
        cache.parent.mkdir(parents=True, exist_ok=True)
        judging = Judging(judge, judge=judge_named(judge), cache=Cache(cache))
    return run_calibration(
        config, dials=dials, judging=judging, prompts=prompts, halves=halves, watcher=watcher
    )


def compare_references(
    model: str | Path,
    data: str | Path,
    references: Sequence[str],
    *,
    rows: int = 1000,
    prompts: int = 32,
    watcher: Watcher | None = None,
    **options: Any,
) -> ReferenceComparison:
    """Look at references before any training; the same as `tether reference compare`.

    Other options are the keys of `tether train` that say how rows are cut and scored.
    """
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": "(none)", **options}
    config = build(TrainConfig, values, aliases=TRAIN_ALIASES, source="reference compare")
    return references_beside(config, references, rows=rows, prompts=prompts, watcher=watcher)
