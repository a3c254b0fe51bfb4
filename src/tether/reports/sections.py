"""Parts of a page or card, made from a run's contents: headline numbers, samples, tables, facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tether.records.results import Answer, Finding, Measurement, Sample
from tether.reports.contents import RunContents, words
from tether.reports.explain import beta_of
from tether.reports.tables import (
    Table,
    count,
    decimals_for,
    duration,
    flattened,
    number,
    percent,
    plain,
    with_error,
)
from tether.reports.verbatim import Turn, compared, turns, verbatim
from tether.reports.verdict import Verdict, gain_interval_text

SAMPLES = 120
"""Most samples a page shows, in file order; the page says how many there are."""
SAMPLE_TEXT = 1_000_000
"""Most characters of HTML the samples of a page take, so that it opens at once."""
BETWEEN = 8
"""Most steps on the way whose answers a page shows."""
BETWEEN_TEXT = 1500
"""Characters shown of such an answer."""
FIRST = 6
"""Samples shown before a reader asks for more."""


@dataclass(frozen=True)
class Tile:
    """One headline number: what it was before, what it is, and what it means."""

    label: str
    value: str
    note: str
    before: str = ""


@dataclass(frozen=True)
class Between:
    """What a model on the way answered."""

    step: str
    text: Markup
    score: str


@dataclass(frozen=True)
class Shown:
    """One sample as the page shows it; `change` is up, down, same or unscored."""

    prompt: list[Turn]
    before: Markup
    after: Markup
    score_before: str
    score_after: str
    gain: str
    change: str
    late: bool
    """Whether it is hidden until the reader asks for more than the first few."""
    between: tuple[Between, ...] = ()
    """Answers on the way, by rising step."""


def model_name(contents: RunContents) -> str:
    """Return the last part of the model's path, with its folder where it is called just `model`."""
    parts = [part for part in str(contents.record.model.get("path") or "model").split("/") if part]
    named = parts[-2:] if parts[-1:] == ["model"] else parts[-1:]
    return "/".join(named) or "model"


def subtitle(contents: RunContents) -> list[str]:
    """Return the run in a few words each: objective, beta, reference, steps, date."""
    record = contents.record
    beta = beta_of(contents)
    parts = [
        str(record.objective.get("name") or ""),
        f"β {number(beta)}" if beta is not None else "",
        f"reference {record.reference.get('kind')}" if record.reference.get("kind") else "",
        f"{count(record.steps)} updates" if record.steps else "",
        record.created[:10],
    ]
    return [part for part in parts if part]


def tiles_of(contents: RunContents, verdict: Verdict) -> list[Tile]:
    """Return the headline numbers; what was not measured has no tile."""
    gain, held, record = verdict.gain, verdict.held_out, contents.record
    tiles: list[Tile] = []
    if gain is not None:
        note = f"{number(gain.interval.estimate, gain.decimals, signed=True)} ({gain_interval_text(gain)})"
        before, after = number(gain.before, gain.decimals), number(gain.after, gain.decimals)
        tiles.append(Tile(gain.name.capitalize(), after, note if gain.known else "no interval", before))
    if verdict.kl is not None:
        note = "± one standard error" if verdict.kl_se is not None else "no standard error"
        tiles.append(Tile("KL spent, nats", with_error(verdict.kl, verdict.kl_se), f"per answer, {note}"))
    if held.loss_after is not None:
        before = number(held.loss_before, 3) if held.loss_before is not None else ""
        note = f"± {number(held.loss_se, decimals_for(held.loss_se))}" if held.loss_se else "mean"
        rows = f" over {count(held.pairs)} rows" if held.pairs else ""
        tiles.append(Tile("Held-out loss", number(held.loss_after, 3), note + rows, before))
    else:
        tiles += _training_loss(contents)
    if held.accuracy_after is not None:
        interval = held.accuracy_interval
        note = (
            f"95 %: {number(100 * interval[0], 0)} to {percent(interval[1])}" if interval else "no interval"
        )
        before = percent(held.accuracy_before) if held.accuracy_before is not None else ""
        tiles.append(Tile("Held-out accuracy", percent(held.accuracy_after), note, before))
    if contents.start is not None and contents.end is not None:
        ended = f"{percent(contents.end.end_rate)} end by themselves"
        before = number(contents.start.tokens, 1)
        tiles.append(Tile("Answer length, tokens", number(contents.end.tokens, 1), ended, before))
    tiles += _effort(contents)
    if not tiles and record.results:
        tiles = [Tile(name, number(value), "") for name, value in list(record.results.items())[:6]]
    return tiles


