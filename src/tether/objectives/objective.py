"""One row of the table of objectives: what it is, where it comes from, what it needs, how it is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tether.config.objective import ObjectiveOptions
from tether.records.tensors import LossInputs, LossOutput

Loss = Callable[[LossInputs, ObjectiveOptions], LossOutput]
Reads = Literal["pairs", "chosen", "unpaired", "list"]


@dataclass(frozen=True)
class Objective:
    """A loss with everything a user, the trainer and the documentation must know about it."""

    name: str
    title: str
    equation: str
    """Per unit, in plain text; symbols as at the head of docs/objectives.md."""
    source: str
    """Paper with arXiv id and equation where known."""
    purpose: str
    """One sentence: what it is for."""
    evidence: str
    """One sentence: when the papers found it better, or what they found instead."""
    loss: Loss
    reads: Reads
    reference: Literal["none", "sum", "live"]
    """Whether it uses the reference's log-probs (`ld_alpha`: per token), or whole distributions (live)."""
    options: tuple[str, ...]
    """Options that change its value, `beta` included where it does."""
    trl: str | None = None
    """How TRL 1.16 calls it."""
    trl_difference: str | None = None
    zero_margin: Callable[[ObjectiveOptions], float | None] | None = None
    """Value per unit when policy and reference agree (margin 0); None where it depends on the texts."""
    without_reference: str | None = None
    """Why a reference of exactly zero is refused; None where it makes sense."""
    length_rule: Literal["sum", "mean"] = "sum"
    """Whether the log-probs it compares are summed over tokens or averaged."""
    units: tuple[str, ...] = ("pairs",)
    """What the sums are divided by; `pairs` counts the rows of an update."""
    couples: bool = False
    """Rows of one update depend on each other: it must see the whole update at once."""
    mismatched: bool = False
    """Needs a completion of another row (role `kl`) beside each one."""
    tokens: bool = False
    """Reads the policy's per-token log-probs, not only their sums."""
    weighted: bool = True
    """Understands rows with a `weight` other than 1."""
    soft_labels: bool = False
    """Understands rows with a `probability` below 1."""
    offsets: bool = False
    """Understands rows with a `margin`."""
    default_beta: float | None = 0.1
    """What its paper or TRL starts from; None where beta is not read."""
    usual_beta: tuple[float, float] | None = (0.01, 1.0)
    """Range seen in papers; outside it a warning is printed."""
    advance: Callable[[LossInputs, ObjectiveOptions], dict[str, float]] | None = None
    """What it remembers after an update, of the inputs that update saw; None where nothing."""
    combines: bool = True
    """May be one addend of several."""
