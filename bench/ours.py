"""Child process: the real `tether train`, by its command line, with time marks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.jobs import Job, read_job, write
from bench.marks import Marks
from tether.cli.main import main as tether
from tether.training import loop, references, run


def options(job: Job) -> dict[str, object]:
    """Return the options that a run and a study of runs share."""
    found: dict[str, object] = {
        "model": job.adapter or job.model,
        "data": job.rows,
        "output-dir": job.out,
        "loss-type": job.loss_type,
        "learning-rate": job.learning_rate,
        "num-train-epochs": 1,
        "train-batch-size": job.per_update,
        "train-sampling-strategy": "sequential",
        "max-length": job.max_length,
        "device": job.device,
        # TRL measures no samples of the model, so neither do we here.
        "measure-prompts": 0,
    }
    if job.budget is not None:
        found["max-tokens-per-microbatch"] = job.budget
    return found


def arguments(job: Job) -> list[str]:
    """Return the command line of a job."""
    switches = ["--bf16" if job.bf16 else "--no-bf16"]
    if job.checkpointing:
        switches.append("--gradient-checkpointing")
    return ["train", *words({**options(job), "beta": job.beta}), *switches]


def words(options: dict[str, object]) -> list[str]:
    """Return options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def remember(marks: Marks, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the gradient of an update, its loss and its tokens noted."""

    def call(engine: Any, batch: Any, *rest: Any) -> Any:
        scored = function(engine, batch, *rest)
        marks.losses.append(scored.loss)
        own = int(batch.completion_lengths.sum())
        marks.tokens += own + int(batch.prompt_lengths[batch.group_of].sum())
        marks.completion_tokens += own
        return scored

    return call


def book(marks: Marks) -> None:
    """Put a clock around each stage of a run."""
    gradient: Any = marks.timed("gradient", loop.update_gradient)
    loop.update_gradient = remember(marks, gradient)
    for module, name, stage in (
        (run, "layout_for", "layout check"),
        (references, "fill_table", "reference"),
        (references, "verify_self", "step-0 check"),
        (references, "verify_rescored", "step-0 check"),
    ):
        setattr(module, name, marks.timed(stage, getattr(module, name)))


def main(job_file: str, outcome_file: str) -> None:
    """Run the job and write what was measured."""
    job = read_job(Path(job_file))
    marks = Marks(job.updates)
    book(marks)
    try:
        tether(arguments(job))
    except SystemExit as end:
        if end.code:
            raise
    write(Path(outcome_file), marks.outcome())


if __name__ == "__main__":
    main(*sys.argv[1:])
