"""Which charts a run page has, from its numbers; each with a caption that says what is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from tether.records.results import Measurement, write_text
from tether.reports import plots
from tether.reports.contents import Line, RunContents, words
from tether.reports.plots import BLUE, GREY, INK, ORANGE, TEAL, Axis
from tether.reports.tables import csv_text
from tether.reports.verdict import Verdict

DRAWN = 150
"""Most points of a training curve; longer logs are drawn as means of equal stretches."""
UPDATE, PLAIN = Axis("update", whole=True), Axis()


@dataclass(frozen=True)
class Figure:
    """A chart with its words and its numbers; `name` is its file name under report/."""

    name: str
    title: str
    caption: str
    chart: alt.LayerChart
    rows: tuple[dict[str, Any], ...]

    @property
    def svg(self) -> Markup:
        """The chart for the page."""
        return plots.inline_svg(self.chart, self.name, self.title)


def result_figures(contents: RunContents, verdict: Verdict) -> list[Figure]:
    """Return what the model's own answers gained and cost: score, KL, one against the other, per prompt."""
    measured = contents.measurements
    found = [_score(measured, name, index) for index, name in enumerate(contents.evaluators)]
    found += [_kl(measured)]
    found += [_frontier(measured, name) for name in contents.evaluators[:1]]
    found += [_gains(contents, verdict), _length(measured), _entropy(measured)]
    return [figure for figure in found if figure is not None]


def learning_figures(contents: RunContents) -> list[Figure]:
    """Return the learning curves: loss, accuracy, rewards, log-ratio per token."""
    rewards = {"chosen": BLUE, "rejected": ORANGE, "margin": INK}
    found = [
        _curve(contents, "loss", "loss", "Loss", "Mean loss of the objective."),
        _curve(
            contents,
            "rewards/accuracies",
            "accuracy",
            "Accuracy",
            "Share of pairs whose chosen answer has the larger reward; ties count one half.",
            rule=0.5,
            axis=Axis(format=".0%"),
        ),
        _sides(
            contents, "rewards/{}", "rewards", "Rewards", "β times the log-ratio to the reference", rewards
        ),
        _sides(
            contents,
            "logratios/{}",
            "logratios",
            "Log-ratio per token",
            "Log-ratio to the reference divided by the answer's length, nats per token",
            {"chosen": BLUE, "rejected": ORANGE},
        ),
    ]
    return [figure for figure in found if figure is not None]


def write_figures(folder: Path, figures: Iterable[Figure]) -> list[Path]:
    """Write every chart as SVG, PNG and CSV; returns the paths."""
    written: list[Path] = []
    for figure in figures:
        svg, png = plots.files(figure.chart, figure.title)
        paths = [folder / f"{figure.name}.{ending}" for ending in ("svg", "png", "csv")]
        write_text(paths[0], svg)
        paths[1].write_bytes(png)
        write_text(paths[2], csv_text(figure.rows))
        written += paths
    return written


def thinned(lines: Sequence[Line], name: str, limit: int = DRAWN) -> tuple[list[tuple[float, float]], int]:
    """Return (step, value) points of a metric, averaged over stretches of equal length, and that length."""
    points = [(float(line["step"]), float(line[name])) for line in lines if name in line]
    size = -(-len(points) // limit) if points else 1
    if size == 1:
        return points, 1
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (stretch[-1][0], sum(value for _, value in stretch) / len(stretch)) for stretch in stretches
    ], size


def _score(measured: Sequence[Measurement], name: str, index: int) -> Figure | None:
    rows = [
        _row(m.step, m.scores[name], m.scores_se.get(name), "score") for m in measured if name in m.scores
    ]
    if len(rows) < 2:
        return None
    title = words(name).capitalize()
    chart = plots.lines(rows, UPDATE, Axis(), {"score": TEAL}, band=True)
    text = "Mean over the model's own answers to held-out prompts; the band is one standard error."
    return Figure(f"score_{_file_name(name, index)}", title, text, chart, tuple(rows))


def _kl(measured: Sequence[Measurement]) -> Figure | None:
    rows = [
        _row(m.step, m.kl_start, m.kl_start_se, "start model") for m in measured if m.kl_start is not None
    ]
    if len(rows) < 2:
        return None
    colours = {"start model": BLUE}
    other = [
        _row(m.step, m.kl_reference, m.kl_reference_se, "reference")
        for m in measured
        if m.kl_reference is not None
    ]
    if any(row["y"] != first["y"] for row, first in zip(other, rows, strict=False)):
        rows += other
        colours["reference"] = ORANGE
    chart = plots.lines(rows, UPDATE, Axis(zero=True), colours, band=True)
    text = "Nats per answer, measured on the model's own samples; the band is one standard error."
    title = "KL from the start model" if len(colours) == 1 else "KL from start model and reference"
    return Figure("kl", title, text, chart, tuple(rows))


