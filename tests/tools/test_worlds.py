"""The worlds' studies: plans that can be run, and claims judged as a reader would judge the same numbers."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worlds_tool", ROOT / "tools" / "worlds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["worlds_tool"] = module
    spec.loader.exec_module(module)
    return module


def rows(study: str, reward: dict[float, list[float]], **more: Any) -> list[dict[str, Any]]:
    start = {"cell": "start", "study": study, "reward": 0.0, "tokens": 5.0, "fluent": 0.9}
    given = {"loss_type": "sigmoid", "reference": "self", "policy_accuracy": 0.5, "chosen_log_ratio": -1.0,
             "tokens": 5.0, "fluent": 0.9, **more}  # fmt: skip
    made = [
        {"study": study, "cell": f"{beta}-{seed}", "beta": beta, "seed": seed, "reward": value, **given}
        for beta, values in reward.items()
        for seed, value in enumerate(values)
    ]
    return [start, *made]


def test_every_plan_is_read_and_every_claim_has_a_judgement(worlds: ModuleType) -> None:
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        for quick in (False, True):
            plan = worlds.read_plan(path, quick=quick)
            assert {claim["id"] for claim in plan["claims"]} <= set(worlds.CLAIMS)
            assert len(plan["seeds"]) == (5 if not quick else len(plan["seeds"]))


def test_an_inside_best_is_an_inverted_u_and_an_end_is_not(worlds: ModuleType) -> None:
    inside = worlds.Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.9, 1.0], 0.01: [0.3, 0.4]})))
    found = worlds.inverted_u(inside)
    assert found.verdict == "supported" and found.estimate == pytest.approx(0.6)
    rising = worlds.Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.3, 0.4], 0.01: [0.9, 1.0]})))
    assert worlds.inverted_u(rising).verdict == "contradicted"


def test_intervals_are_t_intervals_over_seeds(worlds: ModuleType) -> None:
    # mean 2, sd 1, n 3: half width 4.3027 / sqrt(3)
    found = worlds.judged([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 2.48414, abs=1e-4)
    assert found.verdict == "not distinguishable"
    assert worlds.judged([2.0, 2.1, 1.9]).verdict == "supported"
    assert worlds.judged([-2.0, -2.1, -1.9]).verdict == "contradicted"
    assert worlds.judged([5.0]).verdict == "not distinguishable"


def test_what_was_not_run_is_said(worlds: ModuleType) -> None:
    table = worlds.Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.9, 1.0]})))
    assert worlds._told("similar-helps", table) == "not run"
