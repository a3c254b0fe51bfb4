"""The exact optimum stands beside the frontier of every study in a listed world; nothing is above it."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.study.conftest import Told, run_here, tiny_world, world_study
from tether.config.study import StudyConfig, build_study
from tether.records.results import read_lines, write_lines
from tether.study.collect import read_folder
from tether.study.frontier import optimum_points
from tether.study.optimum import BETAS, optimum_of
from tether.study.questions import findings
from tether.study.report import write_study_report


def study(folder: Path, **options: object) -> Path:
    """Run one small study in the tiny world; return its folder."""
    values = {"beta": [1.0, 0.1], "learning_rate": [1e-2], "max_steps": 3, "samples_per_prompt": 8}
    config = world_study(folder, pairs=24, **{**values, **options})
    run_here(config)
    return Path(config.output_dir)


def test_the_optimum_is_what_the_world_says_it_is() -> None:
    world = tiny_world()
    model, tokenizer = world.base_model()
    points = optimum_of(world, model, tokenizer)
    assert [p.beta for p in points] == pytest.approx(BETAS)
    assert all(a.kl < b.kl and a.reward < b.reward for a, b in pairwise(points))
    exact = world.optimum(world.conditionals(model, tokenizer), points[8].beta)
    assert (points[8].kl, points[8].reward) == pytest.approx((exact.kl, exact.reward))
    # d reward / d KL along the optimum is beta: what the next nat buys.
    slope = (points[9].reward - points[7].reward) / (points[9].kl - points[7].kl)
    assert slope == pytest.approx(points[8].beta, rel=0.05)


@pytest.mark.parametrize("judge", [None, "world:enumerable-tiny"])
def test_a_study_in_a_listed_world_has_it_without_asking_on_the_page_and_as_csv(
    tmp_path: Path, judge: str | None
) -> None:
    folder = study(tmp_path, evaluators=["world:enumerable-tiny"], **({"judge": judge} if judge else {}))
    found = findings(folder)
    assert len(found.optimum) == len(BETAS) and found.judge == ("gold_reward" if judge else None)
    kl, reward = (np.array([getattr(p, name) for p in found.optimum]) for name in ("kl", "reward"))
    start = found.start["score:gold_reward"]
    assert start is not None
    for cell in (p for p in found.frontier if p.setting):
        # Exact, so nothing may lie above it but by the error of the samples.
        best = np.interp(cell.kl, [0.0, *kl], [start, *reward])
        assert cell.score <= best + 4 * (cell.score_se or 0.0) + 4 * (cell.kl_se or 0.0)
    write_study_report(folder)
    assert "exact optimum" in (folder / "plots" / "frontier.csv").read_text()
    assert "exact optimum" in (folder / "report.html").read_text()


def test_a_study_measured_before_gets_it_and_nothing_is_trained_again(tmp_path: Path) -> None:
    folder = study(tmp_path, beta=[0.1], evaluators=["world:enumerable-tiny"])
    path = folder / "shared" / "optimum.jsonl"
    before = path.read_text()
    path.unlink()
    options = {"output_dir": str(folder), **json.loads((folder / "study.json").read_text())["config"]}
    told = Told()
    run_here(build_study(options), told)
    assert path.read_text() == before
    assert not [event for event in told.events if event["event"] == "step"]


def test_worlds_that_cannot_be_listed_have_none(
    make_study: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    run_here(make_study(beta=[0.1], evaluators=["world:sentiment"]))
    assert not (tmp_path / "study" / "shared" / "optimum.jsonl").exists()
    assert optimum_points(read_folder(tmp_path / "study")) == []


def test_scores_of_another_judge_are_not_beside_it(tmp_path: Path) -> None:
    folder = study(tmp_path, judge="length", evaluators=["world:enumerable-tiny"])
    write_study_report(folder)
    assert list(read_lines(folder / "shared" / "optimum.jsonl"))
    assert "exact optimum" not in (folder / "plots" / "frontier.csv").read_text()


def test_an_empty_optimum_stands_for_a_tokenizer_that_spells_otherwise(tmp_path: Path) -> None:
    folder = study(tmp_path, beta=[0.1], evaluators=["world:enumerable-tiny"])
    write_lines(folder / "shared" / "optimum.jsonl", [])
    assert findings(folder).optimum == ()
