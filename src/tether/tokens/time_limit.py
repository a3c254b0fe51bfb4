"""A limit on the processor time of a piece of Python: for programs that come with a model, its templates."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NoReturn


class OutOfTime(BaseException):
    """The time is up; no Exception, so that no handler of the bounded code swallows it."""


@contextmanager
def processor_time(seconds: float) -> Generator[None]:
    """Raise OutOfTime where the block uses more processor time than this.

    Counts the time this process computes, not the clock, so a busy machine changes nothing. Holds in the main
    thread of systems with virtual timers; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGVTALRM"):
        yield
        return

    def stop(number: int, frame: Any) -> NoReturn:
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
