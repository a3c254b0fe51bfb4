"""What torchrun tells each process it starts: how many there are, and which one this is."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from tether.errors import SaidElsewhere, UsageError


def process_count() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def first_process() -> bool:
    """Return whether this process prints and writes files."""
    return process_rank() == 0


@contextmanager
def first_speaks() -> Generator[None]:
    """Let the first process alone tell a mistake that all of them were started with.

    Raises:
        SaidElsewhere: in the other processes.

    """
    try:
        yield
    except UsageError as error:
        if first_process():
            raise
        raise SaidElsewhere(error.exit_code) from error
