"""What `tether reference compare` finds out about references before any training."""

from typing import Any

from tether.records.findings import Estimate
from tether.records.results import Record


class ReferenceFacts(Record):
    """One candidate reference beside the model that would be trained, on the same preference rows."""

    reference: str
    description: str
    pairs: int
    missing: int
    """Pairs it has no score for (an artifact of other rows); left out of its numbers and counted."""
    log_ratio_chosen: Estimate | None
    """log p_model - log p_reference of the chosen completions, nats per completion; None for `none`."""
    log_ratio_rejected: Estimate | None
    log_prob_per_token: Estimate | None
    """Of the reference on chosen completions, nats per its own token."""
    against_label: Estimate | None
    """Share of pairs whose rejected completion it finds more probable (ties one half)."""
    margin_correlation: float | None
    """Pearson correlation over pairs of log p(chosen) - log p(rejected), reference with model."""
    length_slope: float | None
    """Nats its log-prob falls per token of the model's tokenizer: least squares through the origin."""
    length_r_squared: float | None
    kl_model_reference: Estimate | None
    """KL(model || reference), nats per answer of the model; None without a shared token-to-id map."""
    kl_reference_model: Estimate | None
    """KL(reference || model), nats per answer of the reference."""
    notes: tuple[str, ...] = ()


class ReferenceComparison(Record):
    """`tether reference compare --json`."""

    model: str
    data: str
    pairs: int
    left_out: int
    """Rows that are no pair of a chosen and a rejected completion, or beyond `--rows`."""
    prompts: int
    """Prompts answered to measure KL."""
    references: tuple[ReferenceFacts, ...]
    suggestions: tuple[str, ...]
    identity: dict[str, Any]
