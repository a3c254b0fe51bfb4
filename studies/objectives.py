"""Objectives with and without a reference: each at its own best beta, and DPO at the KL each spends there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.claims import Row, Table, best, judged, mean, paired
from studies.regrets import prose
from tether.study.collect import OBJECTIVES

DPO = {"loss_type": "sigmoid", "reference": "self"}
COLUMNS = ("reward", "kl", "tokens", "entropy", "fluent")


def objectives(there: Mapping[str, Table]) -> str:
    """Return a table of every objective in every world where the second question was asked."""
    lines = [line for name, table in there.items() for line in _world(name, table)]
    if not lines:
        return ""
    head = (
        "| world | objective | best beta | reward | less DPO | at equal KL | KL | tokens | entropy | fluent |"
    )
    return "\n".join([prose("objectives"), head, "|---" * 10 + "|", *lines, ""])


def _world(name: str, table: Table) -> list[str]:
    own = table.arm("needed", **DPO)
    if not own:
        return []
    peak = own[best(own)]
    curve = _curve(table)
    found: list[tuple[float, str]] = []
    for (loss, reference), label in OBJECTIVES.items():
        arm = table.arm("needed", loss_type=loss, reference=reference)
        if arm:
            beta = best(arm)
            end = " (end)" if beta in (min(arm), max(arm)) else ""
            gaps = () if arm == own else (arm[beta], peak, curve)
            found.append(_row([name, label, f"{beta:g}{end}"], arm[beta], gaps))
    more = table.arm("tight")
    if more and best(more) not in own:
        beta = best(more)
        found.append(_row([name, "DPO, a beta the others were not given", f"{beta:g}"], more[beta], ()))
    return [line for _, line in sorted(found, reverse=True)]


def _row(head: Sequence[str], rows: Mapping[int, Row], gaps: Sequence[Any]) -> tuple[float, str]:
    """Return a model's mean reward and its line; `gaps` are its rows, DPO's best and DPO's curve."""
    reward, *others = (mean(row[k] for row in rows.values()) for k in COLUMNS)
    beside = ["", ""]
    if gaps:
        here, peak, curve = gaps
        beside = [_told(paired(here, peak), len(here)), _told(at_equal_kl(here, curve), len(here))]
    return reward, f"| {' | '.join([*head, f'{reward:.2f}', *beside, *(f'{v:.2f}' for v in others)])} |"


def _curve(table: Table) -> dict[int, list[Row]]:
    """Return DPO's models of every seed by KL, the start model first, from both studies that have some."""
    found: dict[int, list[Row]] = {}
    for study in ("needed", "tight"):
        for rows in table.arm(study, **DPO).values():
            for seed, row in rows.items():
                found.setdefault(seed, [{**table.start(), "kl": 0.0}]).append(row)
    return {seed: sorted(rows, key=lambda row: row["kl"]) for seed, rows in found.items()}


def at_equal_kl(rows: Mapping[int, Row], curve: Mapping[int, Sequence[Row]]) -> list[float]:
    """Return reward less DPO's at the same KL, of the seeds in which some model of DPO spends as much.

    Interpolated linearly in the square root of KL, in which the best reward is nearly straight.
    """
    gaps: list[float] = []
    for seed, row in rows.items():
        points = curve[seed]
        spent = [float(np.sqrt(point["kl"])) for point in points]
        here = float(np.sqrt(row["kl"]))
        if here > spent[-1]:
            continue
        gaps.append(row["reward"] - float(np.interp(here, spent, [point["reward"] for point in points])))
    return gaps


def _told(gaps: Sequence[float], seeds: int) -> str:
    if len(gaps) < seeds:
        return f"beyond DPO's KL in {seeds - len(gaps)} of {seeds} seeds"
    return judged(gaps).number
