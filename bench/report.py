"""What the benchmark prints and saves: one table per workload, one of stages, one JSON document."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.jobs import Outcome
from bench.measure import Column, Result

BASELINE = Path(__file__).with_name("baseline.json")
CLEARLY = 0.90
"""A ratio is worse than the stored one when every repeat is below this share of it."""


def table(result: Result) -> str:
    """Return a workload's numbers as text of at most 80 columns."""
    ours = next(iter(result.columns.values())).ours
    lines = [
        f"{result.workload.title}: {result.pairs} pairs, {result.tokens} tokens ({result.source})",
        f"  {'':21} {'seconds':>8} {'pairs/s':>8} {'tok/s':>7} {'MiB':>6}  {'ratio (range)':<20}",
        _line("tether", ours, result, ""),
    ]
    for name, column in result.columns.items():
        lines.append(_line(f"TRL {name}", column.theirs, result, spread(column)))
    lines += _processor(result)
    if result.over_floor:
        floor = result.least.seconds(result.rates)
        lines.append(
            f"  least arithmetic {floor:.2f} s at {result.rates.block / 1e9:.0f} (blocks) and "
            f"{result.rates.head / 1e9:.0f} (head) GFLOP/s;"
        )
        lines.append(f"  tether takes {_median_range(result.over_floor)} times that")
    lines += _memory(result.memory)
    lines += _stages("tether", ours)
    for name, column in result.columns.items():
        lines += _stages(f"TRL {name}", column.theirs)
    return "\n".join(lines)


def _line(name: str, runs: Sequence[Outcome], result: Result, ratio: str) -> str:
    seconds = statistics.median(run.seconds for run in runs)
    pairs = result.pairs * max(1, len(result.workload.betas))
    peak = statistics.median(run.peak_mib for run in runs)
    rate = runs[0].tokens / seconds
    return f"  {name:<21} {seconds:>8.2f} {pairs / seconds:>8.2f} {rate:>7.0f} {peak:>6.0f}  {ratio}"


def spread(column: Column) -> str:
    """Return the median ratio with its range."""
    return _median_range(column.ratios)


def _median_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _processor(result: Result) -> list[str]:
    """Return the ratios of processor time, median of the pairs of runs."""
    cells: list[str] = []
    for name, column in result.columns.items():
        spent = [
            (a.processor_seconds, b.processor_seconds)
            for a, b in zip(column.ours, column.theirs, strict=True)
        ]
        if all(ours > 0 for ours, _ in spent):
            cells.append(f"{name} {statistics.median(theirs / ours for ours, theirs in spent):.2f}")
    return ["  processor time: " + ", ".join(cells)] if cells else []


def _memory(memory: Mapping[str, float]) -> list[str]:
    if not memory:
        return []
    shipped = memory["TRL as shipped"]
    return [
        "  peak memory as a share of TRL's: "
        f"default {memory['ours'] / shipped:.2f}, whole update at once "
        f"{memory['ours, whole update at once'] / shipped:.2f},",
        f"  each side's least {memory['ours, least']:.0f} of {memory['TRL, least']:.0f} MiB "
        f"({memory['ours, least'] / memory['TRL, least']:.2f})",
    ]


def _stages(name: str, runs: Sequence[Outcome]) -> list[str]:
    """Return where the time of the median run went."""
    run = sorted(runs, key=lambda r: r.seconds)[len(runs) // 2]
    cells = [f"setup {run.setup_seconds:.1f} s apart", *(f"{k} {v:.2f}" for k, v in run.stages.items())]
    lines, line = [], f"  {name}:"
    for cell in cells:
        if len(line) + len(cell) + 2 > 79:
            lines.append(line)
            line = "   "
        line += f" {cell},"
    return [*lines, line.rstrip(",")]


def document(
    results: Iterable[Result], machine: Mapping[str, Any], stages: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything measured as one JSON document."""
    return {
        "schema": 1,
        "machine": dict(machine),
        "ratios": ratios(results := list(results)),
        "workloads": [result.document() for result in results],
        "stages": dict(stages),
    }


def ratios(results: Iterable[Result]) -> dict[str, float]:
    """Return the median ratio of every workload and column."""
    return {
        f"{result.workload.name}: {name}": round(column.median, 3)
        for result in results
        for name, column in result.columns.items()
    }


def read_baseline(device: str, path: Path = BASELINE) -> dict[str, float]:
    """Return the stored ratios of a device; none where none are stored."""
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8")).get(device, {})


def save_baseline(device: str, values: Mapping[str, float], path: Path = BASELINE) -> None:
    """Store ratios for a device beside those of others; workloads not measured now are kept."""
    stored: dict[str, dict[str, float]] = {}
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
    stored[device] = dict(sorted({**stored.get(device, {}), **values}.items()))
    path.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n", encoding="utf-8")


def fallen(results: Iterable[Result], baseline: Mapping[str, float]) -> list[str]:
    """Return a line for every ratio that clearly fell below the stored one."""
    lines: list[str] = []
    for result in results:
        for name, column in result.columns.items():
            stored = baseline.get(f"{result.workload.name}: {name}")
            if stored is not None and max(column.ratios) < CLEARLY * stored:
                lines.append(
                    f"{result.workload.name}, {name}: {spread(column)}, stored {stored:.2f}: "
                    "clearly slower than before"
                )
    return lines


def short_of(results: Iterable[Result]) -> list[str]:
    """Return a line for every ratio under the least this project set itself."""
    return [
        f"{result.workload.name}, {name}: {result.columns[name].median:.2f}, the target is {least:g}"
        for result in results
        for name, least in result.workload.must.items()
        if name in result.columns and result.columns[name].median < least
    ]
