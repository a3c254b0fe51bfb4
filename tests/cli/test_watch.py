"""`tether watch`: the numbers of the files, 80 columns, nothing that could disturb the run."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Printed
from tests.tiny import save_model, tiny_model
from tests.training.conftest import rows
from tether.cli.watch import BLOCKS, sparkline
from tether.config.train import TrainConfig
from tether.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    save_model(folder / "model", tiny_model("llama"))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(24)))
    config = TrainConfig(
        model_name_or_path=str(folder / "model"),
        dataset_name=str(folder / "rows.jsonl"),
        output_dir=str(folder / "run"),
        eval_fraction=0.25,
        max_steps=4,
        train_batch_size=6,
        logging_steps=1,
        measure_prompts=2,
        kl_max_new_tokens=4,
    )
    train(config)
    return folder / "run"


def test_the_view_has_every_curve_and_fits_80_columns(run: Path, printed: Printed) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    lines = printed("watch", run, "--once").splitlines()
    assert lines[1] == "finished after 4 of 4 updates"
    for label in ("loss", "margin", "held-out loss", "KL from start", "tokens"):
        assert any(line.startswith(label) and set(line) & set(BLOCKS) for line in lines), label
    assert all(len(line) <= 80 for line in lines)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_json_has_the_newest_value_of_every_metric(run: Path, printed: Printed) -> None:
    document = json.loads(printed("watch", run, "--json"))
    assert (document["status"], document["step"], document["planned_steps"]) == ("finished", 4, 4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = [line for line in lines if line["phase"] == "train"][-1]
    assert document["latest"]["loss"] == newest["loss"]


def test_a_half_written_last_line_is_left_out(run: Path, tmp_path: Path, printed: Printed) -> None:
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 5, "lo')
    assert json.loads(printed("watch", tmp_path, "--json"))["step"] == 4


def test_what_is_no_run_is_one_line(tmp_path: Path, call: Call) -> None:
    assert call("watch", tmp_path)[0] == 3
    (tmp_path / "config.yaml").write_text("beta: 0.1\n")
    assert "only just begun" in call("watch", tmp_path)[2]


def test_a_sparkline_is_monotone_where_the_values_are() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == BLOCKS
    assert sparkline([3, 3, 3], 10) == BLOCKS[0] * 3
    assert sparkline(list(range(1000)), 8) == BLOCKS
