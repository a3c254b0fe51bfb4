"""Charts of a task: win rate and reward over temperature, reward against KL; and the names policies have."""

from collections.abc import Iterable
from typing import Any

from tether.records.comparison import Estimate
from tether.records.task import TaskPolicy, TaskRecord
from tether.reports import plots
from tether.reports.figures import Figure
from tether.reports.plots import BLUE, GREY, INK, MUTED, ORANGE, TEAL, Axis

COLOURS = {
    "base": GREY,
    "start": GREY,
    "preferred-ft": TEAL,
    "dpo": BLUE,
    "unlikelihood": ORANGE,
    "best-of-n": INK,
    "best-of-n-true": MUTED,
}
APART = 0.012
"""How far apart, in degrees of temperature, the points of two policies are drawn."""


def label(policy: TaskPolicy) -> str:
    """Return the name a policy has on the page."""
    setting = "" if policy.setting is None else f"{policy.setting:g}"
    return {
        "base": "start model",
        "start": "tuned on the texts",
        "preferred-ft": "Preferred-FT",
        "dpo": f"DPO β {setting}",
        "unlikelihood": f"unlikelihood α {setting}",
        "best-of-n": f"best of {setting} (learnt)",
        "best-of-n-true": f"best of {setting} (true)",
    }[policy.kind]


def compared(record: TaskRecord) -> list[TaskPolicy]:
    """Return the policies whose answers were compared."""
    return [policy for policy in record.policies if policy.compared]


def dpo_of(record: TaskRecord) -> TaskPolicy:
    """Return the DPO model whose answers were compared."""
    return next(policy for policy in compared(record) if policy.kind == "dpo")


def task_figures(record: TaskRecord) -> list[Figure]:
    """Return the charts a task's numbers allow."""
    found = (win_figure(record), frontier_figure(record), reward_figure(record))
    return [figure for figure in found if figure is not None]


def win_figure(record: TaskRecord) -> Figure | None:
    """Return win rates over temperature, a line per policy."""
    rows = _over_temperature(record, [(r.policy, r.temperature, r.win_rate) for r in record.win_rates])
    chart = plots.against_temperature(rows, _temperatures(record), Axis("wins, %"), _colours(record), rule=50)
    text = "Share of test prompts on which the answer beats the reference, ties as half; bars are 95 %."
    return Figure("win_rates", "Win rate against the reference", text, chart, tuple(rows))


def reward_figure(record: TaskRecord) -> Figure | None:
    """Return the mean reward over temperature; None where the task's reward is unknown."""
    known = [(r.policy, r.temperature, r.reward) for r in record.win_rates if r.reward is not None]
    if not known:
        return None
    rows = _over_temperature(record, known)
    level = next(r.reference_reward for r in record.win_rates if r.reference_reward is not None)
    chart = plots.against_temperature(
        rows, _temperatures(record), Axis("reward"), _colours(record), rule=level
    )
    text = f"Mean of {record.reward} over the answers; the dashed line is the references'; bars are 95 %."
    return Figure("rewards", "Reward of the answers", text, chart, tuple(rows))


def frontier_figure(record: TaskRecord) -> Figure | None:
    """Return reward against KL, a point per measurement of every trained model."""
    if len(record.frontier) < 3:
        return None
    last = {point.policy: point.step for point in record.frontier}
    names = {policy.name: policy for policy in record.policies}
    rows: list[dict[str, Any]] = []
    for point in record.frontier:
        final = point.step == last[point.policy]
        rows.append(
            {
                "x": point.kl.value,
                "y": point.reward.value,
                "series": _family(names[point.policy]),
                "label": label(names[point.policy]).replace("unlikelihood ", "") if final else "",
                "order": point.step,
                "policy": point.policy,
                "step": point.step,
                **_bars(point.reward),
                "left": point.kl.low,
                "right": point.kl.high,
            }
        )
    kinds = {_family(names[p.policy]): COLOURS[p.kind] for p in record.frontier}
    x = Axis("KL from the start of preference training, nats per answer", zero=True)
    chart = plots.frontier(rows, x, Axis(), kinds, path=False)
    text = (
        "What each model gained for what it spent, at every measurement of its training (named: the last), "
        "on held-out prompts at temperature 1; bars are 95 %."
    )
    return Figure("frontier", "Reward against KL", text, chart, tuple(rows))


def _family(policy: TaskPolicy) -> str:
    return {"dpo": "DPO", "preferred-ft": "Preferred-FT", "unlikelihood": "unlikelihood"}.get(
        policy.kind, policy.name
    )


def _over_temperature(
    record: TaskRecord, values: Iterable[tuple[str, float, Estimate]]
) -> list[dict[str, Any]]:
    policies = compared(record)
    names = {policy.name: label(policy) for policy in policies}
    shift = {policy.name: (place - (len(policies) - 1) / 2) * APART for place, policy in enumerate(policies)}
    return [
        {
            "x": temperature + shift[policy],
            "y": value.value,
            "series": names[policy],
            "label": "",
            "order": temperature,
            "temperature": temperature,
            **_bars(value),
        }
        for policy, temperature, value in values
    ]


def _temperatures(record: TaskRecord) -> Axis:
    return Axis("temperature", at=tuple(sorted({r.temperature for r in record.win_rates})), format=".2~f")


def _bars(value: Estimate) -> dict[str, float | None]:
    return {"low": value.low, "high": value.high}


def _colours(record: TaskRecord) -> dict[str, str]:
    return {label(policy): COLOURS[policy.kind] for policy in compared(record)}
