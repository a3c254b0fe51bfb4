"""Twenty updates, step by step, as they were when the trajectories were stored (see `make_golden`).

Tolerance: one build of torch on one vector width repeats a run to the last bit; 1e-6 relative leaves room
for another build that orders a few fp32 sums differently (2^-24 = 6e-8 relative each). Another vector width
orders all of them differently: without vectors (ATEN_CPU_CAPABILITY=default) losses move by 1e-6 and gradient
norms by up to 1.1e-5, so 5e-5 there. Of changes of method the least visible, weight decay switched off, moves
losses by 3e-4.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.make_golden import CASES, FOLDER, STORED, machine, trajectory

SAME_WIDTH, OTHER_WIDTH = 1e-6, 5e-5
# Values that start at exactly zero: rounding of a log-prob sum of some 250 nats, 16 units in the last place.
ABSOLUTE = {"rewards/margins": 5e-5}

pytestmark = pytest.mark.golden


def stored(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_a_trajectory_is_the_stored_one(name: str, tmp_path: Path) -> None:
    golden = stored(name)
    if golden["machine"].split()[0] != machine().split()[0]:
        pytest.skip(f"stored on {golden['machine']}, this is {machine()}")
    relative = SAME_WIDTH if golden["machine"] == machine() else OTHER_WIDTH
    found = trajectory(name, tmp_path / "run")
    assert len(found) == len(golden["steps"]) == 20
    for step, (now, then) in enumerate(zip(found, golden["steps"], strict=True), start=1):
        assert now.keys() == then.keys()
        for key in now:
            assert now[key] == pytest.approx(then[key], rel=relative, abs=ABSOLUTE.get(key, 0)), (step, key)


@pytest.mark.parametrize("name", CASES)
def test_a_stored_trajectory_learns_and_holds_what_is_compared(name: str) -> None:
    steps = stored(name)["steps"]
    assert sum(s["loss"] for s in steps[-5:]) < sum(s["loss"] for s in steps[:5])
    assert set(steps[0]) <= set(STORED) and {"loss", "grad_norm", "learning_rate"} <= set(steps[0])
    assert steps[0]["learning_rate"] == 0.0 < steps[3]["learning_rate"]


def test_no_trajectory_is_stored_without_its_case() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)
