"""Arms (objective and reference) beside each other: each at its own best strength, and at equal KL.

At their own best: an interval for max over one arm less max over the other that allows for both choices
(`analysis.selection.best_of_groups`). At equal KL: each arm's scores are interpolated linearly in KL between
the start model (KL 0) and its settings in order of KL; every resampling of prompts and seeds does it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tether.analysis.selection import best_of_groups
from tether.records.findings import Comparison, EqualKl, Estimate, Verdict
from tether.study.board import Array, Board, resampled

KL_LEVELS = 3
"""Equal-KL comparisons per pair of arms: at quarters of the range both reach."""


@dataclass(frozen=True)
class Side:
    """Rows of a board under one name."""

    name: str
    rows: tuple[int, ...]


def verdict_of(low: float, high: float) -> Verdict:
    """Return what an interval says of `the first is better`."""
    return "supported" if low > 0 else "contradicted" if high < 0 else "not distinguishable"


def compare(
    board: Board, pairs: Sequence[tuple[Side, Side]], *, alpha: float, seed: int = 0
) -> list[Comparison]:
    """Compare sides at their own best and at equal KL; the intervals at their best hold together."""
    groups = [(first.rows, second.rows) for first, second in pairs]
    best = best_of_groups(board.scores, groups, level=1 - alpha, draws=board.draws, seed=seed)
    results: list[Comparison] = []
    for (first, second), found in zip(pairs, best, strict=True):
        se = float((board.scores[found.first] - board.scores[found.second]).mean(axis=0).std(ddof=1))
        results.append(
            Comparison(
                first=first.name,
                second=second.name,
                verdict=verdict_of(found.low, found.high),
                first_setting=board.name(found.first),
                second_setting=board.name(found.second),
                difference=Estimate(
                    estimate=found.estimate,
                    low=found.low,
                    high=found.high,
                    se=se / board.n**0.5,
                    n=board.n,
                    level=1 - alpha,
                ),
                equal_kl=tuple(equal_kl(board, first, second, seed=seed)),
            )
        )
    return results


def equal_kl(board: Board, first: Side, second: Side, *, seed: int) -> list[EqualKl]:
    """Compare two sides at KLs that both reach; 95 % intervals, each by itself."""
    reach = min(float(board.kl[list(side.rows)].mean(axis=(1, 2)).max()) for side in (first, second))
    if reach <= 0:
        return []
    targets = reach * np.arange(1, KL_LEVELS + 1) / (KL_LEVELS + 1)
    means = board.scores.mean(axis=(1, 2))[None], board.kl.mean(axis=(1, 2))[None]
    draws = resampled(board, seed=seed)
    ends = [_along(*means, side.rows, targets)[0] for side in (first, second)]
    drawn = [_along(*draws, side.rows, targets) for side in (first, second)]
    gaps = drawn[0] - drawn[1]
    low, high = np.quantile(gaps, (0.025, 0.975), axis=0)
    return [
        EqualKl(
            kl=float(kl),
            first=float(ends[0][k]),
            second=float(ends[1][k]),
            difference=Estimate(
                estimate=float(ends[0][k] - ends[1][k]),
                low=float(low[k]),
                high=float(high[k]),
                se=float(gaps[:, k].std(ddof=1)),
                n=board.n,
                level=0.95,
            ),
        )
        for k, kl in enumerate(targets)
    ]


def _along(scores: Array, kl: Array, rows: Sequence[int], targets: Array) -> Array:
    """Return [draws, targets]: scores interpolated in KL from the start model through `rows`."""
    columns = [0, *rows]
    x = np.maximum(kl[:, columns], 0.0)
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(scores[:, columns], order, 1)
    right = np.clip((x[:, :, None] <= targets).sum(axis=1), 1, len(columns) - 1)
    ends = [np.take_along_axis(table, place, 1) for place in (right - 1, right) for table in (x, y)]
    x0, y0, x1, y1 = ends
    share = np.divide(targets - x0, x1 - x0, out=np.ones_like(x0), where=x1 > x0)
    return y0 + (y1 - y0) * np.clip(share, 0.0, 1.0)
