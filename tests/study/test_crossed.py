"""Cross-fitting: halves that share nothing, scores by hand and exact, senseless asks refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.study.boards import board
from tests.study.conftest import Here, Told, run_here, tiny_world, world_study
from tether.config.study import StudyConfig
from tether.data.checks import load
from tether.data.mix import halve
from tether.errors import DataError, UsageError
from tether.records.results import read_run
from tether.records.study import CROSS_FIT, cell_folder
from tether.reports.study_tables import rules_table, scorers_table
from tether.study import rules
from tether.study.bench import Bench
from tether.study.collect import read_folder
from tether.study.crossed import check_cross_fit, half_config
from tether.study.execute import run_study
from tether.study.grid import main_cells
from tether.study.plan import plan_study
from tether.study.questions import crossed_boards, findings
from tether.study.tables import Samples, read_table
from tether.training.run import train
from tether.worlds.exact import Conditionals, listed_log_probs, prefix_log_probs

SCORERS = (0.1, 0.03, 0.3)
BETAS = (1.0, 0.05)


def config_of(folder: Path, **options: object) -> StudyConfig:
    values = {
        "beta": list(BETAS),
        "learning_rate": [2e-2],
        "max_steps": 6,
        "samples_per_prompt": 200,
        "evaluators": ["world:enumerable-tiny"],
        "cross_fit": list(SCORERS),
    }
    return world_study(folder, pairs=32, **{**values, **options})


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossed")
    record = run_here(config_of(folder))
    assert [cell.state for cell in record.cells] == ["finished"] * 2
    return folder / "study"


def tables(folder: Path) -> tuple[list[Samples], Samples]:
    study = read_folder(folder)
    paths = [cell.folder / "measures" / "crossed.parquet" for cell in study.cells]
    start = read_table(Samples, folder / "shared" / "scorers" / "start.parquet")
    return [read_table(Samples, path) for path in paths], start


def scorer(folder: Path, half: str, beta: float) -> Path:
    return folder / "shared" / "scorers" / f"{half}-beta{beta:g}" / "model"


def test_the_halves_share_no_pair_and_are_all_pairs(crossed: Path) -> None:
    study = read_folder(crossed)
    rows = load(str(study.record.config["dataset_name"])).rows
    halves = [halve(rows, half, 0)[0] for half in ("first", "second")]
    assert abs(len(halves[0]) - len(halves[1])) <= 4  # whole pairs, some of them several times
    assert sorted(r.row_id for half in halves for r in half) == sorted(r.row_id for r in rows)
    texts = [{(str(r.prompt), *sorted(str(c.content) for c in r.completions)) for r in h} for h in halves]
    assert not texts[0] & texts[1]
    for cell in study.cells:
        used = [read_run(cell.folder / "halves" / half).data["used"] for half in ("first", "second")]
        assert used == [len(half) for half in halves]


def test_a_sample_is_scored_by_the_model_of_the_other_half_and_by_hand(crossed: Path) -> None:
    (first, _), _ = tables(crossed)
    bench = Bench(config_of(crossed.parent))
    places = {row.row_id: i for i, row in enumerate(bench.rows.asked)}
    prompts = bench.asking(None)["prompt_ids"]
    start = AutoModelForCausalLM.from_pretrained(crossed.parent / "world" / "model")

    def logprob(model: torch.nn.Module, index: int) -> float:
        prompt, ids = prompts[places[first.row_id[index]]], first.token_ids[index]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))

    half = len(first.row_id) // 2
    for index, other in ((3, "second"), (half + 5, "first")):
        for beta in SCORERS:
            model = AutoModelForCausalLM.from_pretrained(scorer(crossed, other, beta))
            by_hand = beta * (logprob(model, index) - logprob(start, index))
            # fp32 log-probs of at most 4 tokens of size 10: 1e-5 is a hundred roundings.
            assert first.scores[f"cross_fitted:{beta:g}"][index] == pytest.approx(by_hand, abs=1e-5)


def expected(policy: Conditionals, ratio_of: Conditionals, start: Conditionals, beta: float) -> float:
    """Enumerate E_policy[beta (log scorer - log start)] over listed and cut samples."""

    def both(table: Conditionals) -> torch.Tensor:
        return torch.cat([listed_log_probs(table), prefix_log_probs(table)[-1]], dim=1)

    return float((both(policy).exp() * beta * (both(ratio_of) - both(start))).sum(1).mean())


def test_the_mean_score_is_the_exact_expectation(crossed: Path) -> None:
    world, (made, begin) = tiny_world(), tables(crossed)
    study = read_folder(crossed)

    def table(folder: Path) -> Conditionals:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        return world.conditionals(model, Bench(config_of(crossed.parent)).texts[0])

    start = table(crossed.parent / "world" / "model")
    scorers = {half: table(scorer(crossed, half, SCORERS[0])) for half in ("first", "second")}
    name = f"cross_fitted:{SCORERS[0]:g}"
    for cell, samples in [*zip(study.cells, made, strict=True), (None, begin)]:
        truth = 0.0
        for half, other in (("first", "second"), ("second", "first")):
            policy = start if cell is None else table(cell.folder / "halves" / half / "model")
            truth += expected(policy, scorers[other], start, SCORERS[0]) / 2
        values = samples.scores[name]
        # Strays (a token outside the world, below 1e-3) are in the samples and not in the sum.
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / len(values) ** 0.5)


def test_the_rule_its_cost_and_its_sensitivity_are_found_without_a_judge(crossed: Path) -> None:
    found = findings(crossed)
    assert found.judge is None and found.recommended is None
    assert [r.rule for r in found.rules] == ["cross-fitted", "ranking"]
    rule = found.rules[0]
    assert not rule.proven and rule.runs == len(BETAS) + len(SCORERS)
    assert rule.seconds is not None and rule.seconds > 0
    assert [s.beta for s in rule.sensitivity] == list(SCORERS)
    assert rule.sensitivity[0].choice == rule.choice
    shown, scorers = rules_table(found), scorers_table(found)
    assert shown is not None and scorers is not None
    assert [row[0] for row in scorers.rows] == ["0.1", "0.03", "0.3"]
    assert shown.rows[0][4] == "5.0" and shown.rows[1][4] == "none"


def test_scores_on_the_board_are_means_over_both_halves(crossed: Path) -> None:
    made, begin = tables(crossed)
    found = crossed_boards(read_folder(crossed))[SCORERS[0]]
    name = f"cross_fitted:{SCORERS[0]:g}"
    for row, table in enumerate([begin, *made]):
        prompts = dict.fromkeys(begin.row_id)
        means = [
            np.mean([v for r, v in zip(table.row_id, table.scores[name], strict=True) if r == p])
            for p in prompts
        ]
        assert found.scores[row, 0].tolist() == pytest.approx(means)


def test_run_again_it_trains_nothing_and_another_scorer_trains_scorers_only(crossed: Path) -> None:
    told = Told()
    run_here(config_of(crossed.parent), told)
    assert not [event for event in told.events if event["event"] == "step"]
    before = (scorer(crossed, "first", 0.1) / "model.safetensors").read_bytes()
    config = config_of(crossed.parent, cross_fit=[*SCORERS, 1.0])
    bench = Bench(config)
    assert plan_study(bench, timing=False).further_runs == len(BETAS) + len(SCORERS) + 1
    record = run_study(config, Told(), lambda plan: Here(bench))
    assert all(cell.seconds[CROSS_FIT] > 0 for cell in record.cells)
    assert scorer(crossed, "second", 1.0).is_dir()
    assert (scorer(crossed, "first", 0.1) / "model.safetensors").read_bytes() == before
    assert "cross_fitted:1" in tables(crossed)[1].scores


def test_a_half_is_the_run_tether_train_makes(crossed: Path, tmp_path: Path) -> None:
    bench = Bench(config_of(crossed.parent))
    cell = main_cells(bench.cells.values())[1]
    home = cell_folder(crossed, cell.cell_id) / "halves" / "second"
    alone = half_config(cell.config, "second", tmp_path / "alone")
    assert alone.max_steps == 3  # as many passes over half the pairs
    train(alone)
    weights = [(place / "model" / "model.safetensors").read_bytes() for place in (home, tmp_path / "alone")]
    assert weights[0] == weights[1]


def test_only_the_main_arm_is_halved(make_study: Callable[..., StudyConfig]) -> None:
    config = make_study(loss_type=["ipo", "sigmoid"], labels=["given", "shuffled"], cross_fit=SCORERS)
    cells = main_cells(Bench(config).cells.values())
    assert {(c.factors.loss_type, c.factors.labels) for c in cells} == {("sigmoid", "given")}
    assert len(cells) == 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reference": ["none"]}, UsageError, "reference none; implicit reward is beta x log"),
        ({"loss_type": ["sft"]}, UsageError, "reads no pairs"),
        ({"data_half": "first"}, UsageError, "data_half is first: leave it out"),
        ({"train_batch_size": 11}, DataError, "a half of the pairs has 10, fewer than one update takes"),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(
    make_study: Callable[..., StudyConfig], options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_cross_fit(Bench(make_study(cross_fit=SCORERS, **options)))


@pytest.mark.parametrize("betas", [[0.1], [0.1, 0.03], [0.1, 0.1, 0.3], [0.1, 0.0, 0.3]])
def test_fewer_than_three_different_scorers_are_refused(
    make_study: Callable[..., StudyConfig], betas: list[float]
) -> None:
    with pytest.raises(UsageError, match="at least 3 different betas above 0"):
        make_study(cross_fit=betas)


def test_the_first_scorer_chooses() -> None:
    good = board({"DPO": [0.0, 2.0, 0.2, 0.1]})
    other = board({"DPO": [0.0, 0.2, 2.0, 0.1]})
    found = rules.cross_fitted({0.1: good, 0.3: other}, "DPO", cost=(5.0, 12.0))
    assert found.choice == "DPO β 0.3" and (found.runs, found.seconds) == (5.0, 12.0)
    assert [s.choice for s in found.sensitivity] == ["DPO β 0.3", "DPO β 0.1"]
    assert json.loads(found.model_dump_json())["sensitivity"][1]["beta"] == 0.3
