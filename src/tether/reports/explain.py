"""Why the rewards moved as they did, and what beta did, told with one run's own numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tether.reports.contents import Line, RunContents
from tether.reports.tables import Table, brief, number, percent, with_error

LOGISTIC = frozenset({"sigmoid", "cdpo", "robust"})
"""Objectives whose pull on a pair is sigma(-margin), up to label smoothing."""
SHARE_OF_LOG = 10
"""Without held-out rows the end of training is the mean of the last tenth of the log."""


@dataclass(frozen=True)
class Movement:
    """How far rewards moved between the start and the end of training, means over pairs.

    Rewards are beta x log-ratio sums; `*_nats` the log-ratio sums themselves; `*_per_token` log-ratio per
    token, all as changes since the start.
    """

    held_out: bool
    chosen: float
    rejected: float
    margin: float
    """Margin at the end (not its change)."""
    beta: float | None
    chosen_per_token: float | None
    rejected_per_token: float | None

    @property
    def gained(self) -> float:
        """Change of the margin: what rose by chosen minus what rose by rejected."""
        return self.chosen - self.rejected

    @property
    def both_fell(self) -> bool:
        """Whether chosen and rejected answers both became less likely against the reference."""
        return self.chosen < 0 and self.rejected < 0

    @property
    def by_length(self) -> bool:
        """Whether the margin grew although, per token, the chosen answers fell as much or more."""
        if self.chosen_per_token is None or self.rejected_per_token is None:
            return False
        return self.gained > 0 and self.chosen_per_token <= self.rejected_per_token


def movement_of(contents: RunContents) -> Movement | None:
    """Return how the rewards moved: on held-out rows where they were evaluated, else on training rows."""
    for lines, prefix in ((contents.evals, "eval_"), (contents.train, "")):
        chosen = _change(lines, f"{prefix}rewards/chosen")
        rejected = _change(lines, f"{prefix}rewards/rejected")
        if chosen is None or rejected is None:
            continue
        ends = _ends(lines, f"{prefix}rewards/chosen"), _ends(lines, f"{prefix}rewards/rejected")
        margin = ends[0][1] - ends[1][1] if ends[0] and ends[1] else chosen - rejected
        return Movement(
            held_out=bool(prefix),
            chosen=chosen,
            rejected=rejected,
            margin=margin,
            beta=beta_of(contents),
            chosen_per_token=_change(lines, f"{prefix}logratio_per_token/chosen"),
            rejected_per_token=_change(lines, f"{prefix}logratio_per_token/rejected"),
        )
    return None


def beta_of(contents: RunContents) -> float | None:
    """Return the run's beta, None where the objective has none."""
    value = contents.record.objective.get("beta")
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
        ("chosen answers", moved.chosen, moved.chosen, moved.chosen_per_token),
        ("rejected answers", moved.rejected, -moved.rejected, moved.rejected_per_token),
        ("margin", moved.gained, moved.gained, None),
    )
    for name, change, gives, each_token in sides:
        cells = [name, number(change, 3, signed=True), _gives(gives, moved.gained)]
        if moved.beta:
            cells.append(number(change / moved.beta, 2, signed=True))
        if per_token:
            if name == "margin":
                each_token = (moved.chosen_per_token or 0.0) - (moved.rejected_per_token or 0.0)
            cells.append(number(each_token, 3, signed=True))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), frozenset(range(1, len(columns))))


def movement_text(moved: Movement, kl_measured: bool) -> list[str]:
    """Return paragraphs on how chosen and rejected rewards moved, the length-normalised view included."""
    paragraphs = [_what_moved(moved)]
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
        if contents.record.objective.get("name") in LOGISTIC:
            paragraphs.append(_pull(moved))
    end = contents.end
    if end is not None and end.kl_start is not None and end.tokens > 0:
        paragraphs.append(
            f"The model spent {with_error(end.kl_start, end.kl_start_se)} nats of KL per answer, "
            f"{brief(end.kl_start / end.tokens)} per token over answers of {number(end.tokens, 1)} tokens."
        )
    paragraphs.append("Whether another β would have been better cannot be seen from one run.")
    return paragraphs


def _ends(lines: Sequence[Line], name: str) -> tuple[float, float] | None:
    values = [float(line[name]) for line in lines if name in line]
    if len(values) < 2:
        return None
    tail = 1 if name.startswith("eval_") else max(1, len(values) // SHARE_OF_LOG)
    return values[0], fmean(values[-tail:])


def _change(lines: Sequence[Line], name: str) -> float | None:
    ends = _ends(lines, name)
    return None if ends is None else ends[1] - ends[0]


def _gives(amount: float, total: float) -> str:
    share = f" ({percent(amount / total)})" if total > 0 else ""
    return number(amount, 3, signed=True) + share


def _moved(amount: float) -> str:
    return f"{'rose' if amount > 0 else 'fell'} by {brief(abs(amount))}"


def _what_moved(moved: Movement) -> str:
    rows = "held-out pairs" if moved.held_out else "training pairs (mean of the last tenth of the log)"
    if moved.both_fell:
        start = (
            f"Both rewards fell on {rows}: the chosen answers' by {brief(-moved.chosen)}, the rejected "
            f"answers' by {brief(-moved.rejected)}. That is common and no fault by itself: the loss sees "
            "only their difference"
        )
        if moved.gained <= 0:
            return f"{start}, but that did not grow either ({brief(moved.gained, signed=True)})."
        return (
            f"{start}, which grew by {brief(moved.gained)}. The fall of the rejected answers gives "
            f"{percent(-moved.rejected / moved.gained)} of that margin, the fall of the chosen answers takes "
            f"{percent(-moved.chosen / moved.gained)} back."
        )
    return (
        f"On {rows} the reward of chosen answers {_moved(moved.chosen)} and that of rejected answers "
        f"{_moved(moved.rejected)}, so the margin {_moved(moved.gained)}."
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
    if moved.gained > 0:
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
