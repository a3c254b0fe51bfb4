"""Held-out splits and mixes of sources: pure functions of rows and seed, so any run can repeat them."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tether.data.prompts import prompt_text
from tether.errors import DataError, UsageError
from tether.records.rows import Origin, Preference, canonical_json

Rows = list[Preference]


def split(rows: Sequence[Preference], fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return (train, eval): whole prompts are held out until `fraction` of the rows is.

    Which prompts are held out depends on their text and the seed only, not on the order of the rows; both
    parts keep the order of the rows. Rows of one prompt never land on both sides.

    Raises:
        UsageError: fraction outside [0, 1).
        DataError: fewer than two different prompts.

    """
    if not 0 <= fraction < 1:
        raise UsageError(f"eval fraction is {fraction:g}, must lie in [0, 1)")
    if fraction == 0:
        return list(rows), []
    groups = _prompts(rows)
    if len(groups) < 2:
        raise DataError(
            f"cannot hold rows out: {len(rows)} rows share {len(groups)} prompt; name held-out rows instead"
        )
    wanted = fraction * len(rows)
    held: set[str] = set()
    count = 0
    for prompt in sorted(groups, key=lambda prompt: _draw(seed, "split", prompt)):
        if count >= wanted or len(held) == len(groups) - 1:
            break
        held.add(prompt)
        count += groups[prompt]
    sides: tuple[Rows, Rows] = ([], [])
    for row in rows:
        sides[prompt_text(row.prompt) in held].append(row)
    return sides


def take(rows: Sequence[Preference], fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return (kept, left out): whole prompts are kept until `fraction` of the rows is, at least one.

    A smaller fraction is a part of a larger one; both parts keep the order of the rows.

    Raises:
        UsageError: fraction outside (0, 1].

    """
    if not 0 < fraction <= 1:
        raise UsageError(f"data fraction is {fraction:g}, must lie in (0, 1]")
    groups = _prompts(rows)
    kept: set[str] = set()
    count = 0
    for prompt in sorted(groups, key=lambda prompt: _draw(seed, "take", prompt)):
        if count >= fraction * len(rows):
            break
        kept.add(prompt)
        count += groups[prompt]
    sides: tuple[Rows, Rows] = ([], [])
    for row in rows:
        sides[prompt_text(row.prompt) not in kept].append(row)
    return sides


def halve(rows: Sequence[Preference], half: str, seed: int) -> tuple[Rows, Rows]:
    """Return (kept, left out): the `first` or the `second` half of the rows, whole pairs, in their order.

    Rows with the same prompt and the same texts, whichever is chosen, land on one side; which one depends on
    the texts and the seed only. The two halves differ by the rows of one pair at most.

    Raises:
        UsageError: another name of a half.

    """
    if half not in ("first", "second"):
        raise UsageError(f"half is {half!r}; first or second")
    keys = [_pair(row) for row in rows]
    counts: dict[str, int] = defaultdict(int)
    for key in keys:
        counts[key] += 1
    sizes = [0, 0]
    side: dict[str, int] = {}
    for key in sorted(counts, key=lambda key: _draw(seed, "halve", key)):
        side[key] = int(sizes[1] < sizes[0])
        sizes[side[key]] += counts[key]
    wanted = ("first", "second").index(half)
    sides: tuple[Rows, Rows] = ([], [])
    for row, key in zip(rows, keys, strict=True):
        sides[side[key] != wanted].append(row)
    return sides


def _pair(row: Preference) -> str:
    """Return prompt and texts of a row, whatever their labels."""
    return canonical_json([row.prompt, *sorted(canonical_json(c.content) for c in row.completions)])


def first_of_each(rows: Sequence[Preference], count: int) -> tuple[Rows, Rows]:
    """Return (kept, left out): of each data source the first `count` rows, as its files have them.

    A pair that was taken apart into two rows counts once.
    """
    seen: dict[int, set[Origin]] = defaultdict(set)
    sides: tuple[Rows, Rows] = ([], [])
    for row in rows:
        known = seen[row.origin.source]
        kept = row.origin in known or len(known) < count
        if kept:
            known.add(row.origin)
        sides[not kept].append(row)
    return sides


def shuffle_labels(rows: Sequence[Preference], seed: int) -> tuple[Rows, list[str]]:
    """Return the rows with chosen and rejected swapped by a coin each, and the ids of those swapped.

    The coin depends on the row's texts and the seed, not on their order: it says nothing about which text was
    the better one, so what a model learns from these labels is not preference. Rows without a pair stay.
    """
    shuffled: Rows = []
    swapped: list[str] = []
    for row in rows:
        sides = {c.role: c for c in row.completions if c.role in ("chosen", "rejected")}
        texts = sorted(canonical_json(c.content) for c in sides.values())
        swap = _draw(seed, "labels", canonical_json([row.prompt, *texts]))[0] % 2 == 0
        first = bool(sides) and canonical_json(sides["chosen"].content) == texts[0]
        # The coin names which text is chosen, so that a row and its mirror image get the same label.
        if len(sides) < 2 or swap == first:
            shuffled.append(row)
            continue
        swapped.append(row.row_id)
        other = {"chosen": sides["rejected"], "rejected": sides["chosen"]}
        shuffled.append(
            replace(
                row,
                completions=tuple(
                    replace(other[c.role], role=c.role) if c.role in other else c for c in row.completions
                ),
            )
        )
    return shuffled, swapped


def mix(sources: Sequence[int], weights: Sequence[float], seed: int, epoch: int = 0) -> list[int]:
    """Return the rows of one epoch, as indices: source n's rows `weights[n]` times.

    `sources` says which source each row came from. Weight 1 is every row once, 2 every row twice, 0.25 a
    quarter of the rows, another quarter each epoch until all were seen. Rows stay in order within a source;
    shuffling is the sampler's work. A pure function of its arguments, so a resumed run needs no state but the
    epoch, and every epoch has as many rows.

    Raises:
        UsageError: a weight is negative or not finite, all are zero, or there are not as many as sources.

    """
    weights = list(weights)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise UsageError(f"mix weights are {weights}; each must be finite and >= 0, one of them positive")
    if max(sources, default=0) >= len(weights):
        raise UsageError(f"mix weights: {len(weights)} given for {max(sources) + 1} sources; give one each")
    mixed: list[int] = []
    for number, weight in enumerate(weights):
        rows = [row for row, source in enumerate(sources) if source == number]
        mixed += _times(rows, weight, seed, epoch, number)
    return mixed


def _times(rows: Sequence[int], weight: float, seed: int, epoch: int, number: int) -> list[int]:
    whole = math.floor(weight)
    part = round((weight - whole) * len(rows))
    # One fixed random order per source; each epoch takes the next window of it, so rows are used evenly.
    order = sorted(range(len(rows)), key=lambda i: _draw(seed, f"mix {number}", str(i)))
    start = epoch * part
    extra = sorted(order[(start + i) % len(rows)] for i in range(part))
    return [*rows] * whole + [rows[i] for i in extra]


def _prompts(rows: Sequence[Preference]) -> dict[str, int]:
    """Count the rows of every prompt."""
    groups: dict[str, int] = defaultdict(int)
    for row in rows:
        groups[prompt_text(row.prompt)] += 1
    return groups


def _draw(seed: int, purpose: str, text: str) -> bytes:
    """Return a reproducible random key: the same on every machine and Python."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{text}".encode("utf-8", "surrogatepass")).digest()
