"""What a model is worth in the worlds' studies is the listed world's own arithmetic, in any process."""

from pathlib import Path

import pytest

from studies.run import exact_start, exact_values, exactly
from tether.worlds import WORLDS, Enumerable


def test_a_start_model_is_worth_what_enumeration_says(tmp_path: Path) -> None:
    world = WORLDS["enumerable-tiny"]
    assert isinstance(world, Enumerable)
    world.make(tmp_path / "world", pairs=8, eval_pairs=4)
    model = tmp_path / "world" / "model"
    found = exact_values(world.name, tmp_path, "tight", [])
    assert found == {model: exactly(world, model, exact_start(world, tmp_path))}
    assert found[model]["kl"] == pytest.approx(0.0, abs=1e-12)
