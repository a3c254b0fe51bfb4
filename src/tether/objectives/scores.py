"""From log-probs to what objectives compare: log-ratios of pairs, with f-divergence and length rules.

Log-ratios are in nats: r = log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from tether.config.objective import ObjectiveOptions
from tether.errors import UsageError
from tether.records.tensors import LossInputs, SequenceLogProbs

EXPONENT_LIMIT = 40.0
"""Largest exponent taken: e^40 squared still fits fp32, so no loss becomes infinite at +-200 nats."""

CERTAIN = -(2.0**-23)
"""Largest log-prob whose complement is taken: 1 - p is never below one fp32 step."""


@dataclass(frozen=True)
class Pairs:
    """P pairs as an objective sees them: scores in nats, token counts, and what the row said."""

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]
    chosen_counts: Float[Tensor, " P"]
    rejected_counts: Float[Tensor, " P"]
    weights: Float[Tensor, " P"]
    margins: Float[Tensor, " P"]
    probabilities: Float[Tensor, " P"]

    @property
    def margin(self) -> Float[Tensor, " P"]:
        """Chosen minus rejected."""
        return self.chosen - self.rejected

    def per_token(self) -> "Pairs":
        """Return the pairs with scores divided by the number of completion tokens."""
        return replace(
            self, chosen=self.chosen / self.chosen_counts, rejected=self.rejected / self.rejected_counts
        )

    def with_scores(self, chosen: Tensor, rejected: Tensor) -> "Pairs":
        """Return the pairs with other scores."""
        return replace(self, chosen=chosen, rejected=rejected)


def without_reference(inputs: LossInputs) -> LossInputs:
    """Return the inputs with a reference that gives every text log-prob exactly 0.

    This is RefDPO's posterior-probability objective when the loss is `sigmoid` (2407.13709, section 5.1).
    """
    zeros = SequenceLogProbs(
        torch.zeros_like(inputs.policy.sums),
        inputs.policy.counts,
        None if inputs.policy.tokens is None else torch.zeros_like(inputs.policy.tokens),
    )
    return replace(inputs, reference=zeros)


def pair_indices(inputs: LossInputs) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
    """Return chosen and rejected sequence indices in step; both empty where the rows hold no pairs."""
    if inputs.chosen.numel() != inputs.rejected.numel():
        return inputs.chosen[:0], inputs.rejected[:0]
    return inputs.chosen, inputs.rejected


def role_indices(inputs: LossInputs, *names: str) -> Int64[Tensor, " n"]:
    """Return the sequence indices whose role is one of `names`, on the device of the log-probs."""
    found = [i for i, role in enumerate(inputs.roles) if role in names]
    return torch.tensor(found, dtype=torch.int64, device=inputs.policy.sums.device)


def log_ratios(inputs: LossInputs, options: ObjectiveOptions | None = None) -> Float[Tensor, " S"]:
    """Return each sequence's summed log-ratio; with `ld_alpha`, the longer text's tail is weighted.

    The tail begins at the length of the pair's shorter text. Source: LD-DPO, 2409.06411;
    on policy and reference alike, as in TRL (LLaMA-Factory and swift: policy only).
    """
    reference = inputs.reference
    if options is None or options.ld_alpha is None:
        return inputs.policy.sums if reference is None else inputs.policy.sums - reference.sums
    ratio = _tail_weighted(inputs, inputs.policy, options.ld_alpha, "policy")
    if reference is not None:
        ratio = ratio - _tail_weighted(inputs, reference, options.ld_alpha, "reference")
    return ratio


def policy_pairs(inputs: LossInputs) -> Pairs:
    """Return the pairs scored by the policy's log-prob sums alone."""
    return _pairs(inputs, inputs.policy.sums)


def ratio_pairs(inputs: LossInputs, options: ObjectiveOptions) -> Pairs:
    """Return the pairs scored by log-ratios, after `ld_alpha` and the f-divergence's link."""
    pairs = _pairs(inputs, log_ratios(inputs, options))
    return pairs.with_scores(link(pairs.chosen, options), link(pairs.rejected, options))


def link(ratio: Float[Tensor, " n"], options: ObjectiveOptions) -> Float[Tensor, " n"]:
    """Return f'(pi / pi_ref) up to a constant, the score under an f-divergence (f-DPO, 2309.16240).

    `reverse_kl` r; `forward_kl` 1 - e^-r; `js_divergence` log 2 + log sigma(r); `alpha_divergence`
    (e^((a-1) r) - 1) / (a-1). Exponents are held at 40 (TRL holds 80, and only for alpha).
    """
    kind = options.f_divergence_type
    if kind == "forward_kl":
        return 1 - torch.exp((-ratio).clamp(max=EXPONENT_LIMIT))
    if kind == "js_divergence":
        return math.log(2) + F.logsigmoid(ratio)
    order = options.f_alpha_divergence_coef - 1
    if kind == "alpha_divergence" and abs(order) >= 1e-6:
        return torch.expm1((order * ratio).clamp(max=EXPONENT_LIMIT)) / order
    return ratio


def log1mexp(log_p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return log(1 - e^x) for x <= 0, finite up to x = 0: 1 - p is held at one fp32 step, 2^-23."""
    x = log_p.clamp(max=CERTAIN)
    small = x > -math.log(2)
    # A branch not taken gets a harmless argument: where() would pass on its NaN gradient.
    near = torch.log(-torch.expm1(torch.where(small, x, torch.full_like(x, -1.0))))
    far = torch.log1p(-torch.exp(torch.where(small, torch.full_like(x, -1.0), x)))
    return torch.where(small, near, far)


def mean_probability(inputs: LossInputs) -> Float[Tensor, " P"]:
    """Return exp(mean log pi_w + mean log pi_l), without gradient (WPO, 2406.11827 Eq. 2)."""
    pairs = policy_pairs(inputs).per_token()
    return torch.exp((pairs.chosen + pairs.rejected).detach())


def token_values(side: SequenceLogProbs, name: str, reader: str) -> Float[Tensor, " T"]:
    """Return one side's per-token log-probs.

    Raises:
        UsageError: that side holds sums only.

    """
    if side.tokens is None:
        raise UsageError(
            f"{reader} needs the {name}'s log-probs per token, but only sums are known;"
            " score the reference with --token-values"
        )
    return side.tokens


def _pairs(inputs: LossInputs, scores: Float[Tensor, " S"]) -> Pairs:
    chosen, rejected = pair_indices(inputs)
    rows = inputs.group_of[chosen]
    counts = inputs.policy.counts.to(scores.dtype).clamp(min=1)
    return Pairs(
        scores[chosen],
        scores[rejected],
        counts[chosen],
        counts[rejected],
        inputs.weights[rows],
        inputs.margins[rows],
        inputs.probabilities[rows],
    )


def _tail_weighted(
    inputs: LossInputs, side: SequenceLogProbs, alpha: float, name: str
) -> Float[Tensor, " S"]:
    tokens = token_values(side, name, "ld_alpha")
    chosen, rejected = pair_indices(inputs)
    counts = inputs.policy.counts
    if not torch.equal(side.counts, counts):
        raise UsageError(
            "ld_alpha compares policy and reference token by token, but their tokenizers cut the texts"
            " differently; leave ld_alpha unset or use a reference with the policy's tokenizer"
        )
    shared = counts.clone()
    shortest = torch.minimum(counts[chosen], counts[rejected])
    shared[chosen] = shortest
    shared[rejected] = shortest
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    position = torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
    weighted = torch.where(position < shared[owner], tokens, alpha * tokens)
    return torch.zeros_like(side.sums).index_add(0, owner, weighted)
