"""Arms (objective and reference) beside each other: each at its own best strength, and at equal KL.

At their own best: an interval for max over one arm less max over the other that allows for both choices
(`analysis.selection.best_of_groups`). At equal KL: scores are interpolated linearly in sqrt(KL), in which
rewards bend least (see `analysis.drift`), between settings in order of KL; every resampling of prompts and
seeds does it anew. An arm held to the start model comes from there (KL 0) as beta grows, any other does not:
its curve begins at its own lowest KL. Of a side of several arms the arm of its best setting is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tether.analysis.selection import best_of_groups
from tether.records.findings import Comparison, EqualKl, Estimate, Verdict
from tether.study.board import Array, Board, resampled, standard_error

KL_LEVELS = 3
"""Equal-KL comparisons per pair of arms: at quarters of the range both cover."""


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
        alike = [_arm_of(board, side, row) for side, row in ((first, found.first), (second, found.second))]
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
                    se=standard_error(board.scores[found.first] - board.scores[found.second]),
                    n=board.n,
                    level=1 - alpha,
                ),
                equal_kl=tuple(equal_kl(board, alike[0], alike[1], seed=seed)),
            )
        )
    return results


def few_tried(pairs: Sequence[tuple[Side, Side]]) -> list[str]:
    """Name the sides whose best may lie where nothing was tried."""
    few = [side.name for side in {s.name: s for pair in pairs for s in pair}.values() if len(side.rows) < 3]
    return (
        [f"Fewer than three strengths tried: {', '.join(few)}; their best may lie elsewhere."] if few else []
    )


def _arm_of(board: Board, side: Side, best: int) -> Side:
    """Return the rows of a side that are of one curve: those of the arm of its best setting."""
    arm = board.setting(best).arm
    return Side(side.name, tuple(row for row in side.rows if board.setting(row).arm == arm))


def _from_start(board: Board, side: Side) -> bool:
    """Whether a side's models become the start model as beta grows."""
    return all(board.setting(row).reference == "self" for row in side.rows)


def equal_kl(board: Board, first: Side, second: Side, *, seed: int) -> list[EqualKl]:
    """Compare two sides at KLs that both cover, where there are any; 95 % intervals, each by itself."""
    spent = [board.kl[list(side.rows)].mean(axis=(1, 2)) for side in (first, second)]
    high = min(float(kl.max()) for kl in spent)
    low = max(
        0.0 if _from_start(board, side) else float(kl.min())
        for side, kl in zip((first, second), spent, strict=True)
    )
    if high <= low:
        return []
    targets = low + (high - low) * np.arange(1, KL_LEVELS + 1) / (KL_LEVELS + 1)
    columns = [[*([0] if _from_start(board, side) else []), *side.rows] for side in (first, second)]
    means = board.scores.mean(axis=(1, 2))[None], board.kl.mean(axis=(1, 2))[None]
    draws = resampled(board, seed=seed)
    ends = [_along(*means, rows, targets)[0] for rows in columns]
    drawn = [_along(*draws, rows, targets) for rows in columns]
    gaps = drawn[0] - drawn[1]
    below, above = np.quantile(gaps, (0.025, 0.975), axis=0)
    return [
        EqualKl(
            kl=float(kl),
            first=float(ends[0][k]),
            second=float(ends[1][k]),
            difference=Estimate(
                estimate=float(ends[0][k] - ends[1][k]),
                low=float(below[k]),
                high=float(above[k]),
                se=float(gaps[:, k].std(ddof=1)),
                n=board.n,
                level=0.95,
            ),
        )
        for k, kl in enumerate(targets)
    ]


def _along(scores: Array, kl: Array, columns: Sequence[int], targets: Array) -> Array:
    """Return [draws, targets]: scores interpolated in sqrt(KL) through the rows named."""
    x, wanted = np.sqrt(np.maximum(kl[:, columns], 0.0)), np.sqrt(targets)
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(scores[:, columns], order, 1)
    right = np.clip((x[:, :, None] <= wanted).sum(axis=1), 1, len(columns) - 1)
    ends = [np.take_along_axis(table, place, 1) for place in (right - 1, right) for table in (x, y)]
    x0, y0, x1, y1 = ends
    share = np.divide(wanted - x0, x1 - x0, out=np.ones_like(x0), where=x1 > x0)
    return y0 + (y1 - y0) * np.clip(share, 0.0, 1.0)
