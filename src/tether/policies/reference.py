"""A reference is a table of scored texts with an identity; every kind of reference ends up as one.

    self           the policy exactly as it is at step 0          model:PATH   another model, any tokenizer
    prior          the policy without the prompt (RefDPO's p(y))  artifact:REF a table scored before
    columns        log-probs the data brings (RefDPO, TRL)        none         no table at all

The identity has two parts. `scored` says what was scored: any difference refuses, naming the field.
`computed` says how: it is recorded, and the error on re-scored rows is shown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from tether.errors import ReferenceMismatch
from tether.records.tensors import GroupBatch, SequenceLogProbs

SCORING_VERSION = 2
"""Raised only when the same model and text would get another number."""


@dataclass(frozen=True)
class ReferenceIdentity:
    """Name of a reference: what was scored and how it was computed."""

    kind: str
    scored: Mapping[str, str]
    """weights, adapter, quantisation, tokenizer, template, stop_ids, truncation, turns, prompt,
    scoring_version."""
    computed: Mapping[str, str] = field(default_factory=dict[str, str])
    """dtype, attention, layout, device, versions; `published`: its name and commit on the hub."""

    def difference(self, other: "ReferenceIdentity") -> str | None:
        """Return the first field of `scored` in which two identities differ, in words, or None."""
        for name in sorted({*self.scored, *other.scored}):
            mine, theirs = self.scored.get(name), other.scored.get(name)
            if mine != theirs:
                return f"{name} is {theirs!r}, expected {mine!r}"
        return None


@dataclass(frozen=True)
class Score:
    """One scored text: summed log-prob (nats), scored tokens, per-token values where they were kept."""

    total: float
    count: int
    tokens: tuple[float, ...] | None = None


class Scores(Protocol):
    """Whatever knows the reference's log-probs of a batch: a table of scored texts, or a moving model."""

    def lookup(self, batch: GroupBatch) -> SequenceLogProbs:
        """Return the reference's log-probs of the S completions of a batch."""
        ...


@dataclass
class ReferenceTable:
    """Scores by text key (`records.rows.text_key`)."""

    identity: ReferenceIdentity
    scores: dict[str, Score]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys this table has no score for."""
        return [key for key in keys if key not in self.scores]

    def lookup(self, batch: GroupBatch) -> SequenceLogProbs:
        """Return the reference's log-probs of the S completions of a batch.

        Raises:
            ReferenceMismatch: a completion was never scored; names the row.

        """
        found: list[Score] = []
        for index, key in enumerate(batch.keys):
            score = self.scores.get(key)
            if score is None:
                row = batch.row_ids[int(batch.group_of[index])]
                raise ReferenceMismatch(
                    f"{row}: the reference ({self.identity.kind}) has no score for its {batch.roles[index]} "
                    "completion; score this data with tether score, or check max_length and truncation_mode"
                )
            found.append(score)
        tokens = None
        if found and all(score.tokens is not None for score in found):
            tokens = torch.tensor([v for score in found for v in score.tokens or ()], dtype=torch.float32)
        return SequenceLogProbs(
            torch.tensor([score.total for score in found], dtype=torch.float32),
            torch.tensor([score.count for score in found], dtype=torch.int64),
            tokens,
        )

    def add(self, batch: GroupBatch, values: SequenceLogProbs, *, keep_tokens: bool = False) -> None:
        """Store the log-probs of a batch under its keys.

        Raises:
            ReferenceMismatch: a score is NaN or infinite; names the row.

        """
        pieces = torch.split(values.tokens, values.counts.tolist()) if values.tokens is not None else None
        for index, key in enumerate(batch.keys):
            total = float(values.sums[index])
            if total != total or total in (float("inf"), float("-inf")):
                row = batch.row_ids[int(batch.group_of[index])]
                raise ReferenceMismatch(f"{row}: the reference's log-prob is {total}; its weights are broken")
            tokens = tuple(pieces[index].tolist()) if keep_tokens and pieces is not None else None
            self.scores[key] = Score(total, int(values.counts[index]), tokens)


def table_from_columns(rows: Iterable[tuple[str, str, float | None]]) -> ReferenceTable:
    """Build a table from (row id, text key, log-prob) as the data's own columns give them.

    Raises:
        ReferenceMismatch: a row has no such column.

    """
    scores: dict[str, Score] = {}
    for row_id, key, value in rows:
        if value is None:
            raise ReferenceMismatch(
                f"{row_id}: --reference columns needs chosen_logprob and rejected_logprob "
                "(or ref_chosen_logps and ref_rejected_logps) in every row"
            )
        scores[key] = Score(value, 0)
    return ReferenceTable(ReferenceIdentity("columns", {"kind": "columns"}), scores)
