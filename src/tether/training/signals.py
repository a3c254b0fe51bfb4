"""SIGTERM and Ctrl-C ask for a stop; the loop saves within one step and says how to go on."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Which signal asked for a stop, if any. A second one ends the process at once, unless it is `patient`.

    torchrun repeats to its processes what the terminal already sent them, and kills them itself in the end.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; on the second, restore the default and deliver it."""
        if self.signal_number is not None:
            if self.patient:
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number


@contextmanager
def stop_requests() -> Generator[StopRequest]:
    """Catch SIGTERM and SIGINT while training; handlers are put back after. Only the main thread can."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
