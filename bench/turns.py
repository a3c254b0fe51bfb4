"""Fresh processes in turns, and the guard that rejects a run on a busy machine."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.jobs import Job, Outcome, read_outcome, write
from bench.machine import QUIET, square_rate

ROOT = Path(__file__).resolve().parents[1]
TRIES = 4
"""Passes over a round: what was rejected in one is run again in the next."""
WARMING = 5
"""Probes before the first round, thrown away: an idle host grants a burst that no run of a minute keeps."""

CHILDREN = {"tether": "bench.ours", "tether-study": "bench.study", "trl": "bench.theirs"}


class NotQuiet(Exception):
    """The machine did not keep its usual speed for the length of a run."""


class ChildFailed(Exception):
    """A child process ended with an error; carries the end of what it said."""


@dataclass(frozen=True)
class Run:
    """One run of a child, and the matrix rate around it."""

    job: Job
    outcome: Outcome
    rate: float | None
    """The lower of the rates before and after, FLOP per second; None: accepted without asking."""


class Turns:
    """Starts children one after the other and keeps an eye on the machine."""

    def __init__(self, work: Path, *, threads: int, busy_ok: bool, say: Callable[[str], None]) -> None:
        self._work, self._threads, self._busy_ok, self._say = work, threads, busy_ok, say
        self._warm = False
        self._count = 0
        self._servers: dict[str, _Server] = {}
        self.rejected = 0

    def round(self, jobs: Sequence[Job]) -> list[Run]:
        """Run jobs that are compared with one another, each in a fresh process, in turn.

        A run counts while the machine gives before and after it at least `QUIET` of its usual rate, which
        is the median of all probes of the round: a best one is luck on a shared host. Others are made again.

        Raises:
            NotQuiet: some run of the round was rejected every time.
            ChildFailed: a child ended with an error.

        """
        if self._busy_ok:
            return [Run(*self._child(job), rate=None) for job in jobs]
        probes: list[float] = []
        runs: dict[int, Run] = {}
        again: Sequence[int] = range(len(jobs))
        for _ in range(TRIES):
            before = self._probe(jobs[0], probes)
            for at in again:
                job, outcome = self._child(jobs[at])
                after = self._probe(jobs[0], probes)
                runs[at] = Run(job, outcome, min(before, after))
                before = after
            usual = statistics.median(probes)
            again = [at for at, run in runs.items() if run.rate is not None and run.rate < QUIET * usual]
            if not again:
                return [runs[at] for at in range(len(jobs))]
            self.rejected += len(again)
            for at in again:
                share = (runs[at].rate or 0.0) / usual
                self._say(f"rejected: the machine gave {share:.0%} of its usual speed around this run")
        raise NotQuiet(
            f"{TRIES} times in a row runs of a round were rejected; end what else runs, or give --busy-ok"
        )

    def _probe(self, job: Job, probes: list[float]) -> float:
        for _ in range(0 if self._warm else WARMING):
            square_rate(job.device, job.bf16)
        self._warm = True
        probes.append(square_rate(job.device, job.bf16))
        return probes[-1]

    def unclocked(self, job: Job) -> Outcome:
        """Run a job in a fresh process for what a slow machine leaves as it is: its memory."""
        return self._child(job)[1]

    def _child(self, job: Job) -> tuple[Job, Outcome]:
        self._count += 1
        folder = self._work / f"run-{self._count:03}"
        folder.mkdir(parents=True)
        job = Job(**{**vars(job), "out": str(folder / "out")})
        write(folder / "job.json", job)
        log = folder / "log.txt"
        request = [str(folder / "job.json"), str(folder / "outcome.json"), str(log)]
        status = self._server(job.program).asked(request)
        if status != 0:
            said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            raise ChildFailed(f"{job.program} ended with {status}:\n" + "\n".join(said.splitlines()[-12:]))
        return job, read_outcome(folder / "outcome.json")

    def _server(self, program: str) -> "_Server":
        if program not in self._servers:
            self._servers[program] = _Server(CHILDREN[program], self._work, self._threads)
        return self._servers[program]

    def close(self) -> None:
        """End the processes that runs are forked from."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


class _Server:
    """A process that has imported a program and forks for every run of it."""

    def __init__(self, module: str, work: Path, threads: int) -> None:
        # torch's usual allocator settings are left alone: what a user gets is what is measured.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str((work / "cache").absolute()),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )

    def asked(self, request: list[str]) -> int:
        """Have one run made; return its exit status."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return int(answer) if answer else self._process.wait() or 1

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
