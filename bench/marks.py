"""Time marks set inside a child process, by the same means in both programs.

The clock starts at the first forward pass of any module and stops after the last optimizer step, whoever
wrote the loop around them.
"""

import functools
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.jobs import Outcome


class Marks:
    """Marks and sums of one child process: of a run of so many updates, or of several such runs."""

    def __init__(self, updates: int) -> None:
        self._age, self._now = process_age(), time.perf_counter()
        self._updates = updates
        self._done = 0
        self._first: float | None = None
        self._last: float | None = None
        self._processor_began = self._processor = 0.0
        self._peak = 0.0
        self._step_began = 0.0
        self.losses: list[float] = []
        self.tokens = 0
        self.completion_tokens = 0
        self.stages: dict[str, float] = defaultdict(float)
        self._first_hook = register_module_forward_pre_hook(self._forward)
        self._step_hooks = (
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        )

    def close(self) -> None:
        """Take every hook off again."""
        for hook in (self._first_hook, *self._step_hooks):
            hook.remove()

    def _forward(self, module: Any, arguments: Any) -> None:
        self._first, self._processor_began = time.perf_counter(), time.process_time()
        self._first_hook.remove()

    def _before_step(self, *_: Any) -> None:
        self._step_began = time.perf_counter()

    def _after_step(self, *_: Any) -> None:
        self.stages["optimizer"] += time.perf_counter() - self._step_began
        self._done += 1
        if self._done % self._updates == 0:
            self._stop()

    def _stop(self) -> None:
        """Stop the clock; another run of the same process may stop it again, later."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._last = time.perf_counter()
        self._processor = time.process_time() - self._processor_began
        self._peak = peak_mib()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time booked under a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.stages[stage] += time.perf_counter() - began

        return call

    def span(self) -> tuple[float, float]:
        """Return when the clock was started and stopped last, on the clock all processes of a machine share.

        Raises:
            RuntimeError: it was not.

        """
        if self._first is None or self._last is None:
            raise RuntimeError(f"{self._done} optimizer steps were made, {self._updates} announced")
        return self._first, self._last

    def outcome(self, *, runs: int = 1) -> Outcome:
        """Return what was measured of `runs` runs, one after the other.

        Raises:
            RuntimeError: no forward pass, or not as many updates as announced.

        """
        if self._done != runs * self._updates:
            raise RuntimeError(f"{self._done} optimizer steps were made, {runs * self._updates} announced")
        first, last = self.span()
        return Outcome(
            seconds=last - first,
            setup_seconds=self._age + first - self._now,
            total_seconds=self._age + time.perf_counter() - self._now,
            losses=self.losses,
            tokens=self.tokens,
            completion_tokens=self.completion_tokens,
            peak_mib=self._peak,
            process_peak_mib=peak_mib(),
            stages=dict(self.stages),
            processor_seconds=self._processor,
        )


def process_age() -> float:
    """Return how many seconds ago this process was started."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def peak_mib() -> float:
    """Return the peak memory of this process (of the accelerator where it was used), MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
