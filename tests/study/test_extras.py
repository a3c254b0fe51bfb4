"""What is measured on demand: CHES by hand, the dial's two fixed points, judges, shuffled labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.study.conftest import Told, run_here
from tether.config.study import StudyConfig
from tether.errors import UsageError
from tether.records.results import read_lines
from tether.records.study import cell_folder, measures
from tether.study.bench import Bench
from tether.study.tables import Ches, Samples, read_table

Make = Callable[..., StudyConfig]


def test_ches_is_the_papers_and_asked_for_later_it_trains_nothing(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[0.1])
    run_here(config)
    asked = make_study(beta=[0.1], ches=True)
    told = Told()
    record = run_here(asked, told)
    assert record.cells[0].state == "finished"
    assert not [e for e in told.events if e["event"] == "step"]
    found = read_table(Ches, tmp_path / "study" / "shared" / "start" / "ches.parquet")
    assert found.part == ["train"] * 20 + ["eval"] * 6
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model-in")
    group = Bench(asked).rows.prepared.train.groups[3]
    sums = []
    for completion in group.completions:
        ids = torch.tensor([[*group.prompt_ids, *completion.ids]])
        with torch.no_grad():
            states = model.model(ids).last_hidden_state[0].double()
        # The state at a position predicts the next token: from the prompt's last to the last but one.
        sums.append(states[len(group.prompt_ids) - 1 : -1].sum(0))
    chosen, rejected = sums
    long, short = (len(c.ids) for c in group.completions)
    assert found.row_id[3] == group.row_id
    cross, square = float(chosen @ rejected), float(chosen @ chosen)
    # fp32 states, summed over at most 60 tokens of 32 numbers: 1e-5 relative is a hundred roundings.
    assert found.ches[3] == pytest.approx(cross - square, rel=1e-5, abs=1e-3)
    expected = cross / (long * short) - square / long**2
    assert found.ches_normalised[3] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    start = measures(tmp_path / "study" / "shared" / "start")
    assert start is not None and start.ches == pytest.approx(found.ches_normalised[20:].mean())


def test_the_dial_at_one_is_the_cell_and_at_zero_the_start(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[1, 0.1, 0.01], dial=[0, 1, 2], learning_rate=[3e-3])
    record = run_here(config)
    middle = record.cells[1]
    assert middle.factors.beta == 0.1
    folder = tmp_path / "study" / "shared" / "dial"
    assert [path.name for path in folder.iterdir()] == [middle.cell_id]
    at = {value: read_table(Samples, folder / middle.cell_id / f"d-{value}.parquet") for value in (0, 1, 2)}
    own = read_table(
        Samples, cell_folder(tmp_path / "study", middle.cell_id) / "measures" / "samples.parquet"
    )
    start = read_table(Samples, tmp_path / "study" / "shared" / "start" / "samples.parquet")
    assert at[1].token_ids == own.token_ids
    np.testing.assert_array_equal(at[1].kl_start, own.kl_start)
    assert at[0].token_ids == start.token_ids and (at[0].kl_start == 0).all()
    assert at[2].kl_start.mean() > at[1].kl_start.mean()


def test_a_dial_is_computed_in_the_precision_of_the_cells(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[0.1], dial=[1], learning_rate=[3e-3], bf16=True)
    cell = run_here(config).cells[0].cell_id
    study = tmp_path / "study"
    at = read_table(Samples, study / "shared" / "dial" / cell / "d-1.parquet")
    own = read_table(Samples, cell_folder(study, cell) / "measures" / "samples.parquet")
    np.testing.assert_array_equal(at.policy_logp, own.policy_logp)
    np.testing.assert_array_equal(at.kl_start, own.kl_start)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"dial_cells": ["sigmoid-self-beta0.1-lr0.001-seed1"]},
            "did you mean sigmoid-self-beta0.1-lr0.001-s",
        ),
        ({"loss_type": ["unlikelihood"]}, "no cell of the first arm has a beta"),
    ],
)
def test_a_dial_turned_on_nothing_is_refused_before_training(
    make_study: Make, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        run_here(make_study(beta=[0.1], dial=[2], **options))
    assert not (tmp_path / "study" / "cells").exists()


def test_a_judge_gives_win_rates_against_the_start_model(make_study: Make, tmp_path: Path) -> None:
    record = run_here(make_study(beta=[0.1], judge="length", learning_rate=[1e-2]))
    home = cell_folder(tmp_path / "study", record.cells[0].cell_id) / "measures"
    own = read_table(Samples, home / "samples.parquet")
    start = read_table(Samples, tmp_path / "study" / "shared" / "start" / "samples.parquet")
    others = [row["text"] for row in read_lines(tmp_path / "study" / "shared" / "start" / "opponents.jsonl")]
    assert len(others) == len(start.text) and others != start.text  # drawn apart
    longer = [(len(a) > len(b)) + 0.5 * (len(a) == len(b)) for a, b in zip(own.text, others, strict=True)]
    assert own.scores["length"].tolist() == longer and len(set(longer)) > 1
    assert (start.scores["length"] == 0.5).all()
    found = measures(home.parent)
    assert found is not None and found.scores["length"] == pytest.approx(np.mean(longer))
    assert record.evaluators == ("length",) and record.judge == "length"


def test_a_world_that_judges_scores_by_its_true_reward(make_study: Make) -> None:
    record = run_here(make_study(beta=[0.1], judge="world:sentiment"))
    assert record.evaluators == ("gold_reward",) and record.world == "sentiment"
    named_twice = make_study(beta=[0.1], judge="world:sentiment", evaluators=["world:sentiment"])
    assert len(Bench(named_twice).evaluators) == 1


def test_a_judge_without_a_verdict_leaves_that_answer_out(
    make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.judging.judges import LengthJudge, Opinion

    original = LengthJudge.__call__

    def silent(self: LengthJudge, questions: list) -> list[Opinion]:  # type: ignore[type-arg]
        found = original(self, questions)
        return [Opinion(None, "no answer"), *found[1:]]

    monkeypatch.setattr(LengthJudge, "__call__", silent)
    record = run_here(make_study(beta=[0.1], judge="length"))
    home = cell_folder(tmp_path / "study", record.cells[0].cell_id)
    scores = read_table(Samples, home / "measures" / "samples.parquet").scores["length"]
    assert np.isnan(scores).tolist() == [True, False, False, False]
    found = measures(home)
    assert found is not None and found.scores["length"] == pytest.approx(np.nanmean(scores))


def test_shuffled_labels_are_a_cell_of_their_own_on_the_same_held_out_rows(
    make_study: Make, tmp_path: Path
) -> None:
    record = run_here(make_study(beta=[0.1], labels=["given", "shuffled"]))
    given, shuffled = record.cells
    assert shuffled.cell_id == given.cell_id + "-shuffled" and shuffled.factors.labels == "shuffled"
    runs = [
        json.loads((cell_folder(tmp_path / "study", c.cell_id) / "run.json").read_text())
        for c in record.cells
    ]
    assert runs[0]["data"]["train"] != runs[1]["data"]["train"]
    assert runs[0]["data"]["eval"] == runs[1]["data"]["eval"]
    (finding,) = (f for f in runs[1]["data"]["findings"] if f["kind"] == "labels_shuffled")
    assert 0 < finding["count"] < 20
    assert len(list(read_lines(tmp_path / "study" / "shared" / "completions.jsonl"))) == 12
