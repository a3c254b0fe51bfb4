"""The preflight that needs a tokenizer: lengths, what truncation would cut, and text that tokens get wrong.

Only the tokenizer is loaded, never weights.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from tether.errors import DataError
from tether.records.results import Finding, Record
from tether.records.rows import Preference
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import EncodedGroup, Renderer
from tether.tokens.truncate import Mode, truncate_known
from tether.tokens.turns import ScoreTurns

NOTES: dict[str, tuple[str, str]] = {
    "special_in_content": (
        "warning",
        "the text spells control tokens of this tokenizer; they are encoded as ordinary characters. "
        "Give chats as messages if they were meant as turns",
    ),
    "double_bos": (
        "note",
        "text or template would have given two beginning-of-text tokens; exactly one is kept",
    ),
    "template_rewrites": (
        "warning",
        "the chat template renders the conversation differently once the answer is there; the answer is "
        "taken from its own text",
    ),
    "joint_differs": (
        "note",
        "a token would span the seam of prompt and completion; the completion is tokenised apart, so that "
        "the prompt's tokens are those at inference",
    ),
    "no_end_token": (
        "warning",
        "the template (or tokenizer) ends completions with no end token: the model never learns to stop here",
    ),
    "end_not_stop": (
        "warning",
        "completions end with a token that does not stop this model's generation; add it to eos_token_id in "
        "generation_config.json or use the matching template",
    ),
    "text_after_end": (
        "warning",
        "a completion goes on after its first end token; what follows is not scored. Make later turns rows "
        "of their own",
    ),
    "several_turns": (
        "note",
        "an answer has several assistant turns; only the last is scored (--score-turns all scores them all)",
    ),
    "unknown_characters": ("warning", "the tokenizer cannot spell a completion and puts its unknown token"),
    "no_tokens": ("warning", "a completion has no tokens at all"),
}
"""Every note a row can carry (`EncodedGroup.notes`): how serious it is, and what it means."""

CUT_FINDINGS: dict[str, tuple[str, str]] = {
    "completion_cut": ("warning", "cut at the end to fit max_length {limit}; they have no end token"),
    "prompt_cut": ("warning", "prompt cut at its start to fit max_length {limit}"),
    "prompt_too_long": ("dropped", "the prompt leaves no room for a completion within max_length {limit}"),
    "dropped_too_long": ("dropped", "longer than max_length {limit}"),
    "equal_after_cut": ("dropped", "two completions are the same once cut to max_length {limit}"),
}


class TokenLengths(Record):
    """Lengths in tokens, end tokens included."""

    mean: float
    median: float
    p90: float
    max: int


class TokenReport(Record):
    """What a tokenizer makes of the rows."""

    tokenizer: str
    rows: int
    """Rows that could be encoded."""
    prompt_tokens: TokenLengths | None
    """Over rows, before truncation; None without rows."""
    completion_tokens: TokenLengths | None
    """Over completions, before truncation."""
    max_id: int
    """Largest token id in the rows; the model's embedding must be larger."""
    stop_tokens: tuple[str, ...]
    """Tokens that end a text when the model generates."""
    max_length: int | None
    truncation_mode: Mode
    findings: tuple[Finding, ...]


def inspect_tokens(
    rows: Sequence[Preference],
    tokenizer_path: str,
    *,
    max_length: int | None,
    truncation_mode: Mode,
    score_turns: ScoreTurns = "last",
) -> TokenReport:
    """Load the tokenizer of a model (never its weights) and report on the rows.

    Raises:
        ModelError: the tokenizer cannot be loaded safely, or the rows are chats and it has no template.

    """
    tokenizer = load_tokenizer(tokenizer_path)
    stops = stop_ids(tokenizer, tokenizer_path)
    return inspect_with(
        rows,
        Renderer(tokenizer, stops, score_turns=score_turns),
        max_length=max_length,
        truncation_mode=truncation_mode,
        name=tokenizer_path,
    )


def inspect_with(
    rows: Sequence[Preference],
    renderer: Renderer,
    *,
    max_length: int | None,
    truncation_mode: Mode,
    name: str = "",
) -> TokenReport:
    """Report on the rows with a tokenizer that is already loaded; rows it refuses become a finding."""
    refused: list[tuple[str, str]] = []
    encoded = list(renderer.encode_each(rows, lambda row, error: refused.append((row.row_id, str(error)))))
    groups = [group for _, group in encoded]
    findings = _refused(refused)
    findings += _noted(groups)
    findings += _cut(encoded, renderer, max_length, truncation_mode)
    findings += _template(renderer, [row for row in rows if not isinstance(row.prompt, str)])
    stops = renderer.tokenizer.convert_ids_to_tokens(sorted(renderer.stop_ids))
    return TokenReport(
        tokenizer=name or str(renderer.tokenizer.name_or_path),
        rows=len(groups),
        prompt_tokens=_lengths(len(group.prompt_ids) for group in groups),
        completion_tokens=_lengths(len(c.ids) for group in groups for c in group.completions),
        max_id=max((group.max_id for group in groups), default=0),
        stop_tokens=tuple(stops),
        max_length=max_length,
        truncation_mode=truncation_mode,
        findings=tuple(findings),
    )


def _lengths(values: Iterable[int]) -> TokenLengths | None:
    numbers = np.array(list(values), dtype=np.int64)
    if not numbers.size:
        return None
    return TokenLengths(
        mean=float(numbers.mean()),
        median=float(np.median(numbers)),
        p90=float(np.percentile(numbers, 90)),
        max=int(numbers.max()),
    )


def _refused(refused: list[tuple[str, str]]) -> list[Finding]:
    if not refused:
        return []
    text = f"the tokenizer or its template refuses them; the first: {refused[0][1]}"
    return [_finding("cannot_be_encoded", "dropped", [row_id for row_id, _ in refused], text)]


def _noted(groups: Sequence[EncodedGroup]) -> list[Finding]:
    rows: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        for note in group.notes:
            rows[note].append(group.row_id)
    return [
        _finding(kind, severity, rows[kind], text) for kind, (severity, text) in NOTES.items() if kind in rows
    ]


def _cut(
    encoded: Sequence[tuple[Preference, EncodedGroup]],
    renderer: Renderer,
    max_length: int | None,
    mode: Mode,
) -> list[Finding]:
    if max_length is None:
        return []
    found: dict[str, list[str]] = defaultdict(list)
    for row, result in truncate_known(encoded, renderer, _ignore, max_length=max_length, mode=mode):
        for kind in result.cut:
            found[kind].append(row.row_id)
    return [
        _finding(kind, severity, found[kind], text.format(limit=max_length))
        for kind, (severity, text) in CUT_FINDINGS.items()
        if kind in found
    ]


def _ignore(row: Preference, error: DataError) -> None:
    """Rows that cannot be encoded were told of before."""


def _template(renderer: Renderer, chats: Sequence[Preference]) -> list[Finding]:
    if not chats or not renderer.template.uses_clock:
        return []
    text = "the chat template writes today's date: the same row has other tokens on another day"
    return [_finding("template_uses_clock", "warning", [row.row_id for row in chats], text)]


def _finding(kind: str, severity: str, rows: Sequence[str], text: str) -> Finding:
    return Finding.model_validate(
        {"kind": kind, "severity": severity, "count": len(rows), "rows": tuple(rows), "text": text}
    )
