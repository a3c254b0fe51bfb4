"""Two pictures a world: reward over beta, and reward against KL with the exact optimum."""

from pathlib import Path
from typing import Any

from studies.claims import Table, mean
from tether.records.results import write_text
from tether.reports import plots, study_plots
from tether.reports.plots import BLUE, GREY, INK, ORANGE, Axis

DPO, SHUFFLED, OPTIMUM = "DPO", "shuffled labels", "exact optimum"


def write_pictures(folder: Path, name: str, table: Table) -> list[tuple[str, str]]:
    """Write a world's pictures as SVG; return file names and what they show."""
    if not table.arm("tight"):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, str]] = []
    for kind, chart, title, told in (
        ("beta", _over_beta(table), "reward by beta", "mean over seeds; dashed: the start model"),
        ("frontier", _frontier(table), "reward against KL", "rings are single seeds"),
    ):
        svg, _ = plots.files(chart, f"{name}: true {title}")
        write_text(folder / f"{name}-{kind}.svg", svg)
        found.append((f"{name}-{kind}.svg", f"true {title}; {told}"))
    return found


def _over_beta(table: Table) -> Any:
    rows: list[dict[str, Any]] = []
    for series, study in ((DPO, "tight"), (SHUFFLED, "control")):
        for beta, seeds in sorted(table.arm(study).items(), key=lambda item: item[0] or 0.0):
            rewards = [row["reward"] for row in seeds.values()]
            rows.append({"x": beta, "y": mean(rewards), "series": series})
    marks = tuple(sorted({row["x"] for row in rows}))
    colours = {DPO: BLUE} | ({SHUFFLED: ORANGE} if table.arm("control") else {})
    axis = Axis("beta (larger is tighter)", marks=marks)
    return plots.lines(rows, axis, Axis("true reward"), colours, rule=table.start()["reward"])


def _frontier(table: Table) -> Any:
    arm = table.arm("tight")
    points: list[dict[str, Any]] = []
    faint: list[dict[str, Any]] = []
    for beta, seeds in sorted(arm.items(), key=lambda item: -(item[0] or 0.0)):
        kl, reward = (mean(row[key] for row in seeds.values()) for key in ("kl", "reward"))
        points.append({"x": kl, "y": reward, "series": DPO, "label": f"β {beta:g}"})
        faint += [{"x": row["kl"], "y": row["reward"], "series": DPO} for row in seeds.values()]
    points.insert(0, {"x": 0.0, "y": table.start()["reward"], "series": "start", "label": "start"})
    reach = max(row["x"] for row in faint)
    curves = [
        {"x": p["kl"], "y": p["reward"], "series": OPTIMUM} for p in table.optimum if p["kl"] <= 1.2 * reach
    ]
    colours = {"start": INK, DPO: BLUE} | ({OPTIMUM: GREY} if curves else {})
    x = Axis("KL from the start model, nats per answer", zero=True)
    return study_plots.tradeoff(
        points, x, Axis("true reward"), colours, faint=faint, curves=curves, unnamed=("start",)
    )
