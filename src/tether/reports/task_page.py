"""The page of a task: does DPO beat the reference completions, at which temperature, and beside what."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tether.records.comparison import Estimate
from tether.records.results import Record, write_text
from tether.records.rows import Content
from tether.records.task import Example, TaskPolicy, TaskRecord, WinRate, read_task
from tether.reports.figures import write_figures
from tether.reports.page import render
from tether.reports.sections import Tile
from tether.reports.tables import Table, csv_text, duration, flattened, number
from tether.reports.task_figures import compared, dpo_of, label, task_figures

TITLES = {"sentiment": "Sentiment", "summarization": "Summaries", "dialogue": "Dialogue"}


@dataclass(frozen=True)
class Said:
    """One answer of an example."""

    who: str
    text: str
    score: str


@dataclass(frozen=True)
class Shown:
    """One example as it stands on the page."""

    prompt: str
    reference: Said
    answers: tuple[Said, ...]


def write_task_page(folder: Path) -> Path:
    """Write `report.html` of a task's folder, its pictures and its tables as CSV under `report/`.

    Raises:
        DataError: there is no finished task here.

    """
    record = read_task(folder)
    figures = task_figures(record)
    pictures = folder / "report"
    pictures.mkdir(exist_ok=True)
    write_figures(pictures, figures)
    for name, rows in csv_tables(record).items():
        write_text(pictures / f"{name}.csv", csv_text(rows))
    page = folder / "report.html"
    headline, sentences = verdict(record)
    text = render(
        "task.html.jinja",
        title=f"{record.title}: {headline.lower()}",
        record=record,
        name=TITLES[record.task],
        headline=headline,
        sentences=sentences,
        tiles=tiles(record),
        notes=notes(record),
        pictures=quote(Path(os.path.relpath(pictures, folder)).as_posix()),
        figures=figures,
        wins=win_table(record),
        gaps=gap_table(record),
        rewards=reward_table(record),
        who=[(label(p), p.text) for p in record.policies],
        examples=[shown(record, example) for example in record.examples],
        temperature=f"{record.example_temperature:g}",
        facts=flattened(record.config),
        data=flattened(record.data),
        timing=[(stage.name, duration(stage.seconds)) for stage in record.stages],
        command=f"tether task run {record.task} --full config.yaml --output-dir again",
    )
    write_text(page, text)
    return page


def verdict(record: TaskRecord) -> tuple[str, list[str]]:
    """Return what the rates say, by a rule that looks at every temperature: headline and sentences."""
    dpo = dpo_of(record)
    rates = _rates(record, dpo)
    won = [r.temperature for r in rates if r.win_rate.low is not None and r.win_rate.low > 50]
    lost = [r.temperature for r in rates if r.win_rate.high is not None and r.win_rate.high < 50]
    parts = [f"beats the references at {_listed(won, len(rates))}"] if won else []
    parts += (
        [f"loses to {'them' if won else 'the references'} at {_listed(lost, len(rates))}"] if lost else []
    )
    headline = f"DPO {' and '.join(parts)}" if parts else "DPO and the references cannot be told apart"
    each = "; ".join(f"{_percent(r.win_rate)} at temperature {r.temperature:g}" for r in rates)
    sentences = [f"{label(dpo)} wins {each} (95 %)."]
    for policy in compared(record):
        found = sorted((g for g in record.gaps if g.other == policy.name), key=lambda g: g.temperature)
        if found and policy.kind != "best-of-n-true":
            named = {"base": "the start model", "start": "the model tuned on the texts"}
            sentences.append(_against(named.get(policy.kind, label(policy)), found))
    return headline, sentences


def _against(other: str, gaps: Sequence[Any]) -> str:
    above = [g.temperature for g in gaps if g.distinguishable and g.points.value > 0]
    below = [g.temperature for g in gaps if g.distinguishable and g.points.value < 0]
    parts = [f"ahead at {_listed(above, len(gaps))}"] if above else []
    parts += [f"behind at {_listed(below, len(gaps))}"] if below else []
    if len(above) + len(below) < len(gaps):
        parts.append("not distinguishable at the others" if parts else "not distinguishable at any")
    return f"Against {other} on the same prompts: {', '.join(parts)}."


def _listed(temperatures: Iterable[float], of: int) -> str:
    texts = [f"{t:g}" for t in temperatures]
    if len(texts) == of:
        return "every temperature"
    if len(texts) == 1:
        return f"temperature {texts[0]}"
    return f"temperatures {', '.join(texts[:-1])} and {texts[-1]}"


def tiles(record: TaskRecord) -> list[Tile]:
    """Return the numbers at the top: win rates at the ends of the scale, and what they rest on."""
    dpo = dpo_of(record)
    rates = _rates(record, dpo)
    headed = [(dpo, rates[0]), (dpo, rates[-1])]
    headed += [(p, _rates(record, p)[0]) for p in compared(record) if p.kind in ("base", "start")][:1]
    found = [
        Tile(
            f"{label(policy)} at temperature {rate.temperature:g}",
            f"{rate.win_rate.value:.0f} %",
            _reach(rate.win_rate),
        )
        for policy, rate in headed
    ]
    return [*found, Tile("test prompts", f"{rates[0].prompts:,}", f"judge: {record.judge}")]


def _rates(record: TaskRecord, policy: TaskPolicy) -> list[WinRate]:
    """Return a policy's rates by rising temperature."""
    return sorted((r for r in record.win_rates if r.policy == policy.name), key=lambda r: r.temperature)


