"""Values and gradients of every objective equal those of its formula, re-derived in plain Python."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.objectives import formulas
from tests.objectives.batches import from_tokens, loss_of, options_for, random_rows
from tether.config.objective import ObjectiveOptions
from tether.objectives import OBJECTIVES
from tether.records.tensors import LossInputs

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OBJECTIVES),
    ("sigmoid", {"label_smoothing": 0.2, "beta": 1.3}),
    ("robust", {"label_smoothing": 0.2, "beta": 0.7}),
    ("ipo", {"ipo_reduction": "sum", "beta": 0.3}),
    ("simpo", {"beta": 2.0, "simpo_gamma": 1.1, "label_smoothing": 0.1}),
    ("alphapo", {"beta": 2.0, "alphapo_alpha": -0.4}),
    ("cpo", {"cpo_alpha": 0.3}),
    ("unlikelihood", {"unlikelihood_alpha": 0.25}),
    ("aot", {"label_smoothing": 0.1, "beta": 0.8}),
    ("bco_pair", {"bco_delta": "update", "beta": 0.9}),
    ("bco_pair", {"bco_delta": "running", "beta": 0.9}),
    ("bco", {"bco_delta": "running", "beta": 0.9}),
    ("beta_dpo", {"beta_dpo_keep": 1.0, "beta": 0.5}),
    ("epsilon_dpo", {"epsilon_dpo_epsilon": 0.4, "beta": 0.9}),
    ("discopop", {"discopop_tau": 0.3, "beta": 1.0}),
    ("dpop", {"dpop_lambda": 3.0, "beta": 0.3}),
    ("chi_po", {"chi_po_rmax": 0.05, "beta": 0.2}),
    ("hypo", {"hypo_gamma": 0.7, "beta": 0.5}),
    ("kto", {"desirable_weight": 1.3, "undesirable_weight": 0.6, "beta": 0.5}),
    ("apo_zero_unpaired", {"desirable_weight": 1.3, "undesirable_weight": 0.6, "beta": 0.5}),
    ("bco", {"desirable_weight": 1.3, "undesirable_weight": 0.6, "beta": 0.5}),
    ("plackett_luce", {"beta": 0.9}),
]


def texts_of(inputs: LossInputs) -> list[formulas.Text]:
    assert inputs.policy.tokens is not None and inputs.reference is not None
    assert inputs.reference.tokens is not None
    counts = inputs.policy.counts.tolist()
    policy = torch.split(inputs.policy.tokens.detach().double(), counts)
    reference = torch.split(inputs.reference.tokens.double(), counts)
    return [(p.tolist(), r.tolist()) for p, r in zip(policy, reference, strict=True)]


def formula(name: str, inputs: LossInputs, options: ObjectiveOptions) -> float:
    texts = texts_of(inputs)
    if name == "epsilon_dpo":
        assert inputs.tilted is not None
        tilts = list(zip(inputs.tilted.away.tolist(), inputs.tilted.towards.tolist(), strict=True))
        rows = list(zip(texts[::2], texts[1::2], tilts[::2], tilts[1::2], strict=True))
        return formulas.epsilon_dpo(rows, options)
    if name in formulas.PAIRS:
        return formulas.PAIRS[name](list(zip(texts[::2], texts[1::2], strict=True)), options)
    if name in formulas.UNPAIRED:
        return formulas.UNPAIRED[name](list(zip(inputs.roles, texts, strict=True)), options)
    lists: dict[int, list[formulas.Text]] = {}
    for group, text in zip(inputs.group_of.tolist(), texts, strict=True):
        lists.setdefault(group, []).append(text)
    return formulas.plackett_luce(list(lists.values()), options)


@pytest.mark.parametrize(("name", "extra"), VARIANTS)
def test_value_is_the_formulas(name: str, extra: dict[str, Any]) -> None:
    options = options_for(name, **extra)
    for seed in range(3):
        inputs = random_rows(name, seed)
        # fp32 sums of at most 6 tokens, squared at most: 32 fp32 steps of the value.
        assert float(loss_of(options, inputs)) == pytest.approx(
            formula(name, inputs, options), rel=4e-6, abs=4e-6
        )


@pytest.mark.parametrize(
    ("name", "extra"),
    # Shifts that are constants in the gradient have a test of their own below.
    [v for v in VARIANTS if v[0] not in ("kto", "bco", "beta_dpo") and "bco_delta" not in v[1]],
)
def test_gradient_is_the_formulas(name: str, extra: dict[str, Any]) -> None:
    options = options_for(name, **extra)
    inputs = random_rows(name, 1)
    assert inputs.policy.tokens is not None
    tokens = inputs.policy.tokens.double().requires_grad_(True)

    def at(values: torch.Tensor) -> LossInputs:
        return replace(inputs, policy=from_tokens(values.float(), inputs.policy.counts))

    (gradient,) = torch.autograd.grad(loss_of(options, at(tokens)), tokens)
    exact = replace(inputs, policy=from_tokens(tokens.detach(), inputs.policy.counts))
    step = 1e-5
    for place in range(len(tokens)):
        sides: list[float] = []
        for sign in (1, -1):
            moved = tokens.detach().clone()
            moved[place] += sign * step
            sides.append(
                formula(name, replace(exact, policy=from_tokens(moved, inputs.policy.counts)), options)
            )
        numeric = (sides[0] - sides[1]) / (2 * step)
        assert float(gradient[place]) == pytest.approx(numeric, rel=2e-5, abs=2e-6), place


@pytest.mark.parametrize("name", ["kto", "bco", "bco_pair"])
def test_shifts_carry_no_gradient(name: str) -> None:
    options = options_for(name, **({"bco_delta": "update"} if name == "bco_pair" else {}))
    inputs = random_rows(name, 2)
    sums = inputs.policy.sums.clone().requires_grad_(True)
    loss = loss_of(options, replace(inputs, policy=replace(inputs.policy, sums=sums)))
    (gradient,) = torch.autograd.grad(loss, sums)
    for place, role in enumerate(inputs.roles):
        if role == "kl":
            assert gradient[place] == 0
        elif role in ("desirable", "chosen"):
            assert gradient[place] < 0
        else:
            assert gradient[place] > 0


def test_two_ranks_are_sigmoid() -> None:
    pairs = random_rows("sigmoid", 4)
    ranked = replace(
        pairs,
        roles=tuple("rank-0" if role == "chosen" else "rank-1" for role in pairs.roles),
        chosen=pairs.chosen[:0],
        rejected=pairs.rejected[:0],
    )
    expected = loss_of(options_for("sigmoid"), pairs)
    assert float(loss_of(options_for("plackett_luce"), ranked)) == pytest.approx(float(expected), rel=1e-6)
