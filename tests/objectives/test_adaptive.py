"""Objectives that remember or draw: what they keep between updates, whom they draw, when they stand still."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.batches import one_pair, options_for, pairs, random_rows
from tether.errors import UsageError
from tether.objectives import compute, next_state, zero_margin
from tether.records.tensors import LossInputs, Tilted


def margins_of(*values: float) -> LossInputs:
    """Pairs of one-token texts whose log-ratio margins are these."""
    return pairs([([v - 10], [-10]) for v in values], [([-10], [-10])] * len(values))


def test_beta_follows_the_margin_above_its_running_mean() -> None:
    options = options_for("beta_dpo", beta=0.5, beta_dpo_alpha=0.6, beta_dpo_keep=1.0)
    first = margins_of(1.0, 3.0)
    # By hand: mean 2, running mean 0.9 x 0 + 0.1 x 2 = 0.2, beta 0.5 (1 + 0.6 x 1.8) = 1.04.
    assert compute(options, first).beta == pytest.approx(torch.tensor([1.04, 1.04]))
    state = next_state(options, first)
    assert state == pytest.approx(
        {"beta_dpo_mean": 0.2, "beta_dpo_deviation": 0.1 * 2**0.5, "beta_dpo_updates": 1.0}
    )
    second = replace(margins_of(2.0, 2.0), state=state)
    # Running mean 0.9 x 0.2 + 0.1 x 2 = 0.38; beta 0.5 (1 + 0.6 x 1.62) = 0.986.
    assert compute(options, second).beta == pytest.approx(torch.tensor([0.986, 0.986]))


def test_held_out_rows_neither_move_the_state_nor_are_filtered() -> None:
    options = options_for("beta_dpo", beta=0.5, beta_dpo_alpha=0.6, beta_dpo_keep=0.5)
    state = {"beta_dpo_mean": 1.0, "beta_dpo_deviation": 1.0, "beta_dpo_updates": 7.0}
    held_out = replace(margins_of(1.0, 2.0, 3.0), state=state, training=False)
    output = compute(options, held_out)
    assert output.beta == pytest.approx(torch.full((3,), 0.8))  # 0.5 (1 + 0.6 (2 - 1))
    assert (output.terms[0].values > 0).all()


def test_beta_has_a_floor() -> None:
    options = options_for("beta_dpo", beta=0.1, beta_dpo_alpha=1.0)
    assert compute(options, margins_of(-50.0, -50.0)).beta == pytest.approx(torch.full((2,), 1e-3))


def test_the_draw_keeps_its_share_repeats_itself_and_prefers_the_usual_margin() -> None:
    options = options_for("beta_dpo", beta_dpo_keep=0.8)
    usual = {"beta_dpo_mean": 0.0, "beta_dpo_deviation": 1.0}
    kept = torch.zeros(10)
    for update in range(400):
        inputs = replace(margins_of(*([0.0] * 9), 2.0), state={**usual, "beta_dpo_updates": float(update)})
        values = compute(options, inputs).terms[0].values
        assert torch.equal(values, compute(options, inputs).terms[0].values)
        assert int((values > 0).sum()) == 8
        kept += values > 0
    # Nine alike pairs share alike; the far one, at about two deviations (weight about e^-2), goes oftenest.
    assert kept[9] < 200 < kept[:9].min()
    # 400 draws of probability about 0.85: five standard errors are 36.
    assert kept[:9].max() - kept[:9].min() < 72


def test_the_mean_over_kept_pairs_is_what_is_minimised() -> None:
    options = options_for("beta_dpo", beta_dpo_keep=0.5)
    inputs = random_rows("beta_dpo", 3)
    values = compute(options, inputs).terms[0].values
    all_of_them = compute(options_for("beta_dpo", beta=float(compute(options, inputs).beta[0]),
                                      beta_dpo_alpha=0.0), inputs).terms[0].values  # fmt: skip
    kept = values > 0
    assert int(kept.sum()) == 2
    assert float(values.sum() / 5) == pytest.approx(float(all_of_them[kept].mean()), rel=1e-6)


def test_a_pair_is_held_looser_or_tighter_by_what_tilting_does() -> None:
    options = options_for("epsilon_dpo", beta=1.0, epsilon_dpo_epsilon=0.25)
    plain = pairs([([-1.0], [-3.0])] * 3, [([-2.0], [-2.5])] * 3)
    # Margins of the policy: 2 each. Tilted away: 2.5, 1.5, 2.5; towards: 1.5, 2.5, 2.5.
    away = torch.tensor([-1.0, -3.5, -1.0, -2.5, -1.0, -3.5])
    towards = torch.tensor([-1.0, -2.5, -1.0, -3.5, -1.0, -3.5])
    output = compute(options, replace(plain, tilted=Tilted(away, towards)))
    assert output.beta == pytest.approx(torch.tensor([1 / 1.25, 1 / 0.75, 1.0]))


def test_epsilon_dpo_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="live model; use reference self or model:PATH"):
        compute(options_for("epsilon_dpo"), replace(one_pair(-1.0, -2.0), tilted=None))


def test_the_running_shift_is_the_mean_of_all_rewards_so_far() -> None:
    options = options_for("bco_pair", beta=1.0, bco_delta="running")
    first = pairs([([-1.0], [-3.0])], [([-2.0], [-2.5])])  # rewards 1 and -0.5
    assert float(compute(options, first).chosen) == pytest.approx(1 - 0.25)
    state = next_state(options, first)
    assert state == {"bco_sum": 0.5, "bco_count": 2.0}
    second = replace(pairs([([-1.0], [-1.0])], [([-4.0], [-2.0])]), state=state)  # rewards 3 and 1
    assert float(compute(options, second).chosen) == pytest.approx(3 - 4.5 / 4)
    held_out = replace(second, training=False)
    assert float(compute(options, held_out).chosen) == pytest.approx(3 - 0.25)


def test_objectives_without_memory_have_none() -> None:
    assert next_state(options_for("sigmoid"), random_rows("sigmoid")) == {}
    assert zero_margin(options_for("beta_dpo")) == zero_margin(options_for("sigmoid"))
