"""Mismatched completions beside single ones: the answer of another row, from which KTO estimates its z0.

Which answer a row gets follows from row ids alone (rows stand in a ring in the order of a hash of their ids;
each takes the next answer to another prompt), so it is the same whatever the batch, the order or the run.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tether.errors import DataError
from tether.records.rows import Completion, Content, Preference, canonical_json
from tether.tokens.render import EncodedGroup, Renderer
from tether.tokens.truncate import Job, cut_completions

ROLE = "kl"


@dataclass(frozen=True)
class Mismatched:
    """Rows with their mismatched completion, and what happened on the way: row ids."""

    rows: list[Preference] = field(default_factory=list[Preference])
    groups: list[EncodedGroup] = field(default_factory=list[EncodedGroup])
    cut: list[str] = field(default_factory=list[str])
    """The mismatched completion was cut to fit."""
    without: list[str] = field(default_factory=list[str])
    """Left out: no other answer fits behind this prompt."""


def add_mismatched(
    rows: Sequence[Preference], groups: Sequence[EncodedGroup], renderer: Renderer, max_length: int | None
) -> Mismatched:
    """Return the rows, each with the answer of another row behind its own prompt (role `kl`).

    Raises:
        DataError: all rows share one prompt, so no answer is mismatched.

    """
    if rows and len({_prompt(row) for row in rows}) < 2:
        raise DataError(
            "kto needs rows of at least two prompts: z0 is estimated from answers to another prompt"
        )
    made = Mismatched()
    partners = _partners(rows)
    tried = [_with(row, next(partners[i], None)) for i, row in enumerate(rows)]
    encoded = renderer.encode_each([row for row in tried if row is not None], lambda row, error: None)
    known = {id(row): group for row, group in encoded}
    for index, row in enumerate(rows):
        paired, group = tried[index], groups[index]
        found = None
        while paired is not None and found is None:
            found = _fitted(paired, group, renderer, max_length, known.get(id(paired)))
            paired = paired if found else _with(row, next(partners[index], None))
        if found is None or paired is None:
            made.without.append(row.row_id)
            continue
        completion, ids = found
        if completion.cut and not paired.completions[0].cut:
            made.cut.append(row.row_id)
        made.rows.append(replace(row, completions=(*row.completions, completion)))
        made.groups.append(replace(group, completions=(*group.completions, ids.completions[0])))
    return made


def _with(row: Preference, other: Completion | None) -> Preference | None:
    """Return the row with this answer instead of its own."""
    if other is None:
        return None
    return replace(row, completions=(replace(other, role=ROLE, score=None, reference_logprob=None),))


def _fitted(
    row: Preference, group: EncodedGroup, renderer: Renderer, limit: int | None, encoded: EncodedGroup | None
) -> tuple[Completion, EncodedGroup] | None:
    """Return the row's only completion so that it fits, and its ids; None where it cannot."""
    completion = row.completions[0]
    try:
        encoded = encoded or renderer.encode(row)
        room = None if limit is None else limit - len(group.prompt_ids)
        if room is not None and len(encoded.completions[0].ids) > room:
            job = Job(row, completion, room)
            cut_completions([job], renderer)
            if job.cut is None or job.encoded is None:
                return None
            completion, encoded = job.cut, job.encoded
    except DataError:
        return None
    return completion, encoded


def _partners(rows: Sequence[Preference]) -> list[Iterator[Completion]]:
    """Return for every row the answers of the rows after it in the ring, those of its own prompt left out."""
    ring = sorted(range(len(rows)), key=lambda i: _place(rows[i]))
    place = {index: position for position, index in enumerate(ring)}
    prompts = [_prompt(row) for row in rows]
    texts = [isinstance(row.prompt, str) for row in rows]

    def others(index: int) -> Iterator[Completion]:
        for step in range(1, len(ring)):
            other = ring[(place[index] + step) % len(ring)]
            if prompts[other] != prompts[index] and texts[other] == texts[index]:
                yield rows[other].completions[0]

    return [others(index) for index in range(len(rows))]


def _place(row: Preference) -> bytes:
    own = f"{row.row_id}\0{row.completions[0].role}"
    return hashlib.sha256(own.encode("utf-8", "surrogatepass")).digest()


def _prompt(row: Preference) -> str:
    content: Content = row.prompt
    return content if isinstance(content, str) else canonical_json(content)
