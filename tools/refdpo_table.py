"""RefDPO's published tables through the statistics of a study, to see which differences survive.

    python tools/refdpo_table.py

RefDPO (arXiv 2407.13709v2, Tables 1 to 7) reports one length-controlled AlpacaEval 2 win rate per trained
model, without errors, seeds or per-prompt scores. Two numbers stand in, both from 27 other models' published
annotations: the standard error of a win rate p is 0.88 sqrt(p (1 - p) / 805) (median of models between 5 and
25 %, raw rates; length-controlled ones may have less), and two models' scores on a prompt correlate by 0.5
(median; 0.3 to 0.7). Correlation 0 is printed beside it: as if every model had had prompts of its own. Scores
per prompt with exactly these moments are then treated like any study's.

With one seed, whatever survives is about these trained models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tether.analysis.selection import best_of_groups, model_confidence_set

PROMPTS = 805
SHARE = 0.88
CORRELATIONS = (0.5, 0.0)
Array = NDArray[np.float64]

SFT = {"mistral-7b": 7.57, "tulu-2-7b": 8.50, "qwen2-1.5b": 4.82}
COLUMNS: dict[tuple[str, str], dict[float, float]] = {
    ("mistral-7b", "self"): {0.1: 14.03, 0.05: 13.29, 0.02: 16.06, 0.01: 16.25, 0.005: 12.36},
    ("tulu-2-7b", "self"): {0.1: 9.38, 0.05: 9.96, 0.02: 10.46, 0.01: 7.86},
    ("qwen2-1.5b", "self"): {0.1: 4.75, 0.05: 5.00, 0.02: 5.89, 0.01: 4.91, 0.005: 5.52},
    ("mistral-7b", "Mistral-v0.2"): {10: 18.74, 1: 20.25, 0.1: 19.58, 0.01: 17.18, 0.005: 15.34},
    ("mistral-7b", "Llama-3-70B"): {10: 13.29, 1: 9.59, 0.1: 10.99, 0.01: 15.37, 0.005: 11.70},
    ("tulu-2-7b", "Mistral-v0.2"): {10: 7.61, 1: 7.85},
    ("tulu-2-7b", "Llama-3-70B"): {10: 9.79, 1: 11.17, 0.1: 10.31, 0.01: 9.16, 0.005: 3.29},
    ("mistral-7b", "own DPO model"): {10: 15.20, 1: 16.75, 0.1: 14.99, 0.01: 15.07, 0.005: 14.80},
}
"""Win rates (%) by model, reference and beta; what the paper calls degenerate has no number."""
OBJECTIVES = {"DPO": 16.25, "posterior": 12.84, "likelihood": 13.63}
"""mistral-7b, Table 3: each at its best beta, from grids the paper does not give."""


def scores(rates: Sequence[float], correlation: float) -> Array:
    """Return [models, prompts] scores with exactly these means (%), standard errors and correlation."""
    p = np.asarray(rates, dtype=np.float64) / 100
    sd = SHARE * np.sqrt(p * (1 - p))
    shape = np.full((len(p), len(p)), correlation) + (1 - correlation) * np.eye(len(p))
    noise = np.random.default_rng(0).normal(size=(len(p), PROMPTS))
    noise -= noise.mean(axis=1, keepdims=True)
    plain = np.linalg.cholesky(np.cov(noise))
    wanted = np.linalg.cholesky(shape * np.outer(sd, sd))
    return 100 * (p[:, None] + wanted @ np.linalg.solve(plain, noise))


def how_tight(correlation: float) -> list[tuple[str, ...]]:
    """Return, per column, the betas not distinguishable from the best, and whether SFT is among them."""
    rows: list[tuple[str, ...]] = []
    for (model, reference), column in COLUMNS.items():
        found = model_confidence_set(scores([SFT[model], *column.values()], correlation))
        names = ["SFT", *(f"{beta:g}" for beta in column)]
        apart = [n for i, n in enumerate(names) if i not in found.members]
        rows.append(
            (
                f"{model}, {reference}",
                " ".join(names[i] for i in found.members),
                " ".join(apart) or "none",
            )
        )
    return rows


def differences(correlation: float) -> list[tuple[str, float, float, float]]:
    """Return (what, difference, low, high) in points: objectives, and references at their own best."""
    found: list[tuple[str, float, float, float]] = []
    names = list(OBJECTIVES)
    table = scores(list(OBJECTIVES.values()), correlation)
    pairs = [((0,), (1,)), ((0,), (2,)), ((2,), (1,))]
    for (a, b), gap in zip(pairs, best_of_groups(table, pairs), strict=True):
        found.append((f"{names[a[0]]} - {names[b[0]]}", gap.estimate, gap.low, gap.high))
    for model in ("mistral-7b", "tulu-2-7b"):
        columns = {r: list(c.values()) for (m, r), c in COLUMNS.items() if m == model}
        table = scores([rate for column in columns.values() for rate in column], correlation)
        places: dict[str, tuple[int, ...]] = {}
        for reference, column in columns.items():
            start = sum(len(p) for p in places.values())
            places[reference] = tuple(range(start, start + len(column)))
        others = [r for r in places if r != "self"]
        groups = [(places[r], places["self"]) for r in others]
        for reference, gap in zip(others, best_of_groups(table, groups), strict=True):
            found.append((f"{model}: {reference} - self", gap.estimate, gap.low, gap.high))
    return found


def main() -> None:
    """Print both tables under both correlations."""
    for correlation in CORRELATIONS:
        print(f"\nCorrelation of two models' scores on a prompt: {correlation:g}\n")
        print("How tight? betas not distinguishable from the best, and those that are (95 %)")
        for name, inside, outside in how_tight(correlation):
            print(f"  {name:<26} {inside:<32} | {outside}")
        print("Differences in points, 95 % intervals that hold together, each side at its best")
        for name, estimate, low, high in differences(correlation):
            word = "survives" if low > 0 or high < 0 else "not distinguishable"
            print(f"  {name:<32} {estimate:+6.2f} ({low:+6.2f} to {high:+6.2f})  {word}")


if __name__ == "__main__":
    main()
