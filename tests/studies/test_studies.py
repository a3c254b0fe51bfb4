"""The worlds' studies: plans that can be run, claims and rules judged as a reader would, references."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies.choosing import WON, choices, with_verdicts
from studies.claims import CLAIMS, Table, inverted_u, judged
from studies.objectives import at_equal_kl, objectives
from studies.page import _told, page
from studies.references import temperature_of, tilted, writer
from studies.regrets import conclusion, outcome
from studies.run import ROOT, read_plan
from tests.study.fixtures import Shape, make_study
from tether.config.study import build_study
from tether.records.results import write_lines
from tether.study.collect import GOLD, read_folder
from tether.study.grid import cells
from tether.worlds import load_world
from tether.worlds.enumerable import Enumerable

PLANS = sorted((ROOT / "studies").glob("*.yaml"))


def rows(study: str, reward: dict[float, list[float]], **more: Any) -> list[dict[str, Any]]:
    start = {"cell": "start", "study": study, "reward": 0.0, "tokens": 5.0, "fluent": 0.9}
    given = {"loss_type": "sigmoid", "reference": "self", "policy_accuracy": 0.5, "chosen_log_ratio": -1.0,
             "tokens": 5.0, "fluent": 0.9, "kl": 1.0, "degenerate": [], **more}  # fmt: skip
    made = [
        {"study": study, "cell": f"{beta}-{seed}", "beta": beta, "seed": seed, "reward": value, **given}
        for beta, values in reward.items()
        for seed, value in enumerate(values)
    ]
    return [start, *made]


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_every_plan_is_a_study_and_every_claim_has_a_judgement(path: Path, quick: bool) -> None:
    plan = read_plan(path, quick=quick)
    assert {claim["id"] for claim in plan["claims"]} <= set(CLAIMS)
    assert quick or len(plan["seeds"]) == 5
    whole = read_plan(path, quick=quick, every_world=True)
    assert len(whole["worlds"]) == 3 and set(plan["worlds"]) <= set(whole["worlds"])
    for grid in plan["studies"].values():
        given = {k: v for k, v in grid.items() if k != "labels"}
        given["reference"] = [r if r in ("self", "none", "prior") else f"model:{r}"
                              for r in given.get("reference", ["self"])]  # fmt: skip
        values = {
            "model": "m",
            "data": "d",
            "output_dir": "o",
            "seed": plan["seeds"],
            **plan["train"],
            **given,
        }
        assert cells(build_study(values))[0]


def test_an_inside_best_is_an_inverted_u_and_an_end_is_not() -> None:
    inside = Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.9, 1.0], 0.01: [0.3, 0.4]})))
    found = inverted_u(inside)
    assert found.verdict == "supported" and found.estimate == pytest.approx(0.6)
    rising = Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.3, 0.4], 0.01: [0.9, 1.0]})))
    found = inverted_u(rising)
    assert found.verdict == "contradicted" and found.estimate == pytest.approx(-0.6)


def test_an_end_that_looks_best_by_luck_contradicts_nothing() -> None:
    flat = Table(tuple(rows("tight", {1: [0.1, 0.5], 0.1: [0.3, 0.4], 0.01: [0.2, 0.6]})))
    found = inverted_u(flat)
    assert found.verdict == "not distinguishable" and "best of all 0.01, an end" in found.words
    draws = np.random.default_rng(0).normal(size=(300, 6, 5))
    grid = (3, 1, 0.3, 0.1, 0.03, 0.01)
    verdicts = Counter(
        inverted_u(Table(tuple(rows("tight", dict(zip(grid, d.tolist(), strict=True)))))).verdict
        for d in draws
    )
    # 2.5 % each and three binomial standard errors of 300, for two ends: a third was contradicted before.
    assert verdicts["supported"] <= 16 and verdicts["contradicted"] <= 31


def test_an_inverted_u_is_as_sure_as_its_less_sure_end() -> None:
    noisy = {1: [0.5, 0.5], 0.1: [1.0, 1.0], 0.01: [-9.0, 0.9]}  # further below, and known less
    found = inverted_u(Table(tuple(rows("tight", noisy))))
    assert found.verdict == "not distinguishable"


def test_half_of_no_gain_is_not_reached_by_shuffled_labels() -> None:
    given = rows("which", {3: [-0.4, -0.5]}, reference="similar")
    mixed = rows("shuffled", {3: [-0.1, -0.1]}, reference="similar")[1:]
    found = CLAIMS["margin-copying"](Table((*given, *mixed)))
    assert found.verdict == "not distinguishable" and "nothing gained" in found.words


def test_missing_seeds_are_said() -> None:
    table = Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.9, 1.0], 0.01: [0.3, 0.4]})))
    assert _told("inverted-u", table, 5).endswith("; 2 of 5 seeds")
    assert "seeds" not in _told("inverted-u", table, 2)


def test_intervals_are_t_intervals_over_seeds() -> None:
    # mean 2, sd 1, n 3: half width 4.3027 / sqrt(3)
    found = judged([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 2.48414, abs=1e-4)
    assert found.verdict == "not distinguishable"
    assert judged([2.0, 2.1, 1.9]).verdict == "supported"
    assert judged([-2.0, -2.1, -1.9]).verdict == "contradicted"
    assert judged([5.0]).verdict == "not distinguishable"


def test_what_was_not_run_is_said() -> None:
    table = Table(tuple(rows("tight", {1: [0.1, 0.2], 0.1: [0.9, 1.0]})))
    assert _told("similar-helps", table, 2) == "not run"


def test_objectives_are_compared_at_their_own_best_and_at_equal_kl() -> None:
    """By hand: DPO gains 1 at 1 nat and 2 at 4, so 1.5 at 2.25, where the other side's best gains 1.2."""
    entropy = {"entropy": 1.0}
    own = [
        *rows("needed", {10: [1.0, 1.0]}, kl=1.0, **entropy),
        *rows("needed", {0.1: [2.0, 2.0], 0.03: [1.5, 1.7]}, kl=4.0, **entropy)[1:],
        *rows("needed", {0.1: [1.1, 1.3], 1: [0.2, 0.2]}, kl=2.25, reference="none", **entropy)[1:],
        *rows("needed", {1: [0.2, 0.2]}, kl=9.0, loss_type="cpo", reference="none", **entropy)[1:],
    ]
    told = objectives({"here": Table(tuple(own))}).rstrip().splitlines()[-3:]
    assert told[0].startswith("| here | DPO | 0.1 | 2.00 |  |  | 4.00 | 5.00 |")
    assert told[1].startswith(
        "| here | posterior | 0.1 (end) | 1.20 | -0.80 (-2.07 to 0.47) | -0.30 (-1.57 to 0.97) |"
    )
    assert "beyond DPO's KL in 2 of 2 seeds" in told[2] and told[2].startswith("| here | CPO | 1 (end)")
    assert objectives({"here": Table(tuple(rows("tight", {1: [0.1]})))}) == ""
    points = [{"kl": 0.0, "reward": 0.0}, {"kl": 4.0, "reward": 2.0}]
    assert at_equal_kl({0: {"kl": 1.0, "reward": 1.5}}, {0: points}) == pytest.approx([0.5])