def _frontier(measured: Sequence[Measurement], name: str) -> Figure | None:
    both = [m for m in measured if m.kl_start is not None and name in m.scores]
    if len(both) < 3:
        return None
    rows: list[dict[str, Any]] = []
    for order, m in enumerate(both):
        kl, score = m.kl_start or 0.0, m.scores[name]
        row: dict[str, Any] = {"x": kl, "y": score, "series": "run", "order": order, "update": m.step}
        row["label"] = {0: "start", len(both) - 1: f"update {m.step}"}.get(order, "")
        if m.kl_start_se is not None:
            row |= {"left": kl - m.kl_start_se, "right": kl + m.kl_start_se}
        if name in m.scores_se:
            row |= {"low": score - m.scores_se[name], "high": score + m.scores_se[name]}
        rows.append(row)
    x = Axis("KL from the start model, nats per answer", zero=True)
    chart = plots.frontier(rows, x, Axis(), {"run": TEAL}, path=True)
    text = "What was gained for what was spent, one point per measurement; bars are one standard error."
    return Figure("frontier", f"{words(name).capitalize()} against KL", text, chart, tuple(rows))


def _gains(contents: RunContents, verdict: Verdict) -> Figure | None:
    gains = [
        sample.score_after - sample.score_before
        for sample in contents.samples
        if sample.score_before is not None and sample.score_after is not None
    ]
    if len(gains) < 8 or verdict.gain is None:
        return None
    rows = plots.bins(gains)
    chart = plots.histogram(rows, Axis(f"gain in {verdict.gain.name}"), mean=verdict.gain.interval.estimate)
    text = "The same held-out prompts before and after; solid line: mean gain, dashed line: no change."
    return Figure("gain_per_prompt", "Gain per prompt", text, chart, tuple(rows))


def _length(measured: Sequence[Measurement]) -> Figure | None:
    text = "Mean length of the model's own answers in tokens, end token included."
    return _course({m.step: m.tokens for m in measured}, "tokens", "answer_length", "Answer length", text)


def _entropy(measured: Sequence[Measurement]) -> Figure | None:
    text = (
        "Mean entropy of the next token along the model's own answers, nats; near 0 it always says the same."
    )
    return _course({m.step: m.entropy for m in measured}, "entropy", "entropy", "Entropy", text)


def _course(values: Mapping[int, float], line: str, name: str, title: str, text: str) -> Figure | None:
    """Draw one mean of the model's own answers over updates."""
    rows = [_row(step, value, None, line) for step, value in values.items()]
    if len(rows) < 2:
        return None
    return Figure(name, title, text, plots.lines(rows, UPDATE, Axis(zero=True), {line: INK}), tuple(rows))


def _curve(
    contents: RunContents,
    metric: str,
    name: str,
    title: str,
    text: str,
    *,
    rule: float | None = None,
    axis: Axis = PLAIN,
) -> Figure | None:
    trained, size = thinned(contents.train, metric)
    held_out = [
        (float(line["step"]), float(line[f"eval_{metric}"]))
        for line in contents.evals
        if f"eval_{metric}" in line
    ]
    errors = {line["step"]: line.get(f"eval_{metric}_se") for line in contents.evals}
    rows = [_row(step, value, None, "training") for step, value in trained]
    rows += [_row(step, value, errors.get(step), "held-out") for step, value in held_out]
    if len(rows) < 2:
        return None
    colours = {key: colour for key, colour in (("held-out", BLUE), ("training", GREY)) if _has(rows, key)}
    chart = plots.lines(rows, UPDATE, axis, colours, quiet=("training",), band=True, rule=rule)
    only = "" if _has(rows, "held-out") else " Training rows only."
    caption = f"{text}{only}{_banded(rows)}{_averaged(size)}"
    return Figure(name, title, caption, chart, tuple(rows))


def _sides(
    contents: RunContents, metric: str, name: str, title: str, text: str, colours: dict[str, str]
) -> Figure | None:
    for lines, prefix, where in ((contents.evals, "eval_", "held-out"), (contents.train, "", "training")):
        limit = max(DRAWN, len(lines)) if prefix else DRAWN
        rows: list[dict[str, Any]] = []
        longest = 1
        for side in colours:
            field = prefix + metric.format("margins" if side == "margin" else side)
            errors = {line["step"]: line.get(f"{field}_se") for line in lines}
            points, size = thinned(lines, field, limit)
            longest = max(longest, size)
            rows += [
                _row(step, value, errors.get(step) if size == 1 else None, side) for step, value in points
            ]
        if len({row["x"] for row in rows}) >= 2:
            shown = {side: colour for side, colour in colours.items() if _has(rows, side)}
            chart = plots.lines(
                rows, UPDATE, Axis(), shown, quiet=() if prefix else tuple(shown), band=True, rule=0.0
            )
            return Figure(
                name, title, f"{text}, {where} pairs.{_banded(rows)}{_averaged(longest)}", chart, tuple(rows)
            )
    return None


def _banded(rows: Iterable[dict[str, Any]]) -> str:
    return " Bands are one standard error." if any("low" in row for row in rows) else ""


def _averaged(size: int) -> str:
    return f" Training values are means of {size} log lines." if size > 1 else ""


def _has(rows: Iterable[dict[str, Any]], series: str) -> bool:
    return any(row["series"] == series for row in rows)


def _row(step: float, value: float | None, error: float | None, series: str) -> dict[str, Any]:
    row: dict[str, Any] = {"x": step, "y": value, "series": series}
    if error is not None and value is not None:
        row |= {"low": value - error, "high": value + error}
    return row


def _file_name(name: str, index: int) -> str:
    """Keep a plain name; any other gets its number, so that two never share a file."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:60]
    return safe if safe == name else f"{safe}_{index}"
