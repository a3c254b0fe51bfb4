"""About how many more pairs a gain would need, where a study trained on several shares of its pairs."""

import math

import numpy as np

from tether.analysis.selection import simultaneous_differences
from tether.records.findings import Setting, Tight
from tether.reports.tables import brief
from tether.study.board import Board

MOST = 1000.0
"""Times as many pairs beyond which a number is not worth giving."""


def pairs_note(board: Board, tight: Tight) -> str:
    """Say how the best gain grew with the pairs, and when it would be seen; empty where the study cannot.

    The best mean gain of each share of the pairs is fitted as a + b log(share): a straight line through few
    points, so the number is a direction rather than a promise. Where the growth itself cannot be told from
    none (95 % interval, largest share less smallest), that is said.
    """
    own = next((s for s in board.settings if s.arm == tight.arm), None)
    if own is None or tight.smallest_visible is None:
        return ""
    rows = best_rows(board, own)
    if len(rows) < 2:
        return ""
    shares = sorted(rows)
    gains = {share: float(board.gains[row].mean()) for share, row in rows.items()}
    slope = float(np.polyfit(np.log(shares), [gains[s] for s in shares], 1)[0])
    growth = simultaneous_differences(board.gains, [rows[shares[-1]]], [rows[shares[0]]], draws=board.draws)
    sure = bool(growth.low[0] > 0 or growth.high[0] < 0)
    told = ", ".join(f"{brief(gains[s])} with {100 * s:g} %" for s in shares)
    start = f"The best gain was {told} of the pairs"
    missing = tight.smallest_visible - gains[shares[-1]]
    if slope <= 0:
        helped = (
            "more pairs of this kind do not seem to help" if sure else "too close to say what more would do"
        )
        return f"{start}: {helped}."
    if missing <= 0:
        return f"{start}."
    times = math.exp(min(missing / slope, 50.0))
    size = f"more than {MOST:g}" if times > MOST else f"about {brief(times)}"
    doubt = "" if sure else "; but that growth cannot be told from none"
    return (
        f"{start}; at that pace {size} times as many pairs would give a gain that these prompts show{doubt}."
    )


def best_rows(board: Board, like: Setting) -> dict[float, int]:
    """Return the row of highest mean gain of an objective and reference, by share of the pairs."""
    means = board.gains.mean(axis=(1, 2))
    found: dict[float, int] = {}
    for row in board.rows(
        lambda s: (s.loss_type, s.reference, s.labels) == (like.loss_type, like.reference, like.labels)
    ):
        share = board.setting(row).data_fraction
        if share not in found or means[row] > means[found[share]]:
            found[share] = row
    return found
