"""f-divergences, LD-DPO's tail weight and WPO's pair weight, by hand and in their limits."""

import math

import pytest
import torch

from tests.objectives.batches import loss_of, one_pair, options_for, pairs, random_rows
from tether.errors import UsageError
from tether.objectives import OBJECTIVES, needs_reference_tokens
from tether.objectives.scores import link, log1mexp

R_W, R_L = 1.0, -0.5


@pytest.mark.parametrize(
    ("kind", "coefficient", "chosen", "rejected"),
    [
        ("forward_kl", 0.5, 1 - math.exp(-R_W), 1 - math.exp(-R_L)),
        ("js_divergence", 0.5, math.log(2 / (1 + math.exp(-R_W))), math.log(2 / (1 + math.exp(-R_L)))),
        ("alpha_divergence", 0.5, (math.exp(-0.5 * R_W) - 1) / -0.5, (math.exp(-0.5 * R_L) - 1) / -0.5),
        ("alpha_divergence", 2.0, math.exp(R_W) - 1, math.exp(R_L) - 1),
        ("alpha_divergence", 1.0, R_W, R_L),
    ],
)
@pytest.mark.parametrize("name", [n for n in OBJECTIVES if "f_divergence_type" in OBJECTIVES[n].options])
def test_f_divergence_replaces_the_log_ratio(
    name: str, kind: str, coefficient: float, chosen: float, rejected: float
) -> None:
    extra = {} if kind != "alpha_divergence" else {"f_alpha_divergence_coef": coefficient}
    options = options_for(name, f_divergence_type=kind, **extra)
    value = loss_of(options, one_pair(-1.0, -3.0, -2.0, -2.5))
    # The same loss on a pair whose plain log-ratios are the f-divergence's scores.
    expected = loss_of(options_for(name), one_pair(chosen, rejected))
    assert float(value) == pytest.approx(float(expected), rel=2e-6)


@pytest.mark.parametrize("kind", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_f_divergences_are_zero_and_steep_one_where_the_models_agree(kind: str) -> None:
    r = torch.zeros(1, requires_grad=True)
    score = link(r, options_for("sigmoid", f_divergence_type=kind))
    (slope,) = torch.autograd.grad(score.sum(), r)
    assert float(score.detach()) == pytest.approx(0.0, abs=1e-7)
    assert float(slope) == pytest.approx(0.5 if kind == "js_divergence" else 1.0, rel=1e-6)


def test_ld_alpha_weights_the_tail_of_the_longer_text() -> None:
    # chosen 3 tokens with log-ratios 1, 0.5, 0.25; rejected 1 token with -0.5; shared length 1
    inputs = pairs([([-1.0, -1.5, -1.75], [-3.0])], [([-2.0, -2.0, -2.0], [-2.5])])
    for alpha in (0.0, 0.3, 1.0):
        x = 0.1 * (1 + alpha * 0.75 + 0.5)
        value = float(loss_of(options_for("sigmoid", ld_alpha=alpha), inputs))
        assert value == pytest.approx(math.log1p(math.exp(-x)), rel=1e-6)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if "ld_alpha" in OBJECTIVES[n].options])
def test_ld_alpha_of_one_changes_nothing(name: str) -> None:
    inputs = random_rows(name, 3)
    plain, weighted = loss_of(options_for(name), inputs), loss_of(options_for(name, ld_alpha=1.0), inputs)
    assert float(weighted) == pytest.approx(float(plain), rel=1e-6)


def test_ld_alpha_refuses_a_reference_without_token_values() -> None:
    inputs = random_rows("sigmoid", 3)
    options = options_for("sigmoid", ld_alpha=0.5)
    assert needs_reference_tokens(options)
    assert inputs.reference is not None
    bare = type(inputs.reference)(inputs.reference.sums, inputs.reference.counts, None)
    with pytest.raises(UsageError, match="--token-values"):
        loss_of(options, type(inputs)(**{**inputs.__dict__, "reference": bare}))


def test_ld_alpha_refuses_a_reference_that_counts_tokens_differently() -> None:
    inputs = random_rows("sigmoid", 3)
    other = random_rows("sigmoid", 4)
    with pytest.raises(UsageError, match="tokenizer"):
        loss_of(
            options_for("sigmoid", ld_alpha=0.5),
            type(inputs)(**{**inputs.__dict__, "reference": other.reference}),
        )


def test_wpo_weighs_pairs_by_mean_probability_without_gradient() -> None:
    inputs = pairs([([-1.0, -2.0], [-3.0])], [([-1.0, -2.0], [-3.0])])
    value = float(loss_of(options_for("sigmoid", wpo_weighting="mean_probability"), inputs))
    assert value == pytest.approx(math.log(2) * math.exp(-1.5 - 3.0), rel=1e-6)
    sums = inputs.policy.sums.clone().requires_grad_(True)
    held = type(inputs)(
        **{**inputs.__dict__, "policy": type(inputs.policy)(sums, inputs.policy.counts, inputs.policy.tokens)}
    )
    (gradient,) = torch.autograd.grad(
        loss_of(options_for("sigmoid", wpo_weighting="mean_probability"), held), sums
    )
    expected = 0.5 * 0.1 * math.exp(-4.5)
    assert gradient.tolist() == pytest.approx([-expected, expected], rel=1e-6)


@pytest.mark.parametrize("x", [-1e-9, -1e-6, -1e-3, -0.5, -0.69, -0.7, -3.0, -30.0, -80.0])
def test_log1mexp_is_accurate_on_both_sides_of_its_branch(x: float) -> None:
    value = float(log1mexp(torch.tensor([x], dtype=torch.float32)))
    held = min(x, -(2.0**-23))
    # fp32 holds x itself to 2^-24 relative; near 0 the logarithm turns that into an absolute error. Far from
    # 0 the value is tiny, and still right to its own size.
    absolute = 2e-7 if x > -1 else 1e-40
    assert value == pytest.approx(math.log1p(-math.exp(held)), rel=4e-6, abs=absolute)
