"""`findings.json`: what a study found, as data before it is a page. No torch. docs/findings.md explains it.

Scores are the judge's, higher is better; gains are against the start model on the same prompts; KL is
KL(policy || start) in nats per sequence. A number that could not be computed is null.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tether.records.results import Record, read_document

SCHEMA = 1
"""Version of `findings.json`; raised when a field changes its meaning."""
FINDINGS = "findings.json"

Verdict = Literal["supported", "not distinguishable", "contradicted", "needs a judge", "not asked"]
Question = Literal["how tight", "reference needed", "which reference"]


class Estimate(Record):
    """A number with its interval: `n` prompts were resampled, `level` is the interval's coverage."""

    estimate: float
    low: float | None = None
    high: float | None = None
    se: float | None = None
    n: int
    level: float


class Setting(Record):
    """What a user chooses; cells that differ only in their seed share it."""

    name: str
    """Short: only what varies in this study."""
    arm: str
    """Objective and reference in words: the curve over beta it belongs to."""
    loss_type: str
    beta: float | None = None
    reference: str
    learning_rate: float
    data_fraction: float = 1.0
    labels: str = "given"


class SettingFinding(Record):
    """One setting: its cells, means over seeds, and how it stands among the others."""

    setting: Setting
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    missing: tuple[str, ...] = ()
    """Cells of this setting that are not measured, with their state and error."""
    score: float | None = None
    score_se: float | None = None
    gain: Estimate | None = None
    """Over the start model; the intervals of all settings of a question hold together."""
    p_value: float | None = None
    """At which it would leave the set of settings not distinguishable from the best."""
    in_set: bool = False
    kl: float | None = None
    kl_se: float | None = None
    kl_per_token: float | None = None
    degenerate: tuple[str, ...] = ()
    """Every rule that raised the flag, with the seed it was raised in."""
    numbers: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    """Means over seeds of what was measured: loss, accuracies, log-ratios, entropy, tokens, end_rate..."""
    scores: dict[str, float] = Field(default_factory=dict[str, float])
    """Mean per evaluator, the judge's among them."""


class Answer(Record):
    """The answer to one of the three questions."""

    question: Question
    claim: str
    """What the verdict is about."""
    verdict: Verdict
    sentence: str
    notes: tuple[str, ...] = ()
    n: int
    seeds: int
    interval: Estimate | None = None


class Tight(Record):
    """How tight, for one arm: the set, the rule's choice, and what the dial would cost."""

    arm: str
    answer: Answer
    recommended: str | None = None
    """Name of a setting."""
    best_looking: str | None = None
    set: tuple[str, ...] = ()
    """Names not distinguishable from the best; `start` is the start model."""
    p_values: dict[str, float] = Field(default_factory=dict[str, float])
    gains: dict[str, Estimate] = Field(default_factory=dict[str, Estimate])
    """Over the start model; the intervals hold together."""
    prompts_needed: int | None = None
    """Were the best-looking gain the true one, prompts to tell it from 0 with power 80 %."""
    smallest_visible: float | None = None
    """Gain that this many prompts and seeds tell from 0 with power 80 %."""
    dial: "DialCost | None" = None
    regret: "Regret | None" = None


class DialCost(Record):
    """The dialled model at the KL of the recommended setting, beside that setting."""

    source: str
    """Cell whose model was dialled."""
    dial: float
    """Interpolated between measured values."""
    kl: float
    score: float
    difference: Estimate
    """Dialled model less retrained one, on the same prompts."""


class Regret(Record):
    """What a choice cost in gold reward, which no rule saw."""

    evaluator: str
    chosen: float
    best: float
    best_setting: str
    start: float
    regret: float
    share: float | None = None
    """Of the best gain; null where nothing gained."""


class EqualKl(Record):
    """Two arms at the same KL, interpolated along each curve where both were measured on either side."""

    kl: float
    first: float
    second: float
    difference: Estimate


class Comparison(Record):
    """One arm beside another, each at its own best strength and at equal KL."""

    first: str
    second: str
    verdict: Verdict
    first_setting: str
    second_setting: str
    difference: Estimate
    """Best of the first less best of the second; allows for both choices."""
    equal_kl: tuple[EqualKl, ...] = ()
    numbers: dict[str, tuple[float | None, float | None]] = Field(
        default_factory=dict[str, tuple[float | None, float | None]]
    )
    """At each one's best: KL, tokens, entropy..."""


class ShuffleControl(Record):
    """The same setting trained on shuffled labels: what it gained without any preference to learn."""

    setting: str
    gain: float
    shuffled_gain: float
    share: float | None = None
    difference: Estimate
    """Gain on given labels less gain on shuffled ones."""
    shuffled: Estimate
    """The latter over the start model; all these intervals hold together."""


class ReferenceDistance(Record):
    """How far a reference is from the start model on held-out texts."""

    reference: str
    kind: Literal["KL", "text log-ratio"]
    per_token: float
    """Mean absolute log-ratio, nats per token."""


class Point(Record):
    """One model on the frontier; seeds apart. `setting` is empty for the start model and the dial."""

    arm: str
    setting: str
    cell: str
    kl: float
    kl_se: float | None = None
    score: float
    score_se: float | None = None
    dial: float | None = None
    degenerate: bool = False


