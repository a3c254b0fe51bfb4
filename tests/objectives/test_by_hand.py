"""One pair of one-token texts by hand: r_w = -1 - (-2) = 1, r_l = -3 - (-2.5) = -0.5, margin 1.5."""

import math
from typing import Any

import pytest

from tests.objectives.batches import kind, log_probs, loss_of, one_pair, options_for, pairs, rows
from tether.objectives import OBJECTIVES, compute, zero_margin


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


HAND: list[tuple[str, dict[str, Any], float]] = [
    # x = 0.1 * 1.5 = 0.15; log(1 + e^-0.15)
    ("sigmoid", {}, 0.6209570),
    # 0.9 * 0.6209570 + 0.1 * 0.7709570: log(1 + e^0.15) = 0.6209570 + 0.15
    ("sigmoid", {"label_smoothing": 0.1}, 0.6359570),
    # (0.9 * 0.6209570 - 0.1 * 0.7709570) / 0.8
    ("robust", {"label_smoothing": 0.1}, 0.6022070),
    # (1.5 - 1 / 0.2)^2 = 3.5^2
    ("ipo", {}, 12.25),
    ("ipo", {"ipo_reduction": "sum"}, 12.25),
    # 1 - 0.15
    ("hinge", {}, 0.85),
    # 1 - sigma(0.1) + sigma(-0.05) = 0.4750208 + 0.4875026
    ("apo_zero", {}, 0.9625234),
    # sigma(0.1) + 1 - sigma(0.15) = 0.5249792 + 0.4625702
    ("apo_down", {}, 0.9875494),
    # beta 5: x = 7.5; log(1 + e^-7.5)
    ("sigmoid_norm", {"beta": 5.0}, 0.000552932),
    # beta 2: x = 2 * (-1 + 3) - 0.5 = 3.5; log(1 + e^-3.5)
    ("simpo", {"beta": 2.0}, 0.0297503),
    # NLL 1; odds: -1 - log(1 - e^-1) = -0.5413249; -3 - log(1 - e^-3) = -2.9489309; x = 2.4076060
    ("orpo", {}, 1 + 0.1 * 0.0862152),
    # x = 0.1 * 2; log(1 + e^-0.2) = 0.5981389; + NLL 1
    ("cpo", {}, 1.5981389),
    ("cpo", {"cpo_alpha": 0.5}, 1.0981389),
    ("sft", {}, 1.0),
    # 1 - log(1 - e^-3) = 1 + 0.0510691
    ("unlikelihood", {}, 1.0510691),
    ("unlikelihood", {"unlikelihood_alpha": 2.0}, 1.1021382),
    # one pair: sorting changes nothing
    ("aot", {}, 0.6209570),
    ("aot_unpaired", {}, 0.6209570),
    # q = sigma(0.15) = 0.5374298: q log(q / 0.9) + (1 - q) log((1 - q) / 0.1)
    ("exo_pair", {"label_smoothing": 0.1}, 0.5374298 * -0.5155965 + 0.4625702 * 1.5316280),
    # -log sigma(0.1) - log(sigma(-0.1)) / 2 - log(sigma(0.05)) / 2
    ("nca_pair", {}, 0.6443967 + 0.5 * 0.7443967 + 0.5 * 0.6684596),
    # -log sigma(0.1) - log sigma(0.05)
    ("bco_pair", {}, 0.6443967 + 0.6684596),
    # delta = (0.1 - 0.05) / 2 = 0.025: -log sigma(0.075) twice
    ("bco_pair", {"bco_delta": "update"}, 2 * 0.6563500),
    # (1 - 5)^2 + (-0.5 + 5)^2
    ("sppo_hard", {}, 36.25),
    # log(1 + e^-1.5) + 36.25
    ("cal_dpo", {}, 36.4514133),
    # x = 0.15, s = sigma(3) = 0.9525741
    ("discopop", {}, 0.0474259 * 0.6209570 + 0.9525741 * 0.8607080),
    # the chosen text rose: no penalty
    ("dpop", {}, 0.6209570),
    # 0.1 * (e + 1 - (e^-0.5 - 0.5)) = 0.1 * 3.6117512; log(1 + e^-0.36117512)
    ("chi_po", {}, 0.5287777),
    # d = 2, d_ref = 0.5 trusted: x = 0.15; floored at 1: x = 0.1
    ("hypo", {}, 0.6209570),
    ("hypo", {"hypo_gamma": 1.0}, 0.6443967),
    # rewards (1 - e^0.25) / 0.25 = -1.1361017, (1 - e^0.75) / 0.25 = -4.4680001; x = 2 * 3.3318984 - 0.5
    ("alphapo", {"beta": 2.0}, math.log1p(math.exp(-6.1637968))),
]


@pytest.mark.parametrize(("name", "extra", "value"), HAND)
def test_value_worked_out_by_hand(name: str, extra: dict[str, Any], value: float) -> None:
    inputs = one_pair(-1.0, -3.0, -2.0, -2.5)
    assert float(loss_of(options_for(name, **extra), inputs)) == pytest.approx(value, abs=3e-7, rel=3e-6)


