"""Fresh processes in turns, and the guard that rejects a run on a busy machine."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.jobs import Job, Outcome, read_outcome, write
from bench.machine import QUIET, square_rate

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
TRIES = 5
"""Of a run; then its round begins again."""
ROUNDS = 3
WARMING, PROBES = 5, 5
"""Before the first round, thrown away: an idle host grants a burst that no run of a minute keeps. At the
start of every round: their median is the machine's usual rate in that round."""

CHILDREN = {"tether": "bench.ours", "tether-score": "bench.ours", "trl": "bench.theirs"}


class NotQuiet(Exception):
    """The machine did not keep its usual speed for the length of a run."""


class ChildFailed(Exception):
    """A child process ended with an error; carries the end of what it said."""


@dataclass(frozen=True)
class Run:
    """One accepted run of a child, and the matrix rate around it."""

    job: Job
    outcome: Outcome
    rate: float | None
    """The lower of the rates before and after, FLOP per second; None: accepted without asking."""


class Turns:
    """Starts children one after the other and keeps an eye on the machine."""

    def __init__(self, work: Path, *, threads: int, busy_ok: bool, say: Callable[[str], None]) -> None:
        self._work, self._threads, self._busy_ok, self._say = work, threads, busy_ok, say
        self._usual: dict[tuple[str, bool], float] = {}
        self._warm = False
        self._now: float | None = None
        """The rate measured last, while nothing has run since."""
        self._count = 0
        self.rejected = 0

    def round(self, runs: Callable[[], T]) -> T:
        """Make runs that are compared with one another, all at one usual rate of the machine.

        A shared host may change its pace for many minutes; then the round begins again, at that pace.

        Raises:
            NotQuiet: no round could be finished.
            ChildFailed: a child ended with an error.

        """
        for _ in range(ROUNDS - 1):
            self._usual.clear()
            try:
                return runs()
            except NotQuiet as error:
                self._say(f"{error}; this round begins again")
        self._usual.clear()
        return runs()

    def usual(self, device: str, bf16: bool) -> float:
        """Return the machine's usual rate: a median, for a best one is luck on a shared host."""
        key = (device, bf16)
        if key not in self._usual:
            for _ in range(0 if self._warm else WARMING):
                square_rate(device, bf16)
            self._warm = True
            rates = [square_rate(device, bf16) for _ in range(PROBES)]
            self._usual[key], self._now = statistics.median(rates), rates[-1]
        return self._usual[key]

    def unclocked(self, job: Job) -> Outcome:
        """Run a job in a fresh process for what a slow machine leaves as it is: its memory."""
        self._now = None
        return self._child(job)[1]

    def run(self, job: Job) -> Run:
        """Run a job in a fresh process; again where the machine was not quiet.

        Raises:
            NotQuiet: it was not in any of a few tries.
            ChildFailed: the child ended with an error.

        """
        if self._busy_ok:
            return Run(*self._child(job), rate=None)
        for _ in range(TRIES):
            usual = self.usual(job.device, job.bf16)
            before, self._now = self._now, None
            if before is None or before < QUIET * usual:
                before = square_rate(job.device, job.bf16)
            run, outcome = self._child(job)
            after = square_rate(job.device, job.bf16)
            slow = min(before, after)
            if slow >= QUIET * usual:
                self._now = after
                return Run(run, outcome, slow)
            self.rejected += 1
            self._say(f"rejected: the machine gave {slow / usual:.0%} of its usual speed around this run")
        raise NotQuiet(f"{TRIES} runs in a row were rejected; end what else runs here, or give --busy-ok")

    def _child(self, job: Job) -> tuple[Job, Outcome]:
        self._count += 1
        folder = self._work / f"run-{self._count:03}"
        folder.mkdir(parents=True)
        job = Job(**{**vars(job), "out": str(folder / "out")})
        write(folder / "job.json", job)
        command = [
            sys.executable,
            "-m",
            CHILDREN[job.program],
            *map(str, (folder / "job.json", folder / "outcome.json")),
        ]
        # torch's usual allocator settings are left alone: what a user gets is what is measured.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self._threads),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        }
        with (folder / "log.txt").open("wb") as log:
            status = subprocess.run(
                command, stdout=log, stderr=log, env=environment, cwd=ROOT, check=False
            ).returncode
        if status:
            end = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
            raise ChildFailed(f"{job.program} ended with {status}:\n" + "\n".join(end))
        return job, read_outcome(folder / "outcome.json")
