"""A program for the benchmark to run: notes which process it is, or fails as its beta says."""

import os
from pathlib import Path

from bench.jobs import Outcome, read_job, write

calls: list[int] = []


def main(job_file: str, outcome_file: str) -> None:
    """Write an outcome whose losses are this process, its parent, calls so far and beta."""
    job = read_job(Path(job_file))
    if job.beta == 0:
        raise ValueError("beta is 0")
    if job.beta > 1:
        os._exit(int(job.beta))
    calls.append(1)
    losses = [float(os.getpid()), float(os.getppid()), float(len(calls)), job.beta]
    write(Path(outcome_file), Outcome(1.0, 1.0, 2.0, losses, 1, 1, 1.0, 1.0, {}))
