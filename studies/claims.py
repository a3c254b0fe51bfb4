"""What the plans claim, judged by a t interval over seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import stats

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What became of a claim in one world: a difference with its interval over seeds."""

    verdict: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    words: str = ""

    @property
    def number(self) -> str:
        """The difference and its interval, as far as there are any."""
        if self.estimate is None:
            return ""
        ends = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.estimate:+.2f}{ends}"


@dataclass(frozen=True)
class Table:
    """The rows of one world, and what each way of choosing chose in it."""

    rows: tuple[Row, ...]
    choices: tuple[Row, ...] = ()
    optimum: tuple[Row, ...] = ()

    def start(self) -> Row:
        """Return the start model's row."""
        return next(row for row in self.rows if row["cell"] == "start")

    def arm(self, study: str, **factors: Any) -> dict[float, dict[int, Row]]:
        """Return rows of one arm by beta and seed; of an objective that reads a beta."""
        found: dict[float, dict[int, Row]] = {}
        for row in self.rows:
            if row["study"] == study and "seed" in row and all(row[k] == v for k, v in factors.items()):
                found.setdefault(row["beta"], {})[row["seed"]] = row
        return found


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def judged(differences: Sequence[float], words: str = "") -> Found:
    """Say whether a difference is above 0: a t interval over seeds (95 %)."""
    n, middle = len(differences), mean(differences)
    if n < 2:
        told = "; ".join(part for part in (words, "one seed has no interval") if part)
        return Found("not distinguishable", middle, None, None, n, told)
    se = math.sqrt(sum((d - middle) ** 2 for d in differences) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * se
    low, high = middle - half, middle + half
    verdict = "supported" if low > 0 else "contradicted" if high < 0 else "not distinguishable"
    return Found(verdict, middle, low, high, n, words)


def paired(first: Mapping[int, Row], second: Mapping[int, Row], name: str = "reward") -> list[float]:
    """Return first - second, seed by seed."""
    return [first[seed][name] - second[seed][name] for seed in sorted(first.keys() & second.keys())]


def above(rows: Mapping[int, Row], level: float, name: str) -> list[float]:
    """Return a quantity less a level, seed by seed."""
    return [rows[seed][name] - level for seed in sorted(rows)]


def best(arm: Mapping[Any, Mapping[int, Row]]) -> Any:
    """Return the beta of the highest mean reward."""
    return max(arm, key=lambda beta: mean(row["reward"] for row in arm[beta].values()))


def inverted_u(table: Table) -> Found:
    """Both ends of the grid are worse than the best beta between them; as sure as the less sure end."""
    arm = table.arm("tight")
    low, high = min(arm), max(arm)
    peak = best({beta: arm[beta] for beta in arm if beta not in (low, high)})
    words = f"best beta {peak:g}, ends {low:g} and {high:g}"
    if best(arm) != peak:
        words = f"best inside {peak:g}, best of all {best(arm):g}, an end"
    ends = [judged(paired(arm[peak], arm[end]), words) for end in (low, high)]
    if any(found.verdict == "contradicted" for found in ends):
        return next(found for found in ends if found.verdict == "contradicted")
    return min(ends, key=lambda found: found.low if found.low is not None else found.estimate or 0.0)


def _ends(table: Table) -> tuple[Mapping[int, Row], Mapping[int, Row]]:
    arm = table.arm("tight")
    return arm[min(arm)], arm[max(arm)]


def margin_copying(table: Table) -> Found:
    """Half the gain of given labels is reached with shuffled ones, at the largest beta.

    Where given labels gain nothing there is nothing to reach: half of a loss is no claim.
    """
    given, mixed = (table.arm(s, reference="similar") for s in ("which", "shuffled"))
    beta, start = max(mixed), table.start()["reward"]
    seeds = sorted(given[beta].keys() & mixed[beta].keys())
    parts = [
        mixed[beta][s]["reward"] - start - 0.5 * (given[beta][s]["reward"] - start) for s in seeds
    ]  # fmt: skip
    share = mean(mixed[beta][s]["reward"] - start for s in seeds) / mean(
        given[beta][s]["reward"] - start for s in seeds
    )
    found = judged(parts, f"shuffled labels give {share:.0%} of the gain at beta {beta:g}")
    gained = mean(given[beta][s]["reward"] - start for s in seeds)
    if gained > 0:
        return found
    words = f"nothing gained with given labels at beta {beta:g}: {gained:+.2f}"
    return Found("not distinguishable", seeds=len(seeds), words=words)


def _beats(first: Mapping[Any, Mapping[int, Row]], second: Mapping[Any, Mapping[int, Row]]) -> Found:
    """Compare two arms of the same betas, each at its own best."""
    betas = first.keys() & second.keys()
    a, b = (best({beta: arm[beta] for beta in betas}) for arm in (first, second))
    return judged(paired(first[a], second[b]), f"best beta {a:g} and {b:g}")


def _beside_self(table: Table, reference: str) -> Found:
    """Compare a reference with self at the betas of both, and say where self does best at another."""
    other, own = table.arm("which", reference=reference), table.arm("tight")
    found = _beats(other, own) if reference == "similar" else _beats(own, other)
    peak = best(own)
    if peak in other:
        return found
    whole = judged(paired(other[best(other)], own[peak]))
    more = f"self is best at {peak:g}, not tried with {reference}, whose best less that is {whole.number}"
    return replace(found, words=f"{found.words}; {more}")


def _reference_helps(table: Table) -> Found:
    """Compare DPO with its own loss without a reference, and say where DPO does best at another beta."""
    own, other = (table.arm("needed", loss_type="sigmoid", reference=name) for name in ("self", "none"))
    found, more = _beats(own, other), table.arm("tight")
    if not more or best(more) in other:
        return found
    peak = best(more)
    reward = mean(row["reward"] for row in more[peak].values())
    told = f"DPO is best at {peak:g} ({reward:.2f}), not tried without a reference"
    return replace(found, words=f"{found.words}; {told}")


def _without(table: Table) -> Found:
    arm = table.arm("needed", loss_type="sigmoid", reference="none")
    beta = max(arm)
    return judged(above(arm[beta], table.start()["tokens"], "tokens"), f"at beta {beta:g}, in tokens")


CLAIMS: dict[str, Callable[[Table], Found]] = {
    "inverted-u": inverted_u,
    "policy-ranking": lambda t: judged(paired(*_ends(t), "policy_accuracy")),
    "displacement": lambda t: judged([-v for v in above(_ends(t)[0], 0.0, "chosen_log_ratio")], "nats lost"),
    "collapse": lambda t: judged([-v for v in above(_ends(t)[0], t.start()["fluent"], "fluent")]),
    "reference-helps": _reference_helps,
    "length-blow-up": _without,
    "similar-helps": lambda t: _beside_self(t, "similar"),
    "dissimilar-hurts": lambda t: _beside_self(t, "dissimilar"),
    "margin-copying": margin_copying,
}
