"""What every way of choosing beta gave away, world by world, and whether one without a judge may be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.claims import Row, Table, mean
from tether.study.rules import CROSS_FITTED, RANKING, REGRET, WORLDS

Key = tuple[str, float | None]
LISTED = "enumerable"
"""Worlds of this kind were looked at while choosing a rule; the others confirm."""


@dataclass(frozen=True)
class Outcome:
    """One rule in one world: shares of the best gain given away, seed by seed."""

    shares: tuple[float, ...]
    chosen: tuple[float | None, ...]
    looked: tuple[float, ...]
    """Shares had the best-looking setting been taken, whatever the rule's doubts."""
    alarms: int
    """Recommendations on shuffled labels."""
    controls: int

    @property
    def share(self) -> float:
        """Mean share given away; recommending none gives the whole gain away."""
        return mean(self.shares)

    @property
    def kept(self) -> bool:
        """Whether the promise held in this world."""
        return self.share <= REGRET


def outcome(table: Table, key: Key) -> Outcome | None:
    """Return how a rule did in a world; None where it was not run, or no setting gained in any seed."""
    arm, start = table.arm("tight"), table.start()["reward"]
    shares: list[float] = []
    looked: list[float] = []
    chosen: list[float | None] = []
    for line in _lines(table, "tight", key):
        rewards = {beta: rows[line["seed"]]["reward"] for beta, rows in arm.items() if line["seed"] in rows}
        best = max(rewards.values())
        if best <= start:
            continue
        for betas, into in ((line["choice"], shares), (line["best_looking"], looked)):
            into.append(1.0 if betas is None else (best - rewards[betas]) / (best - start))
        chosen.append(line["choice"])
    if not shares:
        return None
    controls = _lines(table, "control", key)
    alarms = sum(line["choice"] is not None for line in controls)
    return Outcome(tuple(shares), tuple(chosen), tuple(looked), alarms, len(controls))


def _lines(table: Table, study: str, key: Key) -> list[Row]:
    return [c for c in table.choices if c["study"] == study and (c["rule"], c["scorer"]) == key]


def choosing(plans: Sequence[Mapping[str, Any]], there: Mapping[str, Table]) -> str:
    """Return the page's part on ways of choosing beta."""
    keys = list(dict.fromkeys((c["rule"], c["scorer"]) for table in there.values() for c in table.choices))
    if not keys:
        return ""
    first = next(plan["studies"]["tight"]["cross_fit"][0] for plan in plans if "tight" in plan["studies"])
    lines = [
        prose("choosing"),
        f"| rule | {' | '.join(there)} | on shuffled labels |",
        f"|---|{'---|' * len(there)}---|",
    ]
    for key in keys:
        found = {name: outcome(table, key) for name, table in there.items()}
        cells = [_cell(o) for o in found.values()]
        known = [o for o in found.values() if o is not None]
        alarms, controls = sum(o.alarms for o in known), sum(o.controls for o in known)
        lines.append(f"| {_name(key, first)} | {' | '.join(cells)} | {alarms} of {controls} |")
    lines += ["", *(_verdict(key, there, first) for key in keys if key[1] in (None, first)), ""]
    lines.append(conclusion(there, first))
    return "\n".join(lines) + "\n"


def _name(key: Key, first: float) -> str:
    rule, scorer = key
    return (
        rule if scorer is None else f"{rule}, scorer {scorer:g}{'' if scorer == first else ' (sensitivity)'}"
    )


def _cell(found: Outcome | None) -> str:
    if found is None:
        return "not run"
    picked = ", ".join("none" if beta is None else f"{beta:g}" for beta in found.chosen)
    share = f"**{found.share:.0%}**" if found.kept else f"{found.share:.0%}"
    return f"{share} ({picked}); {mean(found.looked):.0%}"


def record(there: Mapping[str, Table], key: Key, *, listed: bool) -> tuple[int, int]:
    """Return in how many worlds of one kind a rule kept its promise, and of how many."""
    found = [outcome(t, key) for name, t in there.items() if name.startswith(LISTED) == listed]
    known = [o for o in found if o is not None]
    return sum(o.kept for o in known), len(known)


def _verdict(key: Key, there: Mapping[str, Table], first: float) -> str:
    (looked, of), (unseen, among) = (record(there, key, listed=kind) for kind in (True, False))
    where = f"{looked} of {of} listed worlds, {unseen} of {among} others"
    return f"- {_name(key, first)}: at most {REGRET:.0%} given away in {where}."


def conclusion(there: Mapping[str, Table], first: float) -> str:
    """Say whether a rule without a judge may be used.

    It must keep its promise in the worlds it was chosen on and in those not looked at before, and must not
    recommend where the labels say nothing.
    """
    for key in ((CROSS_FITTED, first), (RANKING, None)):
        kinds = [record(there, key, listed=kind) for kind in (True, False)]
        known = [o for o in (outcome(table, key) for table in there.values()) if o is not None]
        quiet = sum(o.alarms for o in known) <= (1 - WORLDS) * sum(o.controls for o in known)
        if quiet and all(of and kept / of >= WORLDS for kept, of in kinds):
            return f"{key[0]} keeps its promise, on the worlds not looked at before too."
    return (
        "So no rule without a judge is in use: without one the answer is **needs a judge**, and nothing is "
        "recommended."
    )


def prose(name: str) -> str:
    """Return one of the page's texts."""
    return (Path(__file__).parent / "text" / f"{name}.md").read_text(encoding="utf-8")
