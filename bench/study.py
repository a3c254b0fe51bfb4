"""Child process: the real `tether study` over several betas, by its command line, with time marks.

The clock runs from the first forward pass of any worker to the last optimizer step of any: scoring, checks,
saving and measuring of cells in between are in it. The least that can be measured is: one held-out row, one
answer of one token per model.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.jobs import Job, Outcome, read_job, write
from bench.marks import process_age
from bench.ours import options, words
from bench.worker import Worked, files, read
from tether.cli.main import main as tether
from tether.records.study import read_study
from tether.study import executor


def arguments(job: Job) -> list[str]:
    """Return the command line of a job."""
    own = {
        "beta": ",".join(map(str, job.betas)),
        "eval-data": job.held_out,
        "measured-prompts": 1,
        "samples-per-prompt": 1,
        "kl-max-new-tokens": 1,
    }
    return ["study", *words({**options(job), **own}), "--bf16" if job.bf16 else "--no-bf16"]


def joined(job: Job, workers: Sequence[Worked], age: float, now: float) -> Outcome:
    """Return several workers' outcomes as one: losses in the order of the betas, memory of all at once.

    `age` is this process's, in seconds, at the time `now`.

    Raises:
        RuntimeError: a beta was trained by no worker, or by more than one.

    """
    beta_of = {cell.cell_id: cell.factors.beta for cell in read_study(Path(job.out)).cells}
    losses: dict[float | None, list[float]] = {}
    for one in workers:
        for at, cell in enumerate(one.cells):
            losses.setdefault(beta_of[cell], []).extend(
                one.outcome.losses[at * job.updates : (at + 1) * job.updates]
            )
    if any(len(losses.get(beta, [])) != job.updates for beta in job.betas):
        raise RuntimeError(f"not every beta was trained once: { ({b: len(x) for b, x in losses.items()}) }")
    outcomes = [one.outcome for one in workers]
    first = min(one.first for one in workers)
    names = sorted({name for outcome in outcomes for name in outcome.stages})
    return Outcome(
        seconds=max(one.last for one in workers) - first,
        setup_seconds=age - (now - first),
        total_seconds=age,
        losses=[loss for beta in job.betas for loss in losses[beta]],
        tokens=sum(outcome.tokens for outcome in outcomes),
        completion_tokens=sum(outcome.completion_tokens for outcome in outcomes),
        peak_mib=sum(outcome.peak_mib for outcome in outcomes),
        process_peak_mib=sum(outcome.process_peak_mib for outcome in outcomes),
        stages={name: sum(outcome.stages.get(name, 0.0) for outcome in outcomes) for name in names},
        processor_seconds=sum(outcome.processor_seconds for outcome in outcomes),
    )


def main(job_file: str, outcome_file: str) -> None:
    """Run the job and write what was measured."""
    job = read_job(Path(job_file))
    executor.WORKER = "bench.worker"
    try:
        tether(arguments(job))
    except SystemExit as end:
        if end.code:
            raise
    workers = [read(path) for path in files(Path(job.out))]
    write(Path(outcome_file), joined(job, workers, process_age(), time.perf_counter()))


if __name__ == "__main__":
    main(*sys.argv[1:])
