"""Ctrl-C and SIGTERM on a command that keeps what it has: one line, and the documented exit status."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from tether.errors import Interrupted


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def stoppable(message: str) -> Generator[None]:
    """Turn a signal inside the block into `Interrupted` with this message.

    Raises:
        Interrupted: exit status 130 after Ctrl-C, 143 after SIGTERM.

    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(message, signal.SIGINT) from error
    except _Terminated as error:
        raise Interrupted(message, signal.SIGTERM) from error
    finally:
        signal.signal(signal.SIGTERM, before)
