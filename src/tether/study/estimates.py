"""Intervals of the statistics as the records keep them: what is not finite is not known."""

import math

from tether.analysis.selection import Differences
from tether.analysis.stats import Interval
from tether.records.findings import Estimate


def of_interval(found: Interval) -> Estimate:
    """Return the interval of a mean."""
    low, high, se = (float(v) if math.isfinite(v) else None for v in (found.low, found.high, found.se))
    return Estimate(estimate=found.estimate, low=low, high=high, se=se, n=found.n, level=found.level)


def of_difference(found: Differences, k: int, n: int) -> Estimate:
    """Return the k-th of simultaneous differences over `n` prompts."""
    return Estimate(
        estimate=float(found.estimates[k]),
        low=float(found.low[k]),
        high=float(found.high[k]),
        se=float(found.standard_errors[k]),
        n=n,
        level=found.level,
    )
