"""What rows are for: a row in the form a task trains on, and what becomes of equal scores."""

from dataclasses import replace
from typing import Literal

from tether.data.fields import RowProblem
from tether.records.rows import Completion, Preference

Task = Literal["preference", "sft", "unpaired", "list", "any"]
Ties = Literal["drop", "soft", "keep"]
"""What becomes of equal scores: rows left out, pairs kept at probability one half, or rows as they are."""

_UNPAIRED = {"chosen": "desirable", "rejected": "undesirable"}
_RANKED = {"chosen": "rank-0", "rejected": "rank-1"}


def fit_task(row: Preference, task: Task) -> tuple[Preference, str]:
    """Return the row in the form a task trains on, and the kind of note that change deserves (or nothing).

    A pair stays a pair under `unpaired`: `unpair` takes it apart once it is known to be one.

    Raises:
        RowProblem: it has no answers of that kind (`wrong_task`).

    """
    role = row.completions[0].role
    if task == "preference":
        return _pair(row)
    if task == "sft" and role != "completion":
        if role == "undesirable":
            raise RowProblem("row", "has only an undesirable answer, which is not imitated", "wrong_task")
        return replace(row, completions=(replace(row.completions[0], role="completion"),)), "best_only"
    if task == "unpaired" and role not in ("chosen", "desirable", "undesirable"):
        raise RowProblem("row", f"has a {role} answer, must be desirable or undesirable", "wrong_task")
    if task == "list":
        return _list(row), ""
    return row, ""


def _pair(row: Preference) -> tuple[Preference, str]:
    if row.role("chosen") is not None:
        return row, ""
    first = row.completions[0]
    if first.role != "rank-0":
        raise RowProblem("row", f"has a {first.role} answer, must have chosen and rejected", "wrong_task")
    ends = (replace(first, role="chosen"), replace(row.completions[-1], role="rejected"))
    return replace(row, completions=ends), "best_and_worst"


def _list(row: Preference) -> Preference:
    """Return a ranking; a pair is one of two answers."""
    roles = [completion.role for completion in row.completions]
    if roles == list(_RANKED):
        return replace(row, completions=tuple(replace(c, role=_RANKED[c.role]) for c in row.completions))
    if roles[0] != "rank-0":
        raise RowProblem("row", f"has a {roles[0]} answer, must be a ranking or a pair", "wrong_task")
    return row


def unpair(row: Preference) -> list[Preference]:
    """Take a pair apart: its chosen answer is desirable, its rejected one is not (as TRL's KTO does)."""
    if row.completions[0].role != "chosen":
        return [row]
    return [
        replace(row, completions=(replace(completion, role=_UNPAIRED[completion.role]),))
        for completion in row.completions
    ]


def is_tied(row: Preference) -> bool:
    """Tell whether two answers of a row have equal scores."""
    scores = [completion.score for completion in row.completions if completion.score is not None]
    return len(set(scores)) < len(scores)


def without_tied(row: Preference) -> Preference | None:
    """Return a ranking with the first of every set of equally good answers; None where one is left."""
    kept: list[Completion] = []
    for completion in row.completions:
        if completion.score is None or completion.score not in [other.score for other in kept]:
            kept.append(replace(completion, role=f"rank-{len(kept)}"))
    return replace(row, completions=tuple(kept)) if len(kept) > 1 else None
