"""The explanations are arithmetic on the run's own numbers."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.reports.folders import make_run
from tether.records.results import write_lines
from tether.reports.contents import RunContents, read_contents
from tether.reports.explain import Change, Movement, beta_text, movement_of, movement_table, movement_text


def run_with(tmp_path: Path, lines: list[dict[str, Any]], **changes: Any) -> RunContents:
    run = make_run(tmp_path / "run", measurements=(), **changes)
    write_lines(run / "metrics.jsonl", lines)
    return read_contents(run)


def held_out(step: int, chosen: float, rejected: float, **more: float) -> dict[str, Any]:
    return {
        "step": step,
        "phase": "eval",
        "eval_rewards/chosen": chosen,
        "eval_rewards/rejected": rejected,
        **more,
    }


def test_when_both_fall_each_side_gets_its_share_of_the_margin(tmp_path: Path) -> None:
    moved = movement_of(run_with(tmp_path, [held_out(0, 0.0, 0.0), held_out(9, -0.42, -1.35)]))
    assert moved is not None and moved.both_fell
    assert moved.gained.amount == pytest.approx(0.93) and moved.gained.se is None
    text = " ".join(movement_text(moved, kl_measured=False))
    assert (
        "chosen answers' by 0.42" in text and "rejected answers' by 1.35" in text and "grew by 0.93" in text
    )
    assert "gives 145 %" in text and "takes 45 % back" in text
    assert movement_table(moved).rows[2][1:4] == ("+0.930", "+0.930 (100 %)", "+9.3")


def test_a_rise_and_a_fall_are_named_as_such(tmp_path: Path) -> None:
    moved = movement_of(run_with(tmp_path, [held_out(0, 0.0, 0.0), held_out(9, 0.2, -0.3)]))
    assert moved is not None and not moved.both_fell
    text = movement_text(moved, kl_measured=True)[0]
    assert (
        "chosen answers rose by 0.2" in text
        and "rejected answers fell by 0.3" in text
        and "rose by 0.5" in text
    )


def test_a_move_within_its_error_is_no_move(tmp_path: Path) -> None:
    errors = {"eval_rewards/chosen_se": 0.005, "eval_rewards/rejected_se": 0.004}
    lines = [held_out(0, 0.0, 0.0, **dict.fromkeys(errors, 0.0)), held_out(9, -0.0097, -0.025, **errors)]
    moved = movement_of(run_with(tmp_path, lines))
    assert moved is not None and not moved.both_fell  # 1.94 standard errors
    text = movement_text(moved, kl_measured=True)[0]
    assert "chosen answers did not move beyond its error (−0.010 ± 0.005)" in text
    assert "rejected answers fell by 0.025" in text


def test_a_margin_made_of_length_raises_the_alarm() -> None:
    sides = Change(-0.5), Change(-1.0), Change(0.5)
    moved = Movement(True, *sides, 0.5, 0.1, chosen_per_token=-0.2, rejected_per_token=-0.1)
    assert moved.by_length
    assert "the margin comes from the answers' lengths" in movement_text(moved, kl_measured=True)[1]
    fair = Movement(True, *sides, 0.5, 0.1, chosen_per_token=-0.1, rejected_per_token=-0.2)
    assert not fair.by_length and "not an effect of length" in movement_text(fair, kl_measured=True)[1]


def test_per_token_factors_are_exponentials_of_the_log_ratio(tmp_path: Path) -> None:
    name = "eval_logratios/"
    ends = {f"{name}chosen": -0.168, f"{name}rejected": -0.519}
    lines = [held_out(0, 0, 0, **dict.fromkeys(ends, 0.0)), held_out(9, -0.42, -1.35, **ends)]
    moved = movement_of(run_with(tmp_path, lines))
    assert moved is not None
    text = movement_text(moved, kl_measured=True)[1]
    assert f"{math.exp(-0.168):.3f} times" in text and f"{math.exp(-0.519):.3f} times" in text


def test_without_held_out_rows_training_rows_speak_and_say_so(tmp_path: Path) -> None:
    lines = [
        {"step": step, "phase": "train", "rewards/chosen": -step / 20, "rewards/rejected": -step / 10}
        for step in range(1, 21)
    ]
    moved = movement_of(run_with(tmp_path, lines))
    assert moved is not None and not moved.held_out
    assert moved.chosen.amount == pytest.approx(-(19.5 - 1) / 20)
    assert "training pairs (mean of the last tenth" in movement_text(moved, kl_measured=True)[0]


def test_supervised_runs_have_neither_margin_nor_beta(tmp_path: Path) -> None:
    contents = run_with(tmp_path, [{"step": 1, "phase": "train", "loss": 2.0}], objective={"name": "sft"})
    assert movement_of(contents) is None and beta_text(contents, None) == []


def test_beta_is_told_with_the_margin_of_this_run(tmp_path: Path) -> None:
    contents = run_with(tmp_path, [held_out(0, 0.0, 0.0), held_out(9, -0.42, -1.35)])
    text = " ".join(beta_text(contents, movement_of(contents)))
    assert "β is 0.1" in text and "larger is tighter" in text
    assert "margin of 0.93 is 9.3 nats" in text
    assert "β = 0.2 would have needed 4.65 nats" in text and "β = 0.05 would have needed 18.6" in text
    assert f"{1 / (1 + math.exp(0.93)):.2f} at the mean margin" in text


def test_without_a_reference_beta_holds_to_nothing(tmp_path: Path) -> None:
    contents = run_with(tmp_path, [held_out(0, -3, -3), held_out(9, -3.2, -4)], reference={"kind": "none"})
    text = " ".join(beta_text(contents, movement_of(contents)))
    assert (
        "holds the model to nothing" in text and "nats of log-probability" in text and "tighter:" not in text
    )