class Law(Record):
    """R(d) = d (alpha - beta_hat log d), d = sqrt(KL), fitted to the gains of one arm; 95 % intervals."""

    arm: str
    alpha: float
    beta_hat: float
    alpha_interval: tuple[float, float]
    beta_hat_interval: tuple[float, float]
    peak_kl: float | None = None
    residual_sd: float
    n: int
    covariance: tuple[tuple[float, float], tuple[float, float]]
    freedom: float
    """Degrees of freedom of the intervals: scatter about the law and prompts together."""


class OptimumPoint(Record):
    """Exact optimum of E[r] - beta KL in an enumerable world, reference: the start model."""

    beta: float
    kl: float
    reward: float


class TypeFall(Record):
    """A vocabulary type and its mean log-ratio to the start model over held-out completions, nats."""

    token: str
    token_id: int
    count: int
    """Times it stands in those completions; several seeds read the same ones."""
    mean: float


class TokenFinding(Record):
    """What happened to single tokens under one setting (RefDPO, figures 1 to 3), all seeds together."""

    setting: str
    tokens: int
    types: int
    histogram: tuple[tuple[float, float], ...]
    """(bin's lower edge, share of types) of per-type means; types of any count."""
    falls: tuple[TypeFall, ...]
    """Types of count >= 100 that fell most."""
    followed: tuple[TypeFall, ...]
    """The types that fell most at the loosest strength of the same arm, here."""
    end: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    """End token: mean log-ratio on chosen and rejected completions, count."""
    roles: dict[str, float] = Field(default_factory=dict[str, float])
    """Mean log-ratio per token by role."""
    positions: dict[str, tuple[tuple[int, float], ...]] = Field(
        default_factory=dict[str, tuple[tuple[int, float], ...]]
    )
    """By role: (first position of the bin, mean)."""
    large_share: float


class ScorerChoice(Record):
    """What cross-fitting would have chosen with a scorer of another beta."""

    beta: float
    choice: str | None = None
    regret: Regret | None = None


class RuleFinding(Record):
    """What one way of choosing beta would have chosen here, and what that would have cost."""

    rule: str
    needs: str
    """What it has to be given: a judge, models trained on halves, nothing."""
    choice: str | None = None
    reason: str
    regret: Regret | None = None
    proven: bool = False
    runs: float = 0.0
    """Training runs it takes beyond the study's cells, each on all pairs."""
    seconds: float | None = None
    """Processor seconds they took, sampling and scoring included; null where it takes none."""
    sensitivity: tuple[ScorerChoice, ...] = ()
    """Cross-fitting: the choice by every scorer; the first is the rule's."""


class Curve(Record):
    """A learning curve of one cell: (update, value)."""

    cell: str
    setting: str
    metric: str
    points: tuple[tuple[float, float], ...]


class Findings(Record):
    """`findings.json`."""

    schema_version: int = SCHEMA
    kind: Literal["findings"] = "findings"
    study_id: str
    tether_version: str
    judge: str | None
    """Evaluator the rules see; null: none was declared."""
    gold: str | None = None
    """Evaluator that is the world's truth: printed beside, seen by no rule unless it is the judge."""
    recommended: Setting | None = None
    """Of the main arm; null where the data recommend none."""
    best_looking: Setting | None = None
    set: tuple[str, ...] = ()
    kl: float | None = None
    """KL of the recommended setting; `kl_se` over prompts and seeds."""
    kl_se: float | None = None
    interval: Estimate | None = None
    """Gain of the recommended setting, else of the best-looking one, over the start model."""
    degenerate: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    """Setting -> rules that raised the flag."""
    n: int
    """Prompts every compared model answered."""
    seeds: int
    """Seeds every compared setting has."""
    alpha: float = 0.05
    """Chance that a study of identical cells says `supported` anywhere, split over its questions."""
    status: str
    notices: tuple[str, ...] = ()
    """What a reader must know first: failed cells, prompts left out, a study still running."""
    answers: tuple[Answer, ...] = ()
    start: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    settings: tuple[SettingFinding, ...] = ()
    tight: tuple[Tight, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    """Do you need a reference: the first arm beside each other one."""
    references: tuple[Comparison, ...] = ()
    """Which reference: each beside the start model as reference."""
    distances: tuple[ReferenceDistance, ...] = ()
    shuffled: tuple[ShuffleControl, ...] = ()
    frontier: tuple[Point, ...] = ()
    laws: tuple[Law, ...] = ()
    optimum: tuple[OptimumPoint, ...] = ()
    rules: tuple[RuleFinding, ...] = ()
    tokens: tuple[TokenFinding, ...] = ()
    curves: tuple[Curve, ...] = ()
    identity: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Models, data, references, versions, hardware, and what was shared, as the study recorded them."""


def read_findings(folder: Path) -> Findings:
    """Read `findings.json` of a study folder.

    Raises:
        RunFolderError: there is none, or another version of tether wrote it.

    """
    path = folder / FINDINGS
    return read_document(Findings, path, f"{path}: not there; write it with: tether study report {folder}")
