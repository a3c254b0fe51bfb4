"""Phrases the answers share."""

from collections.abc import Sequence

from tether.records.findings import Estimate
from tether.reports.tables import count, decimals_for, number


def interval_text(estimate: Estimate, *, lost: bool = False) -> str:
    """Return `0.51 (95 % interval 0.32 to 0.70)`; `lost` turns the sign, for a fall told as a loss."""
    decimals = decimals_for(estimate.se)
    if estimate.low is None or estimate.high is None:
        return number(-estimate.estimate if lost else estimate.estimate, decimals)
    middle, low, high = estimate.estimate, estimate.low, estimate.high
    if lost:
        middle, low, high = -middle, -high, -low
    share = number(round(100 * estimate.level, 1))
    return (
        f"{number(middle, decimals)} ({share} % interval {number(low, decimals)} to {number(high, decimals)})"
    )


def among(others: Sequence[str], name: str) -> str:
    """Say which settings cannot be told from the best."""
    rest = [other for other in others if other != name]
    if not rest:
        return "All others are distinguishably worse than the best."
    return f"Not distinguishable from the best: {', '.join(others)}."


def named(name: str, *, capital: bool = False) -> str:
    """Return a name at the start of a sentence; a capital beta would read as the letter B."""
    return name[:1].upper() + name[1:] if capital and not name.startswith("β") else name


def models(number_of: int) -> str:
    """Return `these 6 trained models`."""
    return "this trained model" if number_of == 1 else f"these {count(number_of)} trained models"


def seeds_text(seeds: int) -> str:
    """Return `1 seed` or `3 seeds`."""
    return f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"