def test_references_are_compared_with_self_at_the_same_betas() -> None:
    own = rows("tight", {3: [0.1, 0.2], 0.1: [0.5, 0.6], 0.03: [2.0, 2.1]})
    other = rows("which", {3: [0.8, 1.0], 0.1: [0.3, 0.4]}, reference="similar")
    found = CLAIMS["similar-helps"](Table((*own, *other[1:])))
    # 0.03 was not run with the other reference: 3 and 0.1 are compared, (0.3 + 0.4) / 2.
    assert found.estimate == pytest.approx(0.35) and found.words.startswith("best beta 3 and 0.1; ")
    # 0.03 is self's own best, and is said: (0.8 - 2.0 + 1.0 - 2.1) / 2.
    assert "self is best at 0.03, not tried with similar, whose best less that is -1.15" in found.words


def line(choice: float | None, looking: float, *, seed: int = 0, study: str = "tight") -> dict[str, Any]:
    return {"study": study, "seed": seed, "rule": "judged", "scorer": None, "choice": choice,
            "best_looking": looking}  # fmt: skip


def test_recommending_none_gives_the_whole_gain_away() -> None:
    table = Table(
        tuple(rows("tight", {1: [0.5, 0.2], 0.1: [1.0, 0.4], 0.01: [-1.0, -1.0]})),
        (
            line(1, 0.1),
            line(None, 0.1, seed=1),
            line(0.1, 0.1, study="control"),
            line(None, 1, study="control"),
        ),
    )
    found = outcome(table, ("judged", None))
    assert found is not None
    assert found.shares == (0.5, 1.0) and found.looked == (0.0, 0.0) and not found.kept
    assert (found.alarms, found.controls) == (1, 2)
    assert outcome(table, ("ranking", None)) is None


def test_where_nothing_gained_there_is_nothing_to_choose() -> None:
    table = Table(tuple(rows("tight", {1: [-0.5], 0.1: [-1.0]})), (line(None, 1),))
    assert outcome(table, ("judged", None)) is None


def test_only_worlds_not_looked_at_put_a_rule_into_use() -> None:
    won = [{**line(0.1, 0.1), "rule": "ranking"}]
    good = Table(tuple(rows("tight", {1: [0.5], 0.1: [1.0]})), tuple(won))
    assert "needs a judge" in conclusion({"enumerable-1": good}, 0.1)
    assert conclusion({"enumerable-1": good, "sentiment": good}, 0.1).startswith("ranking keeps")
    bad = Table(good.rows, ({**won[0], "choice": 1},))
    assert "needs a judge" in conclusion({"enumerable-1": good, "sentiment": good, "dialogue": bad}, 0.1)
    assert "needs a judge" in conclusion({"enumerable-1": bad, "sentiment": good}, 0.1)
    alarm = Table(good.rows, (*won, {**won[0], "study": "control"}))
    assert "needs a judge" in conclusion({"enumerable-1": good, "sentiment": alarm}, 0.1)


