"""`tether watch`: the numbers of the files, 80 columns, nothing that could disturb the run."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Printed
from tests.tiny import save_model, tiny_model
from tests.training.conftest import rows
from tether.cli.watch import BLOCKS, Pace, _wait, sparkline
from tether.config.train import TrainConfig
from tether.training.folder import RunFolder
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


def test_a_run_that_was_killed_is_not_said_to_run_on(run: Path, tmp_path: Path, printed: Printed) -> None:
    record = json.loads((run / "run.json").read_text()) | {"status": "running", "planned_steps": 400}
    record["events"] = [{"step": 3, "text": "what it means, " * 12}]
    lines = (run / "metrics.jsonl").read_text()
    for name, text in (("run.json", json.dumps(record)), ("metrics.jsonl", lines), (".lock", "999999999")):
        (tmp_path / name).write_text(text)
    assert "running: update 4 of 400, about" in printed("watch", tmp_path, "--once")
    for name in ("run.json", "metrics.jsonl"):
        os.utime(tmp_path / name, (time.time() - 600, time.time() - 600))
    seen = printed("watch", tmp_path, "--once")
    told = " ".join(seen.split())
    assert "update 4 of 400; no news for 10 min; its process is not on this machine" in told
    assert record["events"][0]["text"].strip() in told and max(map(len, seen.splitlines())) <= 80
    (tmp_path / ".lock").write_text(str(os.getpid()))  # its number is another process's by now
    assert "not on this machine" in " ".join(printed("watch", tmp_path, "--once").split())
    folder = RunFolder(tmp_path)
    folder.acquire()
    assert "not on this machine" not in printed("watch", tmp_path, "--once")
    folder.release()


def test_the_time_left_follows_the_pace_seen_not_the_age_of_a_resumed_run() -> None:
    pace = Pace(time.monotonic() - 10, 100)
    assert pace.left(100, 400) is None
    assert pace.left(120, 400) == pytest.approx(10 / 20 * 280, rel=0.01)


def test_a_run_that_is_still_reading_is_waited_for(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.acquire()
    late = threading.Timer(0.3, (tmp_path / "run.json").write_text, [(run / "run.json").read_text()])
    late.start()
    _wait(tmp_path, 0.1)
    assert (tmp_path / "run.json").is_file()
    (tmp_path / "run.json").unlink()
    folder.release()
    _wait(tmp_path, 0.1)


def test_a_sparkline_is_monotone_where_the_values_are() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == BLOCKS
    assert sparkline([3, 3, 3], 10) == BLOCKS[0] * 3
    assert sparkline(list(range(1000)), 8) == BLOCKS
