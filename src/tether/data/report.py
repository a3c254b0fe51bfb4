"""What a preflight says: the kinds of findings, and the report that becomes `preflight.json`."""

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tether.records.results import SCHEMA, Finding, Record
from tether.records.rows import Content, Preference

Severity = Literal["dropped", "warning", "note"]

KINDS: dict[str, tuple[Severity, str]] = {
    "unreadable": ("dropped", "not a row of this file type; repair or delete these lines"),
    "bad_utf8": ("dropped", "holds bytes that are not UTF-8; save the file as UTF-8"),
    "lone_surrogate": ("dropped", "holds half a surrogate pair, which is no text; repair the export"),
    "missing_field": ("dropped", "lacks a field its format needs; fill it in"),
    "wrong_type": ("dropped", "holds a value its format does not allow"),
    "wrong_task": ("dropped", "has no answers this kind of training uses"),
    "different_prompts": ("dropped", "its answers belong to different prompts, so they cannot be compared"),
    "no_final_assistant": ("dropped", "does not end with an assistant message, so there is nothing to train"),
    "empty_prompt": ("dropped", "has an empty prompt: nothing is asked, so no first token can be predicted"),
    "empty_completion": ("dropped", "has an answer without any text"),
    "identical": ("dropped", "its answers are the same text, so there is no preference to learn"),
    "tied": (
        "dropped",
        "its answers have equal scores; left out, kept at probability one half with ties=soft",
    ),
    "empty_file": ("warning", "holds no rows"),
    "mixed_formats": ("warning", "is written in another format than most of its file; read as its own"),
    "score_against": ("warning", "the rejected answer has the higher score: are the columns swapped?"),
    "contradictory": ("warning", "prefers a over b while another row of the same prompt prefers b over a"),
    "duplicate": ("warning", "repeats an earlier row, so that row counts twice"),
    "overlap_row": ("warning", "evaluation row that is also a training row: its score means nothing"),
    "overlap_prompt": ("warning", "evaluation row whose prompt is also trained on"),
    "repeated_prompt": ("warning", "both answers begin with the prompt, which will be trained as answer"),
    "prompt_ends_with_assistant": (
        "warning",
        "its prompt ends with an assistant turn that the answer follows",
    ),
    "whitespace_only": ("warning", "has an answer of nothing but white space"),
    "later_turns": (
        "warning",
        "its answer goes on with another Human: turn, trained as if the model said it",
    ),
    "tied_answers": (
        "note",
        "ranks answers with equal scores; the first of each stays, the others are left out",
    ),
    "ties_kept": ("note", "has equal scores; kept at probability one half"),
    "best_and_worst": ("note", "is a ranking; its best and worst answers make the pair"),
    "pair_split": ("note", "is a pair; its chosen answer is desirable, its rejected one is not"),
    "best_only": ("note", "is feedback; its better (or desirable) answer is imitated, nothing else is used"),
    "weight": ("note", "column `weight` scales its loss"),
    "margin": ("note", "column `margin` is the margin its loss asks for"),
    "probability": ("note", "column `probability` makes it a soft label"),
}
"""Kind -> what happens to the row, and what it is; the order is the order of a report."""


class FileReport(Record):
    """One file that was read."""

    path: str
    sha256: str
    split: Literal["train", "eval"]
    format: str
    """Name in `data.formats.FORMATS`; `none` where no row was readable."""
    read: int
    used: int
    ignored_columns: tuple[str, ...] = ()
    """Columns of the first row that are not used."""


class DataReport(Record):
    """What was read, what of it is used, and everything that is odd about it."""

    schema_version: int = SCHEMA
    task: str
    files: tuple[FileReport, ...]
    read: int
    used: int
    eval_read: int = 0
    eval_used: int = 0
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, float] = Field(default_factory=dict)
    """Characters: `<part>_characters_mean|median|max` for prompt, chosen, rejected, completion (training
    rows); `chosen_longer_share` counts equal lengths as one half."""

    def dropped(self) -> dict[str, int]:
        """Return how many rows were left out for each reason, most first."""
        found = {f.kind: f.count for f in self.findings if f.severity == "dropped"}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class Ledger:
    """Collects what is found in rows, so that nothing is dropped uncounted."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}

    def add(self, kind: str, row_id: str, detail: str = "") -> None:
        """Note one row; `kind` must be one of `KINDS`."""
        self._rows[kind].append((row_id, detail))

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding per kind that was seen, in the order of `KINDS`."""
        return tuple(
            Finding(
                kind=kind,
                severity=KINDS[kind][0],
                count=len(seen),
                rows=tuple(row for row, _ in seen),
                details=tuple(detail for _, detail in seen) if any(detail for _, detail in seen) else (),
                text=KINDS[kind][1],
            )
            for kind, seen in self._rows.items()
            if seen
        )


def characters(content: Content) -> int:
    """Return the length of what is said, in characters (code points), roles and templates left out."""
    return len(content) if isinstance(content, str) else sum(len(m.get("content") or "") for m in content)


def length_numbers(rows: Sequence[Preference]) -> dict[str, float]:
    """Return the length statistics of a report (see `DataReport.numbers`)."""
    parts = {"prompt": [characters(row.prompt) for row in rows]}
    for row in rows:
        for completion in row.completions:
            part = completion.role if completion.role in ("chosen", "rejected") else "completion"
            parts.setdefault(part, []).append(characters(completion.content))
    numbers: dict[str, float] = {}
    for part, lengths in parts.items():
        if lengths:
            numbers[f"{part}_characters_mean"] = statistics.fmean(lengths)
            numbers[f"{part}_characters_median"] = float(statistics.median(lengths))
            numbers[f"{part}_characters_max"] = float(max(lengths))
    if len(parts.get("chosen", [])) == len(parts.get("rejected", [])) > 0:
        longer = [(a > b) + 0.5 * (a == b) for a, b in zip(parts["chosen"], parts["rejected"], strict=True)]
        numbers["chosen_longer_share"] = statistics.fmean(longer)
    return numbers