def test_dpop_penalises_a_chosen_text_that_fell() -> None:
    # r_w = -0.5, r_l = -2: x = 0.1 * (-0.5 - 50 * 0.5 + 2) = -2.35
    value = float(loss_of(options_for("dpop"), one_pair(-1.5, -4.0, -1.0, -2.0)))
    assert value == pytest.approx(math.log1p(math.exp(2.35)), rel=1e-6)


def test_lengths_divide_sums_where_the_rule_is_mean() -> None:
    # chosen of 2 tokens: r_w = -3 + 5 = 2, per token 1; rejected of 1 token: r_l = -0.5
    inputs = pairs([([-1.0, -2.0], [-3.0])], [([-2.0, -3.0], [-2.5])])
    assert float(loss_of(options_for("ipo"), inputs)) == pytest.approx((1.5 - 5) ** 2)
    assert float(loss_of(options_for("ipo", ipo_reduction="sum"), inputs)) == pytest.approx((2.5 - 5) ** 2)
    assert float(loss_of(options_for("sigmoid_norm"), inputs)) == pytest.approx(0.6209570, rel=1e-6)
    # mean log-probs -1.5 and -3: x = 2 * 1.5 - 0.5
    assert float(loss_of(options_for("simpo", beta=2.0), inputs)) == pytest.approx(math.log1p(math.exp(-2.5)))
    # two chosen tokens: (1 + 2) / 2
    assert float(loss_of(options_for("sft"), inputs)) == pytest.approx(1.5)


def test_unpaired_objectives_by_hand() -> None:
    # r: desirable 1, its mismatch 0.4; undesirable -0.5, its mismatch 0.2; z0 = 0.3; beta 1
    roles, group_of = ["desirable", "kl", "undesirable", "kl"], [0, 0, 1, 1]
    inputs = rows(
        roles, group_of, log_probs([[-1], [-1.6], [-3], [-1.8]]), log_probs([[-2], [-2], [-2.5], [-2]])
    )
    weighted = {"beta": 1.0, "desirable_weight": 2.0}
    kto = (2 * sig(-(1 - 0.3)) + sig(-(0.3 + 0.5))) / 2
    assert float(loss_of(options_for("kto", **weighted), inputs)) == pytest.approx(kto, rel=1e-6)
    apo = (2 * sig(-1) + sig(-0.5)) / 2
    assert float(loss_of(options_for("apo_zero_unpaired", **weighted), inputs)) == pytest.approx(
        apo, rel=1e-6
    )
    # delta = (1 - 0.5) / 2 = 0.25
    bco = (2 * -math.log(sig(0.75)) - math.log(sig(0.75))) / 2
    assert float(loss_of(options_for("bco", **weighted), inputs)) == pytest.approx(bco, rel=1e-6)


def test_z0_of_kto_is_never_below_zero() -> None:
    inputs = rows(["desirable", "kl"], [0, 0], log_probs([[-1.0], [-9.0]]), log_probs([[-1.0], [-1.0]]))
    assert float(loss_of(options_for("kto", beta=1.0), inputs)) == pytest.approx(0.5)


def test_plackett_luce_by_hand() -> None:
    # rewards 1, 0, -1 at beta 1, given out of order: log(e + 1 + e^-1) - 1 + log(1 + e^-1) - 0
    inputs = rows(
        ["rank-2", "rank-0", "rank-1"],
        [0, 0, 0],
        log_probs([[-3], [-1], [-2]]),
        log_probs([[-2], [-2], [-2]]),
    )
    value = math.log(math.e + 1 + math.exp(-1)) - 1 + math.log1p(math.exp(-1))
    output = compute(options_for("plackett_luce", beta=1.0), inputs)
    assert float(output.terms[0].values.sum()) == pytest.approx(value, rel=1e-6)
    assert (float(output.chosen), float(output.rejected)) == (1.0, -1.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_at_zero_margin_is_the_tables(name: str) -> None:
    roles, group_of = kind(name)
    texts = log_probs([[-0.4 - 0.1 * i, -1.0] for i in range(len(roles))])
    inputs = rows(roles, group_of, texts, texts)
    for extra in ({}, {"beta": 0.7}):
        options = options_for(name, **extra)
        expected = zero_margin(options)
        if expected is None:
            assert name in ("simpo", "alphapo", "orpo", "cpo", "sft", "unlikelihood", "hypo", "plackett_luce")
        else:
            assert float(loss_of(options, inputs)) == pytest.approx(expected, rel=1e-6)


def test_value_at_zero_margin_of_a_sum() -> None:
    options = options_for("sigmoid", loss_type=["sigmoid", "hinge"], loss_weights=[2.0, 0.5])
    assert zero_margin(options) == pytest.approx(2 * math.log(2) + 0.5)
    assert zero_margin(options_for("sigmoid", loss_type=["sigmoid", "sft"])) is None


def test_without_a_reference_its_log_probs_are_zero() -> None:
    # RefDPO's posterior objective: -log sigma(beta (p_w - p_l)) = log(1 + e^-0.2)
    inputs = pairs([([-1.0], [-3.0])], None)
    assert float(loss_of(options_for("sigmoid"), inputs)) == pytest.approx(0.5981389, rel=1e-6)
