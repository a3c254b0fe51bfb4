"""What every objective owes: right signs, finite limits, no dependence on the batch, rows' own fields."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.objectives.batches import (
    counts_of,
    from_tokens,
    kind,
    loss_of,
    one_pair,
    options_for,
    pairs,
    random_rows,
    rows,
    total,
)
from tether.errors import UsageError
from tether.objectives import OBJECTIVES, compute, couples
from tether.records.tensors import LossInputs, LossOutput

ALL = list(OBJECTIVES)
WIDE = [
    {},
    {"beta": 5.0},
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0},
]


def with_tokens(inputs: LossInputs, tokens: torch.Tensor) -> LossInputs:
    return replace(inputs, policy=from_tokens(tokens, inputs.policy.counts))


def token_gradient(name: str, inputs: LossInputs, **extra: Any) -> torch.Tensor:
    assert inputs.policy.tokens is not None
    tokens = inputs.policy.tokens.clone().requires_grad_(True)
    loss = loss_of(options_for(name, **extra), with_tokens(inputs, tokens))
    gradient = torch.autograd.grad(loss, tokens, allow_unused=True)[0]
    assert gradient is not None
    return gradient


def ahead(inputs: LossInputs) -> LossInputs:
    """Give every chosen token 2 nats more than the reference does."""
    assert inputs.reference is not None and inputs.reference.tokens is not None
    owner = torch.repeat_interleave(torch.arange(len(inputs.roles)), inputs.policy.counts)
    lower = from_tokens(inputs.reference.tokens - 2.0 * (owner % 2 == 0), inputs.policy.counts)
    return replace(inputs, reference=lower)


@pytest.mark.parametrize("name", ALL)
def test_gradient_raises_the_chosen_and_lowers_the_rejected(name: str) -> None:
    inputs = random_rows(name, 0, spread=0.0)
    # discopop slopes the wrong way between x = -0.12 and 0.07, as its equation has it.
    gradient = token_gradient(name, random_rows(name, 0, spread=0.0) if name != "discopop" else ahead(inputs))
    owner = torch.repeat_interleave(torch.arange(len(inputs.roles)), inputs.policy.counts)
    for sequence, role in enumerate(inputs.roles):
        moved = gradient[owner == sequence]
        if role in ("chosen", "rank-0", "desirable"):
            # apo_down lowers both, the rejected text more: at zero margin the chosen one's parts cancel.
            assert (moved == 0).all() if name == "apo_down" else (moved < 0).all(), role
        elif role == "kl" or (role == "rejected" and name == "sft"):
            assert (moved == 0).all(), role
        elif role in ("rejected", "undesirable") or (role == "rank-1" and "rank-2" not in inputs.roles):
            assert (moved > 0).all(), role


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        (name, extra)
        for name in ALL
        for extra in WIDE
        if "f_divergence_type" in OBJECTIVES[name].options or "f_divergence_type" not in extra
    ],
)
def test_log_ratios_of_200_are_finite(name: str, extra: dict[str, Any]) -> None:
    roles, group_of = kind(name)
    for signs in ((1, -1), (-1, 1), (1, 1), (-1, -1)):
        policy = torch.tensor([-200.0 if signs[i % 2] < 0 else -1e-3 for i in range(len(roles))])
        reference = torch.tensor([-1e-3 if signs[i % 2] < 0 else -200.0 for i in range(len(roles))])
        ones = torch.ones(len(roles), dtype=torch.int64)
        inputs = rows(roles, group_of, from_tokens(policy, ones), from_tokens(reference, ones))
        options = options_for(name, **extra)
        tokens = policy.clone().requires_grad_(True)
        loss = loss_of(options, with_tokens(inputs, tokens))
        gradient = torch.autograd.grad(loss, tokens, allow_unused=True)[0]
        assert torch.isfinite(loss), signs
        assert gradient is None or torch.isfinite(gradient).all(), signs


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("log_p", [0.0, -1e-8, -1e-7, -1e-6])
def test_probabilities_of_one_are_finite(name: str, log_p: float) -> None:
    inputs = random_rows(name, 3)
    assert inputs.policy.tokens is not None
    for kept in (0, 1):
        tokens = inputs.policy.tokens.clone()
        owner = torch.repeat_interleave(torch.arange(len(inputs.roles)), inputs.policy.counts)
        tokens[(owner % 2) == kept] = log_p
        tokens.requires_grad_(True)
        loss = loss_of(options_for(name), with_tokens(inputs, tokens))
        gradient = torch.autograd.grad(loss, tokens, allow_unused=True)[0]
        assert torch.isfinite(loss)
        assert gradient is None or torch.isfinite(gradient).all()


def pieces(inputs: LossInputs, bounds: list[int]) -> list[tuple[LossInputs, torch.Tensor]]:
    """Cut an update into runs of groups, each with its own sequences, as micro-batches are."""
    found: list[tuple[LossInputs, torch.Tensor]] = []
    for low, high in pairwise(bounds):
        index = ((inputs.group_of >= low) & (inputs.group_of < high)).nonzero().flatten()
        part = rows(
            [inputs.roles[i] for i in index.tolist()],
            (inputs.group_of[index] - low).tolist(),
            inputs.policy[index],
            None if inputs.reference is None else inputs.reference[index],
        )
        part = replace(
            part,
            weights=inputs.weights[low:high],
            margins=inputs.margins[low:high],
            probabilities=inputs.probabilities[low:high],
            tilted=None if inputs.tilted is None else inputs.tilted[index],
        )
        found.append((part, index))
    return found


@pytest.mark.parametrize("cut", [[0, 2, 4, 5], [0, 1, 2, 3, 4, 5], [0, 3, 5]])
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_do_not_depend_on_micro_batches(name: str, cut: list[int]) -> None:
    inputs = random_rows(name, 5)
    if OBJECTIVES[name].weighted:
        inputs = replace(inputs, weights=torch.linspace(0.5, 1.5, len(inputs.weights)))
    groups = len(inputs.weights)
    cut = [min(bound, groups) for bound in cut if bound < groups] + [groups]
    options, counts = options_for(name), counts_of(inputs)
    assert inputs.policy.tokens is not None
    whole = inputs.policy.tokens.clone().requires_grad_(True)
    loss = total(compute(options, with_tokens(inputs, whole)), counts)
    (expected,) = torch.autograd.grad(loss, whole)
    tokens = inputs.policy.tokens.clone().requires_grad_(True)
    again = with_tokens(inputs, tokens)
    if couples(options):
        # Two phases: differentiate with respect to the sums, then the sums with respect to tokens, in parts.
        sums = again.policy.sums.detach().requires_grad_(True)
        held = replace(again, policy=replace(again.policy.detach(), sums=sums))
        value = total(compute(options, held), counts)
        (coefficients,) = torch.autograd.grad(value, sums)
        for part, index in pieces(again, cut):
            (coefficients[index] * part.policy.sums).sum().backward(retain_graph=True)
    else:
        value = torch.zeros(())
        for part, _ in pieces(again, cut):
            value = value + total(compute(options, part), counts)
        value.backward()
    assert float(value.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert tokens.grad is not None
    assert torch.allclose(tokens.grad, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_sorted_losses_couple_the_rows(name: str) -> None:
    # aot: policy margins 0 and 3, reference margins 2 and 1: differences -2 and 2, sorted -1 and 1.
    # aot_unpaired: chosen log-ratios 0 and 1, rejected ones 2 and -1: differences -2 and 2, sorted 1 and -1.
    inputs = pairs(
        [([-1.0], [-1.0]), ([-1.0], [-4.0])],
        [([-1.0], [-3.0]), ([-2.0], [-3.0])],
    )
    expected = (math.log1p(math.exp(1.0)) + math.log1p(math.exp(-1.0))) / 2
    apart_expected = (math.log1p(math.exp(2.0)) + math.log1p(math.exp(-2.0))) / 2
    options = options_for(name, beta=1.0)
    together = float(loss_of(options, inputs))
    apart = sum(float(loss_of(options, part)) for part, _ in pieces(inputs, [0, 1, 2])) / 2
    assert together == pytest.approx(expected, rel=1e-6)
    assert apart == pytest.approx(apart_expected, rel=1e-6)


def test_objectives_that_couple_say_so() -> None:
    for name in ALL:
        inputs = random_rows(name, 6)
        groups = len(inputs.weights)
        # The loss of half the rows changes with the others exactly where the table says that rows couple.
        options = options_for(name)
        alone = sum(
            float(loss_of(options, part)) * counts_of(part)["pairs"]
            for part, _ in pieces(inputs, list(range(groups + 1)))
        )
        pair_terms = all(unit == "pairs" for unit in OBJECTIVES[name].units)
        if pair_terms and name not in ("aot", "bco"):
            differs = abs(alone / groups - float(loss_of(options, inputs))) > 1e-5
            assert differs == couples(options) or name == "aot_unpaired", name
    assert couples(options_for("bco_pair", bco_delta="update"))
    assert not couples(options_for("bco_pair"))


@pytest.mark.parametrize("name", [n for n in ALL if OBJECTIVES[n].weighted])
def test_a_weight_multiplies_its_row(name: str) -> None:
    inputs = random_rows(name, 7)
    zeroed = replace(inputs, weights=torch.zeros_like(inputs.weights))
    doubled = replace(inputs, weights=torch.full_like(inputs.weights, 2.0))
    assert float(loss_of(options_for(name), zeroed)) == 0
    expected = 2 * float(loss_of(options_for(name), inputs))
    assert float(loss_of(options_for(name), doubled)) == pytest.approx(expected, rel=1e-6)


SOFT = [n for n in ALL if OBJECTIVES[n].soft_labels]


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_label_mixes_both_orders(name: str) -> None:
    ahead = {"cpo_alpha": 0.0} if name == "cpo" else {}
    options = options_for(name, beta=0.8, **ahead)
    forth = one_pair(-1.0, -3.0, -2.0, -2.5)
    certain = float(loss_of(options, forth))
    never = float(loss_of(options, replace(forth, probabilities=torch.zeros(1))))
    mixed = float(loss_of(options, replace(forth, probabilities=torch.tensor([0.3]))))
    assert mixed == pytest.approx(0.3 * certain + 0.7 * never, rel=1e-6)
    assert never > certain
    even = replace(forth, probabilities=torch.tensor([0.5]))
    backward = one_pair(-3.0, -1.0, -2.5, -2.0, probabilities=[0.5])
    if name not in ("simpo", "alphapo", "dpop", "hypo", "beta_dpo"):
        # A tie has no first and second, where the loss itself treats both texts alike (beta_dpo's beta
        # follows the signed margin).
        assert float(loss_of(options, even)) == pytest.approx(float(loss_of(options, backward)), rel=1e-6)


OFFSET = [n for n in ALL if OBJECTIVES[n].offsets]


@pytest.mark.parametrize("name", OFFSET)
def test_a_margin_is_subtracted_in_reward_units(name: str) -> None:
    options = options_for(name, beta=0.5, **({"cpo_alpha": 0.0} if name == "cpo" else {}))
    plain = compute(options, one_pair(-1.0, -3.0, -2.0, -2.5))
    offset = float(loss_of(options, one_pair(-1.0, -3.0, -2.0, -2.5, margins=[0.4])))
    x = float(plain.chosen - plain.rejected) - 0.4 - (0.5 if name in ("simpo", "alphapo") else 0.0)
    expected = max(0.0, 1 - x) if name == "hinge" else math.log1p(math.exp(-x))
    assert offset == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_rows_an_objective_cannot_honour_are_refused(name: str) -> None:
    objective, inputs = OBJECTIVES[name], random_rows(name, 8)
    half = torch.full_like(inputs.weights, 0.5)
    for field, understood in (
        ("probabilities", objective.soft_labels),
        ("margins", objective.offsets or objective.reads == "chosen"),
        ("weights", objective.weighted),
    ):
        changed = replace(inputs, **{field: half})
        if understood:
            compute(options_for(name), changed)
        else:
            with pytest.raises(UsageError, match=name):
                compute(options_for(name), changed)


def test_a_sum_is_the_weighted_sum_of_its_parts() -> None:
    inputs = random_rows("sigmoid", 9)
    parts = [float(loss_of(options_for(name), inputs)) for name in ("sigmoid", "sft", "aot")]
    options = options_for("sigmoid", loss_type=["sigmoid", "sft", "aot"], loss_weights=[0.8, 0.2, 1.5])
    expected = 0.8 * parts[0] + 0.2 * parts[1] + 1.5 * parts[2]
    assert float(loss_of(options, inputs)) == pytest.approx(expected, rel=1e-6)


def test_a_sum_shows_the_scores_of_the_first_objective_on_pairs() -> None:
    inputs = random_rows("sigmoid", 9)
    shown: LossOutput = compute(options_for("sft", loss_type=["sft", "sigmoid"]), inputs)
    expected = compute(options_for("sigmoid"), inputs)
    assert torch.equal(shown.chosen, expected.chosen)
    assert torch.equal(shown.rejected, expected.rejected)
    assert not shown.chosen.requires_grad


def test_sft_reads_single_completions() -> None:
    policy = from_tokens(torch.tensor([-1.0, -2.0, -6.0]), torch.tensor([2, 1]))
    inputs = rows(["completion", "completion"], [0, 1], policy, None)
    output = compute(options_for("sft"), inputs)
    assert float(total(output, counts_of(inputs))) == pytest.approx(3.0)
    assert output.chosen.numel() == output.rejected.numel() == 0
