"""findings(): a study folder becomes data; what is missing is said, and nothing is guessed."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.study.fixtures import Shape, make_study
from tether.errors import RunFolderError
from tether.records.findings import FINDINGS, Findings, read_findings
from tether.records.results import write_json, write_lines
from tether.records.study import StudyRecord
from tether.study.collect import board_of, read_folder
from tether.study.questions import findings
from tether.study.tables import Samples, read_table, write_table

NEEDED = ("recommended", "set", "kl", "interval", "degenerate", "n", "seeds")


def judged(folder: Path, record: StudyRecord, judge: str = "gold_reward") -> Path:
    """Declare a judge."""
    write_json(folder / "study.json", record.model_copy(update={"judge": judge}))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("study")
    return findings(judged(folder, make_study(folder, shape=Shape(prompts=60))))


def test_findings_have_what_a_program_needs_and_survive_the_file(one: Findings, tmp_path: Path) -> None:
    write_json(tmp_path / FINDINGS, one)
    document = json.loads((tmp_path / FINDINGS).read_text())
    assert all(name in document for name in NEEDED)
    assert read_findings(tmp_path) == one
    assert one.recommended is not None and one.recommended.name in one.set
    assert (one.n, one.seeds) == (60, 2)
    assert one.kl is not None and one.kl > 0 and one.interval is not None


def test_the_same_folder_gives_the_same_findings(tmp_path: Path) -> None:
    folder = judged(tmp_path, make_study(tmp_path, betas=(1.0, 0.1), shape=Shape(prompts=20)))
    assert findings(folder) == findings(folder)


def test_without_a_declared_judge_nothing_is_recommended(tmp_path: Path) -> None:
    make_study(tmp_path, references=("self", "none"), betas=(1.0, 0.1), shape=Shape(prompts=20))
    found = findings(tmp_path)
    assert found.recommended is None and found.judge is None and found.gold == "gold_reward"
    assert [a.verdict for a in found.answers] == ["needs a judge", "needs a judge"]
    # A world's truth is drawn, and nothing is chosen by it.
    assert found.settings[0].kl is not None and found.frontier
    assert all(s.gain is None and s.p_value is None and not s.in_set for s in found.settings)
    world = findings(judged(tmp_path, make_study(tmp_path, betas=(1.0, 0.1)), "world:sentiment"))
    assert world.judge == "gold_reward" and world.recommended is not None
    other = findings(judged(tmp_path, make_study(tmp_path, betas=(1.0, 0.1)), "win_rate"))
    assert other.recommended is None
    assert "the judge win_rate has not scored every model" in other.answers[0].sentence


def test_failed_cells_are_named_and_their_setting_is_not_compared(tmp_path: Path) -> None:
    record = make_study(
        tmp_path, betas=(1.0, 0.1, 0.01), failed=("sigmoid-beta0.01-seed1",), shape=Shape(prompts=30)
    )
    found = findings(judged(tmp_path, record))
    assert any("sigmoid-beta0.01-seed1 failed after 2 attempts" in n for n in found.notices)
    assert any("β 0.01: not compared" in n for n in found.notices)
    left = next(s for s in found.settings if s.setting.beta == 0.01)
    assert left.gain is None and left.seeds == (0,) and "NaN" in left.missing[0]
    assert found.seeds == 2 and "β 0.01" not in found.set


def test_three_questions_share_the_chance_of_a_false_alarm(tmp_path: Path) -> None:
    record = make_study(
        tmp_path, betas=(1.0, 0.3, 0.1), references=("self", "none", "prior", "model:strong"),
        loss_types=("sigmoid",), shape=Shape(prompts=30),
    )  # fmt: skip
    found = findings(judged(tmp_path, record))
    assert [a.question for a in found.answers] == ["how tight", "reference needed", "which reference"]
    assert found.answers[0].interval is not None
    assert found.answers[0].interval.level == pytest.approx(1 - 0.05 / 3)
    assert [c.second for c in found.comparisons] == ["without a reference", "posterior", "likelihood"]
    assert [c.first for c in found.references] == ["any other reference", "prior", "model:strong"]
    assert {t.arm for t in found.tight} == {
        "DPO", "posterior", "likelihood", "DPO, reference strong"
    }  # fmt: skip
    assert found.tight[0].arm == "DPO"


def test_tokens_frontier_and_rules_come_with_it(one: Findings) -> None:
    assert [t.setting for t in one.tokens] == [s.setting.name for s in one.settings]
    for token in one.tokens:
        assert sum(share for _, share in token.histogram) == pytest.approx(1.0)
        assert all(fall.count >= 100 and fall.mean < 0 for fall in token.falls)
    loosest = one.tokens[-1]
    assert loosest.falls[0].token == "</s>"  # the made-up end token falls most
    chosen, rejected = loosest.end["chosen"], loosest.end["rejected"]
    assert chosen is not None and rejected is not None and rejected < chosen < 0
    assert {p.arm for p in one.frontier} == {"start", "DPO", "dial of β 0.1"}
    assert sum(p.arm == "DPO" for p in one.frontier) == 10
    law = one.laws[0]
    assert law.alpha_interval[0] < 1.5 < law.alpha_interval[1]
    assert law.beta_hat_interval[0] < 0.9 < law.beta_hat_interval[1]
    assert {r.rule for r in one.rules} == {"judged", "ranking"}
    assert one.rules[0].choice == (one.recommended.name if one.recommended else None)
    assert one.tight[0].regret is not None and one.tight[0].dial is not None


def test_score_and_kl_of_a_setting_are_of_the_seeds_that_were_compared(tmp_path: Path) -> None:
    made = make_study(tmp_path, betas=(1.0, 0.1), seeds=(0, 1, 2), shape=Shape(prompts=20))
    gone = next(c for c in made.cells if c.factors.beta == 1.0 and c.factors.seed == 2)
    for path in sorted((tmp_path / "cells" / gone.cell_id / "measures").iterdir(), reverse=True):
        path.unlink()
    (tmp_path / "cells" / gone.cell_id / "measures").rmdir()
    found = findings(judged(tmp_path, made))
    assert found.seeds == 2
    whole = next(s for s in found.settings if s.setting.beta == 0.1)
    assert whole.seeds == (0, 1, 2)
    points = [p for p in found.frontier if p.setting == whole.setting.name]
    assert len(points) == 2
    assert whole.kl == pytest.approx(np.mean([p.kl for p in points]))
    assert whole.score == pytest.approx(np.mean([p.score for p in points]))


def test_several_seeds_read_the_same_tokens_and_do_not_make_a_type_frequent(tmp_path: Path) -> None:
    one, three = (
        findings(study_of(tmp_path / name, seeds)).tokens[-1]
        for name, seeds in (("one", (0,)), ("three", (0, 1, 2)))
    )
    assert one.falls and {f.token: f.count for f in one.falls} == {f.token: f.count for f in three.falls}
    assert {f.token: f.count for f in one.followed} == {f.token: f.count for f in three.followed}
    assert three.tokens == 3 * one.tokens


def study_of(folder: Path, seeds: tuple[int, ...]) -> Path:
    """A study in which the end token stands 120 times among the held-out rows, other types fewer than 100."""
    make_study(folder, betas=(1.0, 0.1), seeds=seeds, shape=Shape(prompts=60))
    return folder


def test_regret_is_of_the_seeds_that_are_compared(tmp_path: Path) -> None:
    failed = ("sigmoid-beta1-seed1", "sigmoid-beta0.3-seed1")
    record = make_study(tmp_path, betas=(1.0, 0.3, 0.1), failed=failed, shape=Shape(prompts=20))
    board = board_of(read_folder(judged(tmp_path, record)), "gold_reward")
    assert board is not None and board.gold is not None and board.seeds == (0,)
    assert board.gold == pytest.approx(board.scores.mean(axis=(1, 2)))


def test_prompts_a_judge_could_not_score_are_left_out_for_all_and_counted(tmp_path: Path) -> None:
    folder = judged(tmp_path, make_study(tmp_path, betas=(1.0, 0.1), seeds=(0,), shape=Shape(prompts=20)))
    path = folder / "cells" / "sigmoid-beta1" / "measures" / "samples.parquet"
    samples = read_table(Samples, path)
    samples.scores["gold_reward"][[3, 7]] = np.nan
    write_table(path, samples)
    found = findings(folder)
    assert found.n == 18
    assert "2 prompts were not scored for every model: left out." in found.notices


def test_rows_of_one_prompt_are_one_unit(tmp_path: Path) -> None:
    folder = judged(tmp_path, make_study(tmp_path, betas=(1.0, 0.1), seeds=(0,), shape=Shape(prompts=20)))
    rows = [{"row_id": f"eval.jsonl:{i + 1}", "prompt": f"prompt {i // 2}"} for i in range(20)]
    write_lines(folder / "shared" / "prompts.jsonl", rows)
    assert findings(folder).n == 10


def test_the_documents_name_every_field() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "findings.md").read_text(encoding="utf-8")
    assert [name for name in Findings.model_fields if f"`{name}`" not in text] == []


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"study\.json"):
        findings(tmp_path)
    with pytest.raises(RunFolderError, match="tether study report"):
        read_findings(tmp_path)
