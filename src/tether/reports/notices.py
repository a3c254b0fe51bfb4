"""What a reader must know before believing the rest: what went wrong, was left out, was not measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tether.reports.contents import RunContents, words
from tether.reports.tables import count, number, percent

LONGER = 1.5
"""Answers this many times as long (or short) as before are worth a line."""
FEWER_ENDS = 0.1
"""Fall in the share of samples that end by themselves that is worth a line."""

STATUS = {
    "running": "This run has not finished: the page shows how far it came.",
    "interrupted": "This run was interrupted: the page shows how far it came. Start it again to go on.",
    "failed": "This run failed: the page shows how far it came.",
    "planned": "This run was planned only: nothing was trained.",
}


@dataclass(frozen=True)
class Notice:
    """One line a reader should see: a `warning` may change the conclusion, a `note` says what is not here."""

    level: Literal["warning", "note"]
    text: str


def notices_of(contents: RunContents) -> list[Notice]:
    """Return warnings first, then notes."""
    found = [
        *_status(contents),
        *_reference(contents),
        *_events(contents),
        *_layout(contents),
        *_samples(contents),
        *_data(contents),
        *_not_measured(contents),
    ]
    return sorted(found, key=lambda notice: notice.level == "note")


def _status(contents: RunContents) -> Iterator[Notice]:
    if contents.record.status in STATUS:
        yield Notice("warning", STATUS[contents.record.status])


def _reference(contents: RunContents) -> Iterator[Notice]:
    reference = contents.record.reference
    if reference.get("kind") in (None, "none"):
        return
    sentence = reference.get("verified") or contents.record.step0.get("verified")
    if not sentence:
        yield Notice("warning", "The reference was not checked at step 0.")
    elif "not verif" in str(sentence).lower():
        yield Notice("warning", f"Reference: {sentence}")


def _events(contents: RunContents) -> Iterator[Notice]:
    for event in contents.record.events:
        text = str(event.get("text") or ", ".join(f"{key}: {value}" for key, value in event.items()))
        step = event.get("step")
        yield Notice("warning", f"At step {step}: {text}" if step is not None else text)


def _layout(contents: RunContents) -> Iterator[Notice]:
    layout = contents.record.layout
    name, reason = layout.get("name"), layout.get("reason")
    if reason and not any(str(reason) in str(event.get("text")) for event in contents.record.events):
        yield Notice("warning", f"The layout fell back to {name}: {reason}")


def _samples(contents: RunContents) -> Iterator[Notice]:
    start, end = contents.start, contents.end
    if end is None:
        return
    if end.cut_share > 0:
        yield Notice(
            "warning",
            f"{percent(end.cut_share, 1)} of the measured answers reached kl_max_new_tokens and were cut: "
            "their KL and score count only up to the cut.",
        )
    if start is None:
        return
    if start.end_rate - end.end_rate > FEWER_ENDS:
        yield Notice(
            "warning",
            f"Only {percent(end.end_rate)} of the answers end by themselves, {percent(start.end_rate)} did "
            "before training: look for repetition in the samples.",
        )
    if start.tokens > 0 and end.tokens > 0:
        ratio = end.tokens / start.tokens
        if ratio > LONGER or ratio < 1 / LONGER:
            yield Notice(
                "warning",
                f"Answers are {number(ratio, 1)} times as long as before ({number(start.tokens, 1)} to "
                f"{number(end.tokens, 1)} tokens): check that length is not what was learnt.",
            )


def _data(contents: RunContents) -> Iterator[Notice]:
    rows = contents.rows
    if rows.left_out and rows.read:
        share = f"{count(rows.left_out)} of {count(rows.read)} rows"
        yield Notice("warning", f"{share} were left out; what was found in the data says why.")
    for finding in contents.findings:
        if finding.severity == "warning":
            named = words(finding.kind)
            yield Notice("warning", f"Data, {named}, {count(finding.count)} rows: {finding.text}")
    if contents.not_finite:
        text = f"{count(contents.not_finite)} logged values are NaN or infinite and not drawn."
        yield Notice("warning", text)


def _not_measured(contents: RunContents) -> Iterator[Notice]:
    if contents.end is None:
        yield Notice("note", "No answers were sampled after training: KL, entropy and lengths are not known.")
    elif contents.start is None:
        yield Notice("note", "No answers were sampled before training: changes are not known.")
    if not contents.evaluators:
        yield Notice("note", "No world, reward model or judge was given: the answers were not scored.")
    if not contents.evals:
        yield Notice("note", "There were no held-out rows: loss and accuracy are those of the training rows.")
    if not contents.samples:
        yield Notice("note", "No answers were kept: there is nothing to read side by side.")
    if not contents.preflight:
        yield Notice("note", "There is no preflight.json: what was found in the data is not known.")
