"""The benchmark itself, end to end on a tiny model: both programs, three columns, memory, stages."""

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

from bench.__main__ import main
from bench.measure import columns_of
from bench.theirs import per_update
from bench.workloads import TRIAL


@pytest.mark.parity
def test_losses_of_micro_steps_join_by_pairs() -> None:
    assert per_update([(1.0, 2), (4.0, 1), (3.0, 2), (3.0, 2)], 2) == [2.0, 3.0]


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_a_trial_measures_both_programs(tmp_path: Path) -> None:
    assert main(["--trial", "--busy-ok", "--threads", "1", "--out", str(tmp_path)]) == 0
    (saved,) = tmp_path.glob("*.json")
    document = json.loads(saved.read_text())
    ratios = [f"{trial.name}: {name}" for trial in TRIAL for name in columns_of(trial)]
    assert sorted(document["ratios"]) == sorted(ratios)
