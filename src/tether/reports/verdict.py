"""What was learnt, in sentences made from a run's numbers and their uncertainty."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from tether.analysis.stats import Z95, Interval, distinguishable, paired_bootstrap, required_size_for
from tether.records.rows import canonical_json
from tether.reports.contents import RunContents
from tether.reports.tables import count, decimals_for, number, percent, with_error

Word = Literal["better", "worse", "not distinguishable", "not measured"]
HEADLINES: dict[Word, str] = {
    "better": "Better than the start model",
    "worse": "Worse than the start model",
    "not distinguishable": "Not distinguishable from the start model",
    "not measured": "Whether it is better was not measured",
}


@dataclass(frozen=True)
class Gain:
    """Score before and after training on held-out prompts, and the interval of the difference."""

    name: str
    before: float
    after: float
    interval: Interval
    paired: bool
    """Whether the interval comes from the same prompts before and after (paired bootstrap)."""

    @property
    def known(self) -> bool:
        """Whether there were enough prompts for an interval."""
        return math.isfinite(self.interval.low) and math.isfinite(self.interval.high)

    @property
    def decimals(self) -> int:
        """Decimals the gain deserves."""
        return decimals_for(self.interval.se)


@dataclass(frozen=True)
class HeldOut:
    """Held-out loss and accuracy of the implicit reward; None where not measured."""

    pairs: int | None
    loss_before: float | None
    loss_after: float | None
    loss_se: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Verdict:
    """The answer on top of the page."""

    word: Word
    sentences: tuple[str, ...]
    detail: str
    gain: Gain | None
    kl: float | None
    kl_se: float | None
    held_out: HeldOut

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return HEADLINES[self.word]


def verdict_of(contents: RunContents) -> Verdict:
    """Return the verdict of a run; only a measured score says better or worse."""
    gain, held_out, end = measured_gain(contents), held_out_of(contents), contents.end
    kl, kl_se = (end.kl_start, end.kl_start_se) if end is not None else (None, None)
    sentences = [_gain_sentence(gain, kl, kl_se) if gain else _no_gain_sentence(contents, kl, kl_se)]
    about_pairs = _held_out_sentence(held_out)
    if about_pairs:
        sentences.append(about_pairs)
    return Verdict(_word(gain), tuple(sentences), _detail(gain), gain, kl, kl_se, held_out)


def measured_gain(contents: RunContents) -> Gain | None:
    """Return the gain in score: paired over samples where they carry scores, else from two measurements."""
    scored = [
        (sample.prompt, sample.score_before, sample.score_after)
        for sample in contents.samples
        if sample.score_before is not None and sample.score_after is not None
    ]
    if scored:
        before, after = fmean(row[1] for row in scored), fmean(row[2] for row in scored)
        interval = paired_bootstrap(
            [row[2] - row[1] for row in scored], clusters=[canonical_json(row[0]) for row in scored]
        )
        return Gain(contents.score_name, before, after, interval, paired=True)
    start, end = contents.start, contents.end
    name = contents.evaluators[0] if contents.evaluators else ""
    if start is None or end is None or name not in start.scores or name not in end.scores:
        return None
    before, after = start.scores[name], end.scores[name]
    errors = [start.scores_se.get(name), end.scores_se.get(name)]
    se = math.nan if None in errors else math.hypot(*(error for error in errors if error is not None))
    reach = Z95 * se
    interval = Interval(after - before, after - before - reach, after - before + reach, se, end.prompts)
    return Gain(contents.score_name, before, after, interval, paired=False)


def held_out_of(contents: RunContents) -> HeldOut:
    """Return held-out loss and accuracy, with the Wilson interval of the accuracy over pairs."""
    pairs = contents.rows.held_out or None
    loss_before, loss_after = contents.eval_ends("eval_loss")
    accuracy_before, accuracy_after = contents.eval_ends("eval_rewards/accuracies")
    loss_se = contents.eval_ends("eval_loss_se")[1]
    accuracy_se = contents.eval_ends("eval_rewards/accuracies_se")[1]
    interval = None
    if accuracy_after is not None and accuracy_se is not None:
        reach = Z95 * accuracy_se
        interval = (max(0.0, accuracy_after - reach), min(1.0, accuracy_after + reach))
    elif accuracy_after is not None and pairs is not None:
        interval = share_interval(accuracy_after, pairs)
    return HeldOut(pairs, loss_before, loss_after, loss_se, accuracy_before, accuracy_after, interval)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n (Wilson 1927, JASA 22); half counts for ties are fine."""
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def gain_interval_text(gain: Gain) -> str:
    """Return the interval as `+0.55 to +0.87`."""
    low = number(gain.interval.low, gain.decimals, signed=True)
    return f"{low} to {number(gain.interval.high, gain.decimals, signed=True)}"


