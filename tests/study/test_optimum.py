"""The exact optimum stands beside the frontier, and nothing lies above it."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.study.fixtures import make_study
from tether.study.collect import read_folder
from tether.study.frontier import optimum_points
from tether.study.optimum import BETAS, write_optimum
from tether.worlds import load_world
from tether.worlds.enumerable import Enumerable


def test_the_optimum_of_a_listed_world_is_kept_and_read(tmp_path: Path) -> None:
    make_study(tmp_path, betas=(1.0,), seeds=(0,))
    study = read_folder(tmp_path)
    assert optimum_points(study) == []
    world = load_world("enumerable-tiny")
    assert isinstance(world, Enumerable)
    model, tokenizer = world.base_model()
    assert write_optimum(tmp_path, world, model, tokenizer)
    points = optimum_points(study)
    assert [p.beta for p in points] == pytest.approx(BETAS)
    assert all(a.kl < b.kl and a.reward < b.reward for a, b in pairwise(points))
    exact = world.optimum(world.conditionals(model, tokenizer), points[8].beta)
    assert (points[8].kl, points[8].reward) == pytest.approx((exact.kl, exact.reward))
    # d reward / d KL along the optimum is beta: what the next nat buys.
    slope = (points[9].reward - points[7].reward) / (points[9].kl - points[7].kl)
    assert slope == pytest.approx(points[8].beta, rel=0.05)


def test_a_world_that_cannot_be_listed_has_none(tmp_path: Path) -> None:
    assert not write_optimum(tmp_path, load_world("sentiment"), None, None)
    assert not list(tmp_path.iterdir())