def test_rules_choose_seed_by_seed_and_the_judge_is_as_noisy_as_the_labels(tmp_path: Path) -> None:
    make_study(tmp_path, seeds=(0, 1), shape=Shape(prompts=60, samples_per_prompt=4))
    against = np.random.default_rng(7).normal(-0.5, 1.0, 60 * 4)
    found = choices(tmp_path, against)
    assert [(c["seed"], c["rule"]) for c in found] == [
        (seed, rule) for seed in (0, 1) for rule in ("judged", "ranking")
    ]
    assert all(c["best_looking"] in (1.0, 0.3, 0.1, 0.03, 0.01) for c in found)
    study = with_verdicts(read_folder(tmp_path), against)
    won = np.concatenate([cell.samples.scores[WON] for cell in study.cells])
    gap = np.concatenate([cell.samples.scores[GOLD] - against for cell in study.cells])
    chance = 1 / (1 + np.exp(-gap))
    assert set(won) == {0.0, 1.0}
    assert won.mean() == pytest.approx(chance.mean(), abs=4 * 0.5 / len(won) ** 0.5)
    one, other = (
        with_verdicts(replace(study, cells=(replace(cell, record=record),)), against)
        for cell in study.cells[:1]
        for record in (cell.record, next(c.record for c in study.cells if c.seed != cell.seed))
    )
    assert list(one.cells[0].samples.scores[WON]) != list(other.cells[0].samples.scores[WON])


def test_dissimilar_texts_are_as_good_as_asked_and_drawn_by_the_law() -> None:
    world = load_world("enumerable-tiny")
    assert isinstance(world, Enumerable)
    rewards = world.language.rewards
    wanted = float(rewards.mean()) + 0.8
    temperature = temperature_of(rewards, wanted)
    shares = tilted(rewards, temperature)
    assert shares.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert float((shares * rewards).sum(axis=1).mean()) == pytest.approx(wanted, abs=1e-9)
    # exp(r / t): two texts' odds are exp of their rewards' difference.
    assert np.log(shares[0, 3] / shares[0, 7]) == pytest.approx((rewards[0, 3] - rewards[0, 7]) / temperature)
    write, rng = writer(world, temperature), random.Random(1)
    drawn = Counter(write(rng) for _ in range(4000))
    best = int(shares[0].argmax())
    text = (world.language.prompts[0], world.language.sequence(best))
    share = float(shares[0, best]) / 2
    assert drawn[text] / 4000 == pytest.approx(share, abs=4 * (share / 4000) ** 0.5)


def test_the_page_says_what_each_rule_gave_away_and_draws_each_world(tmp_path: Path) -> None:
    place = tmp_path / "out" / "enumerable-1" / "tight"
    (place / "shared").mkdir(parents=True)
    made = rows("tight", {1: [0.5, 0.4], 0.1: [1.0, 0.9], 0.01: [-1.0, -1.2]}, learning_rate=1e-3,
                data_fraction=1.0)  # fmt: skip
    made[0] = {**made[0], "processor_seconds": 12.0}
    write_lines(place / "rows.jsonl", made)
    write_lines(place / "choices.jsonl", [line(0.1, 0.1), line(1, 0.1, seed=1)])
    write_lines(place / "shared" / "optimum.jsonl", [{"beta": 1.0, "kl": 0.5, "reward": 1.2}])
    plan = read_plan(ROOT / "studies" / "enumerable.yaml", quick=True)
    text = page([plan], tmp_path / "out", tmp_path / "results", command="make worlds-quick")
    assert "| judged | 28% (0.1, 1); 0% |" in text  # (0 + 5/9) / 2
    assert "| enumerable-1 | 12 | tight 12 (6 cells) |" in text
    for kind in ("beta", "frontier"):
        assert f"(results/enumerable-1-{kind}.svg)" in text
        assert "<svg" in (tmp_path / "results" / f"enumerable-1-{kind}.svg").read_text()
    assert "exact optimum" in (tmp_path / "results" / "enumerable-1-frontier.svg").read_text()


def test_an_optimum_beyond_the_cells_is_not_drawn() -> None:
    from studies.pictures import _frontier

    table = Table(tuple(rows("tight", {1: [0.5], 0.1: [1.0]})))
    far = replace(table, optimum=({"beta": 0.01, "kl": 9.0, "reward": 3.0},))
    assert "exact optimum" not in _frontier(far).to_json()
