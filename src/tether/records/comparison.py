"""What judges said about models and what follows from it: verdicts, rates, differences, one document."""

from typing import Literal

from pydantic import Field

from tether.records.results import Record
from tether.records.rows import Message

Kind = Literal["alpacaeval-2", "own-prompts"]
Rate = Literal["win_rate", "lc_win_rate"]


class Verdict(Record):
    """One pair of answers and what a judge says; shares are A's, 1 where A is better for certain."""

    id: str
    """The prompt: the unit of resampling."""
    prompt: str | tuple[Message, ...]
    model_a: str
    model_b: str
    answer_a: str
    answer_b: str
    judge: str
    """The judge's identity."""
    a_first: float | None
    """A's share when A was shown first; None where there is no verdict."""
    b_first: float | None
    """A's share when B was shown first."""
    errors: tuple[str, ...] = ()
    orders: Literal[1, 2] = 2
    """Orders shown: a person sees one."""

    @property
    def share(self) -> float | None:
        """A's share over the orders shown; None unless every one of them was judged."""
        if self.orders == 1:
            return self.a_first if self.a_first is not None else self.b_first
        return None if self.a_first is None or self.b_first is None else (self.a_first + self.b_first) / 2

    @property
    def inconsistent(self) -> bool:
        """The two orders name different winners."""
        if self.a_first is None or self.b_first is None:
            return False
        return (self.a_first - 0.5) * (self.b_first - 0.5) < 0

    @property
    def is_vote(self) -> bool:
        """One person's choice: one order, and a winner or none."""
        return self.orders == 1 and self.share in (0.0, 0.5, 1.0)

    def turned(self) -> "Verdict":
        """Return the same verdict with A and B exchanged."""
        changes = {
            "model_a": self.model_b,
            "model_b": self.model_a,
            "answer_a": self.answer_b,
            "answer_b": self.answer_a,
            "a_first": None if self.b_first is None else 1 - self.b_first,
            "b_first": None if self.a_first is None else 1 - self.a_first,
        }
        return self.model_copy(update=changes)


class Estimate(Record):
    """A number with its 95 % interval over prompts; bounds are None where none could be computed."""

    value: float
    low: float | None
    high: float | None
    se: float | None


class Comparison(Record):
    """Two models on the same prompts; rates in percent, A's share of the wins."""

    a: str
    b: str
    judge: str
    win_rate: Estimate
    lc_win_rate: Estimate | None
    """Had the lengths been equal: "own-prompts", never comparable with a published LC rate."""
    lc_note: str = ""
    distinguishable: bool
    """The win rate's interval excludes 50 %."""
    order_bias: Estimate
    """Share won by the answer shown first, minus 50, in points."""
    inconsistent: float
    """Percent of pairs whose winner changes with the order."""
    mean_chars_a: float
    mean_chars_b: float
    prompts: int
    pairs: int
    """Pairs judged in all orders shown."""
    failed: int
    """Pairs without a verdict in at least one order: in no rate."""
    prompts_needed: int | None
    """To tell this difference from 50 % with 80 % power, were it the true one."""
    test: Literal["betting", "votes"]
    """The test that may be looked at at any time: for verdicts in [0, 1], or for people's votes."""
    e_value: float
    """Largest e-value against equality over the verdicts in their order; 1 / e is valid at any look."""
    sequence: tuple[float, float]
    """Its 95 % confidence sequence, percent: valid at any look."""
    ties: int
    """Verdicts of exactly one half; the test of votes leaves them out."""


class PairedDifference(Record):
    """Difference in win rate between two models over the same prompts and the same opponent, in points."""

    a: str
    b: str
    against: str = ""
    """The opponent of both; empty for a file of annotations, which has one baseline."""
    judge: str = ""
    kind: Rate
    difference: float
    interval: tuple[float, float]
    se: float
    correlation: float
    """Of the two models' resampled rates (win rate: of their verdicts), measured, never assumed."""
    distinguishable: bool
    n: int
    prompts_needed: int | None = None


class Rating(Record):
    """A model's Bradley-Terry strength in logits, ties counted as half a win, over all models' mean."""

    model: str
    rating: Estimate


class Agreement(Record):
    """Two judges (people are one) on the same pairs of answers."""

    first: str
    second: str
    pairs: int
    same: float
    """Percent of pairs with the same winner (or both without one)."""
    alpha: float
    """Krippendorff's alpha, nominal: 1 is perfect agreement, 0 what chance gives."""


class Stream(Record):
    """A comparison that stopped asking when the answer was known; rates in percent, A's share."""

    a: str
    b: str
    judge: str
    win_rate: float
    interval: tuple[float, float]
    """95 % confidence sequence: it holds at whatever look the asking stopped."""
    decided: bool
    e_value: float
    asked: int
    """Prompts judged in both orders."""
    failed: int
    prompts: int
    """Prompts there were."""


class ModelWinRate(Record):
    """One model against the baseline; rates and lengths of intervals in percent."""

    model: str
    win_rate: float | None
    """None without a verdict; its interval is None with fewer than two."""
    win_rate_interval: tuple[float, float] | None
    win_rate_se: float | None
    lc_win_rate: float | None
    """None where length control is not possible: `lc_note` says why."""
    lc_win_rate_interval: tuple[float, float] | None
    lc_win_rate_se: float | None
    lc_kind: Kind
    lc_note: str = ""
    n: int
    """Prompts with a verdict."""
    missing: int
    """Prompts of the file without a verdict for this model."""
    mean_chars: float
    apart: bool = False
    """Made to game the judge: not to be ranked beside the others."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Terms of the length model: length, difficulty (where there is a table), model."""


class Requirement(Record):
    """A gate such as "A > B": whether it was shown, and the sentence that says so."""

    text: str
    shown: bool
    why: str


class ComparisonRecord(Record):
    """What `tether compare` found: `comparison.json`, and the document it prints."""

    kind: Literal["verdicts", "stream", "annotations"]
    models: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    """One per pair of models and judge."""
    rates: tuple[ModelWinRate, ...] = ()
    """Of annotations: one per model, against the file's baseline."""
    differences: tuple[PairedDifference, ...] = ()
    ratings: tuple[Rating, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    stream: Stream | None = None
    errors: dict[str, int] = Field(default_factory=dict)
    """Questions without a verdict, by reason."""
    requirement: Requirement | None = None
    sources: tuple[str, ...] = ()
    """Files and folders compared."""
    files: dict[str, str] = Field(default_factory=dict)
    """What was written: verdicts, page, answers by model."""