def notes(record: TaskRecord) -> list[str]:
    """Return what a reader must know before relying on the numbers."""
    rates = len({(r.policy, r.temperature) for r in record.win_rates})
    found = [
        "Every model was trained once, with one seed: no interval here says what another seed would change.",
        f"Each of the {rates} intervals holds by itself; among so many, one or two will miss their value.",
    ]
    if any(p.kind == "best-of-n-true" for p in record.policies):
        found.append("Best of N by the true reward is an upper bound: nobody has that reward on real data.")
    failed = sum(rate.failed for rate in record.win_rates)
    if failed:
        found.append(f"{failed} pairs have no verdict and are in no rate.")
    cut = [r for r in record.win_rates if r.cut > 5]
    if cut:
        worst = max(cut, key=lambda r: r.cut)
        found.append(
            f"{len(cut)} of the {rates} sets of answers have more than 5 % cut at the limit "
            f"({worst.policy} at temperature {worst.temperature:g}: {worst.cut:.0f} %)."
        )
    if record.size == "world":
        found.append("A small world is evidence about the method, not about a large model.")
    return [*found, *(f"Not as published: {text}." for text in record.config.get("differences", ()))]


def win_table(record: TaskRecord) -> Table:
    """Return win rates with intervals, policies by temperatures."""
    found = {(r.policy, r.temperature): r.win_rate for r in record.win_rates}
    return _by_temperature(record, lambda name, t: _percent(found[name, t], unit=False))


def gap_table(record: TaskRecord) -> Table:
    """Return by how many points DPO is ahead of each other policy."""
    found = {(g.other, g.temperature): g for g in record.gaps}

    def cell(name: str, temperature: float) -> str:
        one = found.get((name, temperature))
        if one is None:
            return "–"
        return f"{number(one.points.value, 0, signed=True)} ({_span(one.points, signed=True)})"

    dpo = dpo_of(record).name
    return _by_temperature(record, cell, [p for p in compared(record) if p.name != dpo])


def reward_table(record: TaskRecord) -> Table | None:
    """Return mean rewards of the answers; None where the reward is unknown."""
    found = {(r.policy, r.temperature): r.reward for r in record.win_rates}

    def cell(name: str, temperature: float) -> str:
        value = found[name, temperature]
        return "–" if value is None else f"{number(value.value, 2)} ({_span(value, 2)})"

    return None if None in found.values() else _by_temperature(record, cell)


def _by_temperature(record: TaskRecord, cell: Any, policies: Sequence[TaskPolicy] | None = None) -> Table:
    temperatures = sorted({r.temperature for r in record.win_rates})
    rows = tuple(
        (label(policy), *(cell(policy.name, t) for t in temperatures))
        for policy in (compared(record) if policies is None else policies)
    )
    columns = ("", *(f"T {t:g}" for t in temperatures))
    return Table(columns, rows, frozenset(range(1, len(columns))))


def csv_tables(record: TaskRecord) -> dict[str, list[dict[str, Any]]]:
    """Return every number of the task as flat rows: win rates, differences, frontier."""
    return {
        "table_win_rates": [_flat(rate) for rate in record.win_rates],
        "table_gaps": [_flat(gap) for gap in record.gaps],
        "table_frontier": [_flat(point, without=("kind",)) for point in record.frontier],
    }


def _flat(record: Record, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a record's fields as columns, an `Estimate` as four; one that is not there has none."""
    row: dict[str, Any] = {}
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if isinstance(value, Estimate):
            row |= {name: value.value} | {
                f"{name}_{part}": getattr(value, part) for part in ("low", "high", "se")
            }
        elif name not in without and field.annotation != Estimate | None:
            row[name] = value
    return row


def shown(record: TaskRecord, example: Example) -> Shown:
    """Return an example with its answers in the order of the policies."""
    return Shown(
        prompt=_text(example.prompt),
        reference=Said("reference", example.reference, _score(example.reference_score)),
        answers=tuple(
            Said(label(policy), example.answers[policy.name], _score(example.scores.get(policy.name)))
            for policy in compared(record)
            if policy.name in example.answers
        ),
    )


def _text(prompt: Content) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(m.get("content", "")) for m in prompt)


def _score(value: float | None) -> str:
    return "" if value is None else number(value, 2)


def _percent(value: Estimate, *, unit: bool = True) -> str:
    span = _span(value)
    return f"{value.value:.0f}{' %' if unit else ''}" + (f" ({span})" if span else "")


def _span(value: Estimate, decimals: int = 0, *, signed: bool = False) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"{number(value.low, decimals, signed=signed)} to {number(value.high, decimals, signed=signed)}"


def _reach(value: Estimate) -> str:
    span = _span(value)
    return f"95 %: {span}" if span else "no interval"
