"""Which rows make up which update: a pure function of seed, epoch and index, so there is no state to save."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tether.errors import UsageError
from tether.tokens.render import EncodedGroup


def permutation(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order of `count` rows in an epoch.

    Each row draws one raw 64-bit number of the Philox4x64-10 generator with key (seed, epoch), and rows are
    sorted by it. NumPy keeps the raw streams of its bit generators for ever (NEP 19), unlike its shuffles,
    so the order is the same on every machine and with every version.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    draws = np.random.Philox(key=key).random_raw(count)
    return np.argsort(draws, kind="stable").tolist()


class Updates:
    """The updates of a run: `train_batch_size` rows each, every row once per epoch, the last one smaller.

    `epoch_rows` says which rows an epoch has instead (a mix with weights): a pure function of the epoch, as
    many in each.
    """

    def __init__(
        self,
        groups: Sequence[EncodedGroup],
        *,
        train_batch_size: int,
        seed: int,
        strategy: Literal["random", "sequential"],
        epoch_rows: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        if train_batch_size < 1:
            raise UsageError(f"train_batch_size: {train_batch_size}; at least 1")
        if not 0 <= seed < 2**64:
            raise UsageError(f"seed: {seed}; a whole number from 0 to 2^64 - 1")
        if strategy not in ("random", "sequential"):
            raise UsageError(f"train_sampling_strategy: {strategy!r}; random or sequential")
        self._groups = groups
        self._size = train_batch_size
        self._seed = seed
        self._random = strategy == "random"
        self._order: tuple[int, list[int]] | None = None
        self._epoch_rows = epoch_rows
        self._rows = len(groups) if epoch_rows is None else len(epoch_rows(0))

    @property
    def updates_per_epoch(self) -> int:
        """Number of updates in one pass over the rows."""
        return -(-self._rows // self._size)

    def update(self, epoch: int, index: int) -> list[EncodedGroup]:
        """Return the rows of update `index` (from 0) of `epoch` (from 0)."""
        if epoch < 0 or not 0 <= index < self.updates_per_epoch:
            raise IndexError(
                f"update {index} of epoch {epoch}: an epoch has {self.updates_per_epoch} updates"
            )
        order = self._epoch(epoch)
        return [self._groups[row] for row in order[index * self._size : (index + 1) * self._size]]

    def position(self, step: int) -> tuple[int, int]:
        """Return the (epoch, index) of the update that follows `step` finished updates."""
        return divmod(step, self.updates_per_epoch)

    def _epoch(self, epoch: int) -> list[int]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._ordered(epoch))
        return self._order[1]

    def _ordered(self, epoch: int) -> list[int]:
        rows = range(self._rows) if self._epoch_rows is None else self._epoch_rows(epoch)
        if not self._random:
            return list(rows)
        return [rows[place] for place in permutation(self._rows, self._seed, epoch)]
