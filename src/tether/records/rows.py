"""Rows as every stage sees them: a prompt with its completions, and where they came from. No torch.

A row is a `Preference`: one prompt and n >= 1 completions, each with a role.

    roles of a row            used for
    chosen, rejected          a preference pair
    completion                supervised fine-tuning (n = 1)
    desirable | undesirable   unpaired feedback (n = 1)
    rank-0 ... rank-(K-1)     a ranked list, best first
    kl                        a mismatched completion added beside an unpaired one (KTO)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""One chat message as Hugging Face templates take it: `role`, `content`, and what else the template reads."""

Content = str | tuple[Message, ...]
"""Plain text (no template is applied) or a chat (the tokenizer's template renders it)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row was read: file name, 0-based row number, 1-based line where the format has lines."""

    path: str
    row: int
    line: int | None = None
    source: int = 0
    """Which of the data sources a run names it came from, in their order."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line is not None else f"{self.path} row {self.row}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: its role in the row, its text or messages, and what the file said about it."""

    role: str
    content: Content
    score: float | None = None
    reference_logprob: float | None = None
    """Summed log-prob a data column gives for this completion (nats): RefDPO's and TRL's columns."""
    cut: bool = False
    """Truncation removed the end of this completion: it has no end token, for any model."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and its completions; the unit of every file tether reads."""

    origin: Origin
    prompt: Content
    completions: tuple[Completion, ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weight: float = 1.0
    margin: float = 0.0
    probability: float = 1.0
    """Probability that the first completion is the preferred one (soft labels; 1 = certain)."""

    @property
    def row_id(self) -> str:
        """Name of the row in messages and result files: `file:line`, or `file row n`."""
        return str(self.origin)

    def role(self, name: str) -> Completion | None:
        """Return the completion with this role, or None."""
        return next((c for c in self.completions if c.role == name), None)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8 characters kept."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def text_key(
    prompt: Content,
    completion: Content,
    tools: Sequence[Mapping[str, Any]] = (),
    template_arguments: Mapping[str, Any] | None = None,
    *,
    cut: bool = False,
    all_turns: bool = False,
) -> str:
    """Return the key of one scored text: a hash of what was said, before any template or tokenizer.

    Two models with different tokenizers give the same text the same key, which is what lets one score for
    the other. `cut` marks a completion whose end was truncated: it has no end token on either side.
    """
    document = canonical_json(
        {
            "prompt": prompt,
            "completion": completion,
            "tools": list(tools),
            "template_arguments": dict(template_arguments or {}),
            "cut": cut,
            **({"turns": "all"} if all_turns else {}),
        }
    )
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:32]
