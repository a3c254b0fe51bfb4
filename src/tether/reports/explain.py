"""Why the rewards moved as they did, and what beta did, told with one run's own numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tether.analysis.stats import Z95
from tether.reports.contents import Line, RunContents
from tether.reports.tables import Table, brief, decimals_for, number, percent, with_error

LOGISTIC = "sigmoid"
"""The objective whose pull on a pair is sigma(-reward margin), where its options are at rest."""
WITHOUT_BETA = frozenset({"sft", "unlikelihood"})
SHARE_OF_LOG = 10
"""Without held-out rows the end of training is the mean of the last tenth of the log."""


@dataclass(frozen=True)
class Change:
    """How far a mean moved since the start, and the standard error of that where it is known."""

    amount: float
    se: float | None = None

    @property
    def direction(self) -> int:
        """1 or -1 where the 95 % interval excludes 0 (or no error is known), else 0."""
        if self.amount == 0 or (self.se is not None and abs(self.amount) < Z95 * self.se):
            return 0
        return 1 if self.amount > 0 else -1


@dataclass(frozen=True)
class Movement:
    """How far rewards moved between the start and the end of training, means over pairs.

    Rewards are beta x log-ratio sums; `*_per_token` are changes of the log-ratio per token.
    """

    held_out: bool
    chosen: Change
    rejected: Change
    gained: Change
    """Change of the margin: of chosen minus of rejected."""
    margin: float
    """The margin at the end, not its change."""
    beta: float | None
    chosen_per_token: float | None = None
    rejected_per_token: float | None = None

    @property
    def both_fell(self) -> bool:
        """Whether chosen and rejected answers both became less likely, beyond their error."""
        return self.chosen.direction < 0 and self.rejected.direction < 0

    @property
    def by_length(self) -> bool:
        """Whether the margin grew although, per token, the chosen answers fell as much or more."""
        if self.chosen_per_token is None or self.rejected_per_token is None:
            return False
        return self.gained.direction > 0 and self.chosen_per_token <= self.rejected_per_token


def movement_of(contents: RunContents) -> Movement | None:
    """Return how the rewards moved: on held-out rows where they were evaluated, else on training rows."""
    for lines, prefix in ((contents.evals, "eval_"), (contents.train, "")):
        chosen = _change(lines, f"{prefix}rewards/chosen")
        rejected = _change(lines, f"{prefix}rewards/rejected")
        ends = [_ends(lines, f"{prefix}rewards/{side}") for side in ("chosen", "rejected")]
        if chosen is None or rejected is None or ends[0] is None or ends[1] is None:
            continue
        of_margin = _change(lines, f"{prefix}rewards/margins")
        each_token = [_change(lines, f"{prefix}logratios/{side}") for side in ("chosen", "rejected")]
        return Movement(
            held_out=bool(prefix),
            chosen=chosen,
            rejected=rejected,
            gained=Change(chosen.amount - rejected.amount, of_margin.se if of_margin else None),
            margin=ends[0][1] - ends[1][1],
            beta=beta_of(contents),
            chosen_per_token=each_token[0].amount if each_token[0] else None,
            rejected_per_token=each_token[1].amount if each_token[1] else None,
        )
    return None


def beta_of(contents: RunContents) -> float | None:
    """Return the run's beta, None where the objective has none."""
    objective = contents.record.objective
    value = objective.get("beta")
    if set(str(objective.get("name")).split(" + ")) <= WITHOUT_BETA:
        return None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def movement_table(moved: Movement) -> Table:
    """Return the decomposition: what each side gives to the margin, as reward, nats and nats per token."""
    columns = ["", "change of reward", "gives to the margin"]
    if moved.beta:
        columns.append("log-ratio, nats per answer")
    per_token = moved.chosen_per_token is not None and moved.rejected_per_token is not None
    if per_token:
        columns.append("nats per token")
    rows: list[tuple[str, ...]] = []
    sides = (
        ("chosen answers", moved.chosen, moved.chosen.amount, moved.chosen_per_token or 0.0),
        ("rejected answers", moved.rejected, -moved.rejected.amount, moved.rejected_per_token or 0.0),
        ("margin", moved.gained, moved.gained.amount, None),
    )
    for name, change, gives, each_token in sides:
        decimals = decimals_for(change.se, fallback=3)
        share = f" ({percent(gives / moved.gained.amount)})" if moved.gained.direction > 0 else ""
        reward = with_error(change.amount, change.se, signed=True) if change.se else None
        cells = [name, reward or number(change.amount, 3, signed=True)]
        cells.append(number(gives, decimals, signed=True) + share)
        if moved.beta:
            cells.append(brief(change.amount / moved.beta, signed=True))
        if per_token and each_token is None:
            each_token = (moved.chosen_per_token or 0.0) - (moved.rejected_per_token or 0.0)
        if per_token:
            cells.append(brief(each_token, signed=True))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), frozenset(range(1, len(columns))))


def movement_text(moved: Movement, kl_measured: bool) -> list[str]:
    """Return paragraphs on how chosen and rejected rewards moved, the length-normalised view included."""
    paragraphs = [_both_fell(moved) if moved.both_fell else _each_side(moved)]
    if moved.chosen_per_token is not None and moved.rejected_per_token is not None:
        paragraphs.append(_per_token(moved, moved.chosen_per_token, moved.rejected_per_token))
    if moved.both_fell:
        where = "the samples and the KL above show" if kl_measured else "only the model's own samples show"
        paragraphs.append(
            "The probability that both lost went to answers that are in neither column of the data; where "
            f"to, {where}. (Likelihood displacement: Razin et al. 2024, arXiv 2410.08847.)"
        )
    return paragraphs