def _word(gain: Gain | None) -> Word:
    if gain is None or not gain.known:
        return "not measured"
    if not distinguishable(gain.interval):
        return "not distinguishable"
    return "better" if gain.interval.estimate > 0 else "worse"


def _gain_sentence(gain: Gain, kl: float | None, kl_se: float | None) -> str:
    before, after = number(gain.before, gain.decimals), number(gain.after, gain.decimals)
    prompts = "prompt" if gain.interval.n == 1 else "prompts"
    where = f"On {count(gain.interval.n)} held-out {prompts} the {gain.name}"
    kind = "paired 95 % interval" if gain.paired else "95 % interval, unpaired,"
    if not gain.known:
        change = f"went from {before} to {after} (too few prompts, or no standard error, for an interval)"
    elif not distinguishable(gain.interval):
        change = (
            f"went from {before} to {after}, not distinguishable from no change "
            f"({kind} of the gain {gain_interval_text(gain)} includes 0)"
        )
    else:
        verb = "rose" if gain.interval.estimate > 0 else "fell"
        change = f"{verb} from {before} to {after} ({kind} of the gain {gain_interval_text(gain)})"
    return f"{where} {change}; {_cost(kl, kl_se)}."


def _no_gain_sentence(contents: RunContents, kl: float | None, kl_se: float | None) -> str:
    if contents.record.steps == 0 and not contents.train:
        return "Nothing was trained here."
    return f"No score of the model's own answers was measured before and after training; {_cost(kl, kl_se)}."


def _cost(kl: float | None, kl_se: float | None) -> str:
    if kl is None:
        return "what it cost in KL from the start model was not measured"
    unit = "nat" if with_error(kl, kl_se) == "1" else "nats"
    return f"it cost {with_error(kl, kl_se)} {unit} of KL from the start model"


def _held_out_sentence(held: HeldOut) -> str:
    parts: list[str] = []
    if held.accuracy_after is not None:
        text = f"the implicit reward ranks the chosen answer first in {percent(held.accuracy_after)}"
        if held.accuracy_interval is not None:
            low, high = held.accuracy_interval
            text += f" (95 % interval {number(100 * low, 0)} to {percent(high)})"
        parts.append(text)
    if held.loss_after is not None:
        start = f"from {number(held.loss_before, 3)} " if held.loss_before is not None else ""
        parts.append(f"the loss went {start}to {number(held.loss_after, 3)}")
    if not parts:
        return "No held-out rows were evaluated."
    where = f"On {count(held.pairs)} held-out rows" if held.pairs else "On held-out rows"
    return f"{where} {' and '.join(parts)}."


def _detail(gain: Gain | None) -> str:
    """Say what would settle a verdict that is not one."""
    if gain is None or not gain.known or distinguishable(gain.interval):
        return ""
    needed = required_size_for(gain.interval) if gain.paired else None
    if needed is None or needed <= gain.interval.n:
        return ""
    size = number(gain.interval.estimate, gain.decimals, signed=True)
    return f"Were {size} the true gain, about {count(needed)} prompts would be needed to see it (power 80 %)."


def as_document(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as JSON: what `tether report --json` prints; numbers not measured are null."""
    gain, held = verdict.gain, verdict.held_out
    interval = gain.interval if gain is not None else None
    return {
        "verdict": verdict.word,
        "sentences": list(verdict.sentences),
        "score": None
        if gain is None or interval is None
        else {
            "name": gain.name,
            "before": gain.before,
            "after": gain.after,
            "gain": interval.estimate,
            "low": interval.low if gain.known else None,
            "high": interval.high if gain.known else None,
            "level": interval.level,
            "prompts": interval.n,
            "paired": gain.paired,
        },
        "kl_start": verdict.kl,
        "kl_start_se": verdict.kl_se,
        "held_out": {
            "rows": held.pairs,
            "loss_before": held.loss_before,
            "loss": held.loss_after,
            "loss_se": held.loss_se,
            "accuracy_before": held.accuracy_before,
            "accuracy": held.accuracy_after,
            "accuracy_interval": list(held.accuracy_interval) if held.accuracy_interval else None,
        },
    }
