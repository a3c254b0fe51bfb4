"""A task by its name: config, run, and the pages of the task and of its training runs."""

from pathlib import Path
from typing import Any

from tether.judging.named import judge_named
from tether.records.task import TaskRecord
from tether.reports.card import write_card
from tether.reports.page import write_report
from tether.reports.task_page import write_task_page
from tether.tasks.configured import task_config
from tether.tasks.plan import plan_task as plan_stages
from tether.tasks.run import Told, run_task, silent


def task(
    name: str,
    output_dir: str | Path,
    *,
    full: str | None = None,
    quick: bool = False,
    told: Told = silent,
    **options: Any,
) -> TaskRecord:
    """Run a task of the literature and write its page; the same as `tether task run`.

    `full` is None (small), "paper" (public models and data) or a YAML file; other options are keys of its
    config. `told` is asked with the name of each stage and gives what watches it.

    Raises:
        TetherError: every refusal, with one line that says what to do.

    """
    config, out = task_config(name, full, quick=quick, overrides=options), Path(output_dir)
    record = run_task(config, out, told, None if config.judge is None else judge_named(config.judge))
    for run in sorted((out / "runs").iterdir()):
        if not (run / "report.html").is_file():
            write_report(run)
            write_card(run)
    write_task_page(out)
    return record


def plan_task(
    name: str, output_dir: str | Path, *, full: str | None = None, quick: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Return the stages of a task without loading a model; the same as `tether task run --plan`."""
    return plan_stages(task_config(name, full, quick=quick, overrides=options), Path(output_dir))