def beta_text(contents: RunContents, moved: Movement | None) -> list[str]:
    """Return paragraphs on what beta did in this run; empty where the objective has no beta."""
    beta = beta_of(contents)
    if beta is None:
        return []
    shown = number(beta)
    kind = contents.record.reference.get("kind")
    if kind == "none":
        paragraphs = [
            f"β is {shown}, and this objective has no reference: β scales the log-probabilities that the "
            "loss sees, but holds the model to nothing. A larger β is satisfied with smaller differences."
        ]
    else:
        paragraphs = [
            f"β is {shown}. It says how tightly the model is held to its reference, and larger is tighter: "
            "a reward is β times a log-ratio, so the larger β is, the less the model has to move for the "
            "same reward."
        ]
    if moved is not None and moved.margin > 0:
        quantity = "log-probability" if kind == "none" else "log-ratio"
        paragraphs.append(_margin_in_nats(moved, beta, quantity))
        if _plain_logistic(contents):
            paragraphs.append(_pull(moved))
    end = contents.end
    if end is not None and end.kl_start is not None and end.tokens > 0:
        paragraphs.append(
            f"The model spent {with_error(end.kl_start, end.kl_start_se)} nats of KL per answer, "
            f"{brief(end.kl_start / end.tokens)} per token over answers of {number(end.tokens, 1)} tokens."
        )
    paragraphs.append("Whether another β would have been better cannot be seen from one run.")
    return paragraphs


def _plain_logistic(contents: RunContents) -> bool:
    config = contents.record.config
    return (
        contents.record.objective.get("name") == LOGISTIC
        and not config.get("label_smoothing")
        and config.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    )


def _ends(lines: Sequence[Line], name: str) -> tuple[float, float] | None:
    values = [float(line[name]) for line in lines if name in line]
    if len(values) < 2:
        return None
    tail = 1 if name.startswith("eval_") else max(1, len(values) // SHARE_OF_LOG)
    return values[0], fmean(values[-tail:])


def _change(lines: Sequence[Line], name: str) -> Change | None:
    """Return the change of a metric; its error takes both ends as independent, so it is never too small."""
    ends = _ends(lines, name)
    if ends is None:
        return None
    errors = [line.get(f"{name}_se") for line in lines if name in line]
    first, last = errors[0], errors[-1]
    se = None if first is None or last is None else math.hypot(first, last)
    return Change(ends[1] - ends[0], se)


def _moved(change: Change) -> str:
    if change.direction == 0:
        return f"did not move beyond its error ({with_error(change.amount, change.se, signed=True)})"
    return f"{'rose' if change.amount > 0 else 'fell'} by {brief(abs(change.amount))}"


def _where(moved: Movement) -> str:
    return "held-out pairs" if moved.held_out else "training pairs (mean of the last tenth of the log)"


def _both_fell(moved: Movement) -> str:
    chosen, rejected, gained = moved.chosen.amount, moved.rejected.amount, moved.gained
    start = (
        f"Both rewards fell on {_where(moved)}: the chosen answers' by {brief(-chosen)}, the rejected "
        f"answers' by {brief(-rejected)}. That is common and no fault by itself: the loss sees "
        "only their difference"
    )
    if gained.direction <= 0:
        return f"{start}, but that did not grow either ({with_error(gained.amount, gained.se, signed=True)})."
    return (
        f"{start}, which grew by {brief(gained.amount)}. The fall of the rejected answers gives "
        f"{percent(-rejected / gained.amount)} of that margin, the fall of the chosen answers takes "
        f"{percent(-chosen / gained.amount)} back."
    )


def _each_side(moved: Movement) -> str:
    return (
        f"On {_where(moved)} the reward of chosen answers {_moved(moved.chosen)}, that of rejected answers "
        f"{_moved(moved.rejected)}, and the margin between them {_moved(moved.gained)}."
    )


def _per_token(moved: Movement, chosen: float, rejected: float) -> str:
    factors = (
        f"Per token, so that length does not count, a chosen answer's tokens became {_times(chosen)} as "
        f"likely and a rejected answer's {_times(rejected)} (geometric means)."
    )
    if moved.by_length:
        return (
            f"{factors} Per token the chosen answers lost at least as much: the margin comes from the "
            "answers' lengths, not from a preference between their words. Compare lengths before trusting "
            "this run."
        )
    if moved.gained.direction > 0:
        return f"{factors} The order is the same per token, so the margin is not an effect of length alone."
    return factors


def _times(logratio: float) -> str:
    return f"{brief(math.exp(min(logratio, 700.0)))} times"


def _margin_in_nats(moved: Movement, beta: float, quantity: str) -> str:
    nats = moved.margin / beta
    rows = "held-out" if moved.held_out else "training"
    return (
        f"The mean {rows} margin of {brief(moved.margin)} is {brief(nats)} nats of {quantity} between "
        f"chosen and rejected. For the same margin β = {brief(2 * beta)} would have needed "
        f"{brief(nats / 2)} nats, and β = {brief(beta / 2)} would have needed {brief(2 * nats)}."
    )


def _pull(moved: Movement) -> str:
    weight = 1 / (1 + math.exp(min(moved.margin, 700.0)))
    return (
        f"A pair pulls with weight σ(−margin): 0.5 while policy and reference agree, {number(weight, 2)} at "
        "the mean margin reached here. A larger β reaches that point after a smaller move. This is why "
        "larger means tighter, although β also multiplies the gradient and makes the first steps look larger."
    )
