"""`tether calibrate`: the dial's numbers are the measured ones, the rule the study's, the price told."""

import json
from pathlib import Path
from typing import Any

import pytest

from tether import api
from tether.cli.main import main
from tether.errors import RunFolderError, UsageError
from tether.records.calibration import read_calibration

OPTIONS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "train_batch_size": 32,
    "max_steps": 30,
    "kl_max_new_tokens": 5,
    "beta": 0.3,
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "world"
    api.make_world("enumerable-tiny", folder, pairs=300, eval_pairs=20)
    return folder


def calibrated(world: Path, out: Path, **more: Any) -> Any:
    return api.calibrate(
        world / "model", world / "train.jsonl", out, **{**OPTIONS, **more}
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("found") / "cal"
    return calibrated(world, out, evaluator="world:enumerable-tiny", dials=[0.5, 1, 2]), out


def test_points_rise_in_kl_and_stand_for_their_betas(found: Any) -> None:
    result, out = found
    assert [p.dial for p in result.points] == [0.5, 1.0, 2.0]
    assert [p.beta for p in result.points] == pytest.approx([0.6, 0.3, 0.15])
    kls = [p.kl.estimate for p in result.points]
    assert 0 < kls[0] < kls[1] < kls[2]
    assert all(p.gain is not None for p in result.points)
    assert read_calibration(out) == result
    assert result.answer.question == "how tight" and result.answer.seeds == 1
    assert result.cost == pytest.approx(1 + result.seconds["sample and score"] / result.seconds["train"])


def test_two_prompts_never_support_an_answer(found: Any) -> None:
    result, _ = found
    assert result.prompts == 2  # all the world has
    assert result.answer.verdict != "supported" or result.answer.interval is not None


def test_without_a_judge_nothing_is_recommended(world: Path, tmp_path: Path) -> None:
    result = calibrated(world, tmp_path / "cal", dials=[1])
    assert result.answer.verdict == "needs a judge"
    assert result.recommended_dial is None and result.recommended_beta is None
    assert result.points[0].gain is None and result.points[0].kl.estimate > 0


def test_a_judge_is_asked_against_the_start_models_answer(world: Path, tmp_path: Path) -> None:
    result = calibrated(world, tmp_path / "cal", dials=[1], judge="length")
    assert result.judge == "length" and (tmp_path / "cal" / "opinions.jsonl").is_file()
    gain = result.points[0].gain
    assert gain is not None and -0.5 <= gain.estimate <= 0.5


def test_a_finished_run_is_taken_over(found: Any, world: Path) -> None:
    result, out = found
    before = (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    again = calibrated(world, out, evaluator="world:enumerable-tiny", dials=[0.5, 1, 2])
    assert (out / "run" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert [p.kl for p in again.points] == [p.kl for p in result.points]


def test_refusals_are_one_line(world: Path, tmp_path: Path) -> None:
    for more, said in (
        ({"dials": [0, 1]}, "above 0"),
        ({"dials": [1, 1]}, "different values"),
        ({"reference": "none"}, "calibrate with reference self"),
        ({"judge": "length", "evaluator": "world:enumerable-tiny"}, "not both"),
    ):
        with pytest.raises(UsageError, match=said):
            calibrated(world, tmp_path / "x", **more)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"notes\.txt"):
        calibrated(world, tmp_path / "full", dials=[1])


def test_the_command_prints_its_document(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(world / "model"), "--data", str(world / "train.jsonl")]
    words += [f"--{k.replace('_', '-')}={v}" for k, v in {**OPTIONS, "max_steps": 2}.items()]
    with pytest.raises(SystemExit) as stopped:
        main(["calibrate", *words, "--output-dir", str(tmp_path / "cal"), "--dial", "1,2", "--json"])
    assert stopped.value.code in (0, None)
    document = json.loads(capsys.readouterr().out)
    assert [p["dial"] for p in document["points"]] == [1.0, 2.0] and document["judge"] is None
