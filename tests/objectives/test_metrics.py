"""Metrics are per-pair vectors with TRL's names and definitions; ties count one half."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.batches import from_tokens, log_probs, one_pair, options_for, pairs, random_rows, rows
from tether.objectives import OBJECTIVES
from tether.objectives.metrics import margin_decomposition, pair_metrics, tie_tolerance


def test_rewards_are_beta_times_log_ratios_for_every_objective() -> None:
    inputs = one_pair(-1.0, -3.0, -2.0, -2.5)
    for name in OBJECTIVES:
        if OBJECTIVES[name].reads != "pairs":
            continue
        metrics = pair_metrics(inputs, options_for(name, beta=0.2))
        values = {key: float(value) for key, value in metrics.items()}
        assert values["rewards/chosen"] == pytest.approx(0.2)
        assert values["rewards/rejected"] == pytest.approx(-0.1)
        assert values["rewards/margins"] == pytest.approx(0.3)
        assert values["rewards/accuracies"] == 1
        assert (values["logps/chosen"], values["logps/rejected"]) == (-1.0, -3.0)
        assert values["policy_accuracy"] == 1
        assert values["ties"] == 0


def test_objective_scores_are_what_the_loss_compared() -> None:
    inputs = pairs([([-1.0, -2.0], [-3.0])], [([-2.0, -3.0], [-2.5])])
    metrics = pair_metrics(inputs, options_for("simpo", beta=2.0))
    assert float(metrics["objective/chosen"]) == pytest.approx(-3.0)
    assert float(metrics["objective/rejected"]) == pytest.approx(-6.0)
    assert float(metrics["objective/margin"]) == pytest.approx(3.0)
    assert float(metrics["rewards/margins"]) == pytest.approx(2 * 2.5)
    assert float(metrics["logratios/chosen"]) == pytest.approx(1.0)
    assert float(metrics["logratios/rejected"]) == pytest.approx(-0.5)


def test_without_a_reference_rewards_are_beta_times_log_probs() -> None:
    metrics = pair_metrics(pairs([([-1.0], [-3.0])], None), options_for("sigmoid"))
    assert float(metrics["rewards/chosen"]) == pytest.approx(-0.1)
    assert float(metrics["rewards/margins"]) == pytest.approx(0.2)


def test_accuracy_is_one_half_where_policy_and_reference_agree() -> None:
    inputs = random_rows("sigmoid", 0, spread=0.0)
    metrics = pair_metrics(inputs, options_for("sigmoid"))
    assert metrics["rewards/accuracies"].tolist() == [0.5] * 5
    assert metrics["ties"].tolist() == [1.0] * 5
    rounded = replace(inputs, policy=replace(inputs.policy, sums=inputs.policy.sums * (1 + 2.0**-23)))
    assert pair_metrics(rounded, options_for("sigmoid"))["rewards/accuracies"].tolist() == [0.5] * 5
    moved = replace(inputs, policy=replace(inputs.policy, sums=inputs.policy.sums + torch.arange(10) * 1e-2))
    assert pair_metrics(moved, options_for("sigmoid"))["rewards/accuracies"].tolist() == [0.0] * 5


def test_tolerance_follows_dtype_tokens_and_size() -> None:
    policy = log_probs([[-0.1] * 100, [-0.1] * 300])
    inputs = rows(["chosen", "rejected"], [0, 0], policy, policy)
    # sqrt(400) steps of the token values, and one fp32 step of sums 10 + 30 on either side
    step = 2.0**-23
    assert float(tie_tolerance(inputs)) == pytest.approx(20 * step + 80 * step, rel=1e-5)
    coarse = float(tie_tolerance(inputs, torch.bfloat16))
    assert coarse == pytest.approx(20 * 2.0**-7 + 80 * step, rel=1e-5)


def test_metrics_are_the_same_for_any_cut_of_the_batch() -> None:
    inputs = random_rows("sigmoid", 2)
    whole = pair_metrics(inputs, options_for("sigmoid"))
    for pair in range(5):
        index = torch.tensor([2 * pair, 2 * pair + 1])
        assert inputs.reference is not None
        part = rows(["chosen", "rejected"], [0, 0], inputs.policy[index], inputs.reference[index])
        for name, value in pair_metrics(part, options_for("sigmoid")).items():
            assert float(value) == pytest.approx(float(whole[name][pair]), rel=1e-6, abs=1e-7), name


def test_unpaired_rows_report_each_kind() -> None:
    metrics = pair_metrics(random_rows("kto"), options_for("kto"))
    assert metrics["rewards/chosen"].shape == (3,) and metrics["rewards/rejected"].shape == (2,)
    assert metrics["logratios/mismatched"].shape == (5,)
    assert "rewards/margins" not in metrics


def test_single_completions_report_no_pairs() -> None:
    policy = from_tokens(torch.tensor([-1.0, -2.0]), torch.tensor([1, 1]))
    inputs = rows(["completion", "completion"], [0, 1], policy, None)
    assert pair_metrics(inputs, options_for("sft")) == {}


def test_lists_report_best_against_worst() -> None:
    inputs = rows(
        ["rank-1", "rank-2", "rank-0"],
        [0, 0, 0],
        log_probs([[-2], [-3], [-1]]),
        log_probs([[-2], [-2], [-2]]),
    )
    metrics = pair_metrics(inputs, options_for("plackett_luce", beta=0.5))
    assert float(metrics["rewards/chosen"]) == 0.5 and float(metrics["rewards/rejected"]) == -0.5


def test_metrics_carry_no_graph() -> None:
    inputs = random_rows("sigmoid")
    sums = inputs.policy.sums.clone().requires_grad_(True)
    held = replace(inputs, policy=replace(inputs.policy, sums=sums))
    assert not any(value.requires_grad for value in pair_metrics(held, options_for("sigmoid")).values())


@pytest.mark.parametrize(
    ("chosen", "rejected", "share", "both", "words"),
    [
        (0.3, -0.1, 0.75, False, "75 %"),
        (-0.1, -0.4, -1 / 3, True, "pushing rejected texts down"),
        (-0.4, -0.1, None, True, "no margin is left"),
        (0.2, 0.2, None, False, "no margin yet"),
        (0.4, 0.1, 4 / 3, False, "%"),
    ],
)
def test_margin_is_split_between_both_sides(
    chosen: float, rejected: float, share: float | None, both: bool, words: str
) -> None:
    split = margin_decomposition({"logratios/chosen": chosen, "logratios/rejected": rejected})
    assert split.both_fell is both
    assert split.chosen_share == (None if share is None else pytest.approx(share))
    assert words in split.explain()
