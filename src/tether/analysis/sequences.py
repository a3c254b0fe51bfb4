"""What sums of log-probs say about pairs: ranking accuracy, log-ratios, lengths. Numpy on saved numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.analysis.stats import Interval, mean_interval
from tether.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairSums:
    """Summed log-probs (nats) and completion tokens of P pairs; reference None where there is none."""

    policy_chosen: Array
    policy_rejected: Array
    chosen_tokens: Array
    rejected_tokens: Array
    reference_chosen: Array | None = None
    reference_rejected: Array | None = None

    @property
    def chosen_ratio(self) -> Array:
        """Log-ratio of the chosen completions, policy over reference (0 where there is none)."""
        return self.policy_chosen - (0.0 if self.reference_chosen is None else self.reference_chosen)

    @property
    def rejected_ratio(self) -> Array:
        """Log-ratio of the rejected completions."""
        return self.policy_rejected - (0.0 if self.reference_rejected is None else self.reference_rejected)


@dataclass(frozen=True)
class LengthSlope:
    """Least-squares fit of log-ratio = slope x tokens through the origin."""

    slope: float
    """Nats per token."""
    r_squared: float
    """Share of the squared log-ratio explained (about 0, not about the mean)."""
    n: int


@dataclass(frozen=True)
class PairSummary:
    """RefDPO's Table 2 with what belongs beside it; every value with its interval over pairs."""

    implicit_accuracy: Interval
    """Share of pairs whose chosen log-ratio is higher (ties one half)."""
    policy_accuracy: Interval
    """Share of pairs whose chosen completion is more probable under the policy itself."""
    policy_accuracy_per_token: Interval
    reference_accuracy: Interval | None
    """The reference's own ranking, where it is known."""
    chosen_log_ratio: Interval
    rejected_log_ratio: Interval
    margin: Interval
    chosen_log_ratio_per_token: Interval
    rejected_log_ratio_per_token: Interval
    length: LengthSlope


def pair_sums(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    chosen_tokens: ArrayLike,
    rejected_tokens: ArrayLike,
    reference_chosen: ArrayLike | None = None,
    reference_rejected: ArrayLike | None = None,
) -> PairSums:
    """Check and gather the sums of P pairs.

    Raises:
        DataError: columns of different lengths, no pair, a value not finite, a completion of no token.

    """
    given = (
        policy_chosen,
        policy_rejected,
        chosen_tokens,
        rejected_tokens,
        reference_chosen,
        reference_rejected,
    )
    columns = [None if c is None else np.asarray(c, dtype=np.float64) for c in given]
    held = [c for c in columns if c is not None]
    if len({c.shape for c in held}) != 1 or held[0].ndim != 1 or held[0].size == 0:
        raise DataError(f"columns of shapes {[c.shape for c in held]}: one value per pair needed in each")
    if not all(bool(np.isfinite(c).all()) for c in held):
        raise DataError("log-probs hold NaN or infinite values")
    first, second, one, two, three, four = columns
    assert first is not None and second is not None and one is not None and two is not None
    if min(one.min(), two.min()) < 1:
        raise DataError("a completion of no token has no log-prob per token: leave its pair out and count it")
    if (three is None) != (four is None):
        raise DataError("the reference's sums are needed for both completions, or for neither")
    return PairSums(first, second, one, two, three, four)


def ranking(first: ArrayLike, second: ArrayLike, tolerance: ArrayLike = 0.0) -> Array:
    """Return 1 where first > second, 1/2 where |difference| <= tolerance, else 0."""
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return np.where(np.abs(gap) <= tolerance, 0.5, (gap > 0).astype(np.float64))


def summarise_pairs(pairs: PairSums, *, tolerance: float = 0.0, seed: int = 0) -> PairSummary:
    """Return the summary of P pairs; `tolerance` (nats) is what rounding alone can move a margin."""

    def share(values: Array) -> Interval:
        return mean_interval(values, bounds=(0, 1), seed=seed)

    def mean(values: Array) -> Interval:
        return mean_interval(values, seed=seed)

    chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
    per_token = pairs.policy_chosen / pairs.chosen_tokens, pairs.policy_rejected / pairs.rejected_tokens
    reference = None
    if pairs.reference_chosen is not None and pairs.reference_rejected is not None:
        reference = share(ranking(pairs.reference_chosen, pairs.reference_rejected, tolerance))
    return PairSummary(
        implicit_accuracy=share(ranking(chosen, rejected, tolerance)),
        policy_accuracy=share(ranking(pairs.policy_chosen, pairs.policy_rejected, tolerance)),
        policy_accuracy_per_token=share(ranking(*per_token)),
        reference_accuracy=reference,
        chosen_log_ratio=mean(chosen),
        rejected_log_ratio=mean(rejected),
        margin=mean(chosen - rejected),
        chosen_log_ratio_per_token=mean(chosen / pairs.chosen_tokens),
        rejected_log_ratio_per_token=mean(rejected / pairs.rejected_tokens),
        length=length_slope(
            np.concatenate([chosen, rejected]),
            np.concatenate([pairs.chosen_tokens, pairs.rejected_tokens]),
        ),
    )


def length_slope(log_ratios: ArrayLike, tokens: ArrayLike) -> LengthSlope:
    """Fit r = slope |y| (nats per token): how far the implicit reward is explained by length alone."""
    r, y = np.asarray(log_ratios, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if r.shape != y.shape or r.size == 0:
        raise DataError(f"{r.size} log-ratios and {y.size} lengths: the same number needed, at least one")
    cross, squares, total = float(r @ y), float(y @ y), float(r @ r)
    explained = cross**2 / (squares * total) if squares > 0 and total > 0 else 0.0
    return LengthSlope(cross / squares if squares > 0 else 0.0, explained, r.size)