def _training_loss(contents: RunContents) -> list[Tile]:
    """Return the loss on training rows, for a run that held nothing out."""
    losses = [float(line["loss"]) for line in contents.train if "loss" in line]
    if not losses:
        return []
    tail = max(1, len(losses) // 10)
    note = "training rows, mean of the last tenth of the log"
    return [Tile("Training loss", number(fmean(losses[-tail:]), 3), note, number(losses[0], 3))]


def _effort(contents: RunContents) -> list[Tile]:
    record = contents.record
    tokens = next((line["num_tokens"] for line in reversed(contents.train) if "num_tokens" in line), None)
    tokens = tokens if tokens is not None else record.results.get("num_tokens")
    seconds = record.timing.get("total") or sum(record.timing.values())
    tiles: list[Tile] = []
    if tokens is not None:
        tiles.append(Tile("Tokens trained on", count(tokens), f"{number(record.epochs, 2)} epochs"))
    if seconds:
        device = record.hardware.get("device") or record.hardware.get("name") or ""
        tiles.append(Tile("Time", duration(seconds), f"all stages{f', {plain(device)}' if device else ''}"))
    return tiles


def shown_samples(samples: Sequence[Sample], answers: Mapping[int, Sequence[Answer]]) -> list[Shown]:
    """Return the first samples in file order, so that nobody picked them, with answers on the way."""
    shown: list[Shown] = []
    spent = 0
    for index, sample in enumerate(samples[:SAMPLES]):
        prompt, (before, after) = turns(sample.prompt), compared(sample.before, sample.after)
        between = tuple(_between(step, given[index]) for step, given in answers.items() if index < len(given))
        spent += len(before) + len(after) + sum(len(turn.text) for turn in prompt)
        spent += sum(len(one.text) for one in between)
        if spent > SAMPLE_TEXT and shown:
            break
        difference = None
        if sample.score_before is not None and sample.score_after is not None:
            difference = sample.score_after - sample.score_before
        shown.append(
            Shown(
                prompt=prompt,
                before=before,
                after=after,
                score_before="" if sample.score_before is None else number(sample.score_before, 2),
                score_after="" if sample.score_after is None else number(sample.score_after, 2),
                gain="" if difference is None else number(difference, 2, signed=True),
                change=_change(difference),
                late=len(shown) >= FIRST,
                between=between,
            )
        )
    return shown


def on_the_way(answers: Mapping[int, Sequence[Answer]]) -> dict[int, Sequence[Answer]]:
    """Return the answers between the first and the last step; of many steps a few, evenly spread."""
    steps = sorted(answers)[1:-1]
    if len(steps) > BETWEEN:
        steps = [steps[round(i * (len(steps) - 1) / (BETWEEN - 1))] for i in range(BETWEEN)]
    return {step: answers[step] for step in steps}


def _between(step: int, answer: Answer) -> Between:
    score = next(iter(answer.scores.values()), None)
    text = verbatim(answer.completion, BETWEEN_TEXT, f"samples/step-{step}.jsonl")
    return Between(count(step), text, "" if score is None else number(score, 2))


def _change(difference: float | None) -> str:
    if difference is None:
        return "unscored"
    return "same" if difference == 0 else "up" if difference > 0 else "down"


def measurement_table(contents: RunContents) -> Table | None:
    """Return every measurement on the model's own answers, one row per measured update."""
    measured = contents.measurements
    if not measured:
        return None
    cells: list[tuple[str, list[str]]] = [("update", [count(m.step) for m in measured])]
    for name in contents.evaluators:
        cells.append((words(name), [with_error(m.scores.get(name), m.scores_se.get(name)) for m in measured]))
    cells.append(("KL from start", [with_error(m.kl_start, m.kl_start_se) for m in measured]))
    if any(m.kl_reference is not None and m.kl_reference != m.kl_start for m in measured):
        cells.append(("KL from reference", [with_error(m.kl_reference, m.kl_reference_se) for m in measured]))
    cells += [(title, [text(m) for m in measured]) for title, text in MEASURED]
    columns = tuple(title for title, _ in cells)
    rows = tuple(zip(*(column for _, column in cells), strict=True))
    return Table(columns, rows, frozenset(range(len(columns))))


def _entropy(m: Measurement) -> str:
    return number(m.entropy, 2)


def _tokens(m: Measurement) -> str:
    return number(m.tokens, 1)


def _ends(m: Measurement) -> str:
    return percent(m.end_rate)


def _cut(m: Measurement) -> str:
    return percent(m.cut_share)


def _answers(m: Measurement) -> str:
    return count(m.samples)


MEASURED = (
    ("entropy, nats", _entropy),
    ("tokens", _tokens),
    ("end by themselves", _ends),
    ("cut", _cut),
    ("answers", _answers),
)


def data_table(files: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return the data files, their rows and digests."""
    rows = tuple(
        (
            str(file.get("split") or ""),
            str(file.get("path") or ""),
            plain(file.get("format")),
            *(count(file[key]) if isinstance(file.get(key), int) else "–" for key in ("read", "used")),
            str(file.get("sha256") or "")[:16],
        )
        for file in files
    )
    columns = ("part", "file", "format", "rows read", "rows usable", "sha256")
    return Table(columns, rows, frozenset({3, 4})) if rows else None


def findings_table(findings: Sequence[Finding]) -> Table | None:
    """Return what the preflight found, with the first rows of each kind."""
    if not findings:
        return None
    rows = tuple(
        (finding.severity, words(finding.kind), count(finding.count), finding.text, _some(finding))
        for finding in findings
    )
    return Table(("", "kind", "rows", "what it is", "first rows"), rows, frozenset({2}))


def _some(finding: Finding) -> str:
    more = finding.count - len(finding.rows[:3])
    return ", ".join(finding.rows[:3]) + (f" and {count(more)} more" if finding.rows and more else "")


def fact_groups(contents: RunContents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what identifies the run: reference, step-0 check, objective, model, versions, hardware."""
    record = contents.record
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Reference", record.reference),
        ("Check at step 0", record.step0),
        ("Objective", record.objective),
        ("Model", record.model),
        ("World", record.world or {}),
        ("Layout", record.layout),
        ("Versions", {"tether": record.tether_version, **record.versions}),
        ("Hardware", record.hardware),
        (
            "Run",
            {"id": record.run_id, "started": record.created, "steps": record.steps, "epochs": record.epochs},
        ),
    ]
    return [(title, flattened(facts)) for title, facts in groups if facts]
