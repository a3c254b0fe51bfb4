"""`tether train` under torchrun, as a user starts it: what is printed, written, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.pair import ROOT, free_port
from tether.config.launch import first_process, first_speaks
from tether.errors import SaidElsewhere, UsageError
from tether.policies.artifact import read_artifact
from tether.training.scoring import score_file

# Two interpreters start and end per test: on a busy machine that is what takes the time.
pytestmark = pytest.mark.timeout(900)

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(tmp_path: Path, model_folder: Path, data_file: Path, eval_file: Path) -> Launch:
    def start(*more: str, command: str = "train", options: Sequence[str] | None = None) -> Any:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
        words = [sys.executable, *torchrun, "--master-port", str(free_port()), "-m", "tether"]
        given = ["--model", str(model_folder), "--data", str(data_file), "--eval-data", str(eval_file)]
        given += ["--output-dir", str(tmp_path / "run"), "--learning-rate", "1e-3", "--train-batch-size", "4"]
        given += ["--measure-prompts", "2", "--kl-max-new-tokens", "4", "--device", "cpu", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        given = [*options] if options is not None else given if command == "train" else []
        return subprocess.Popen([*words, command, *given], env=environment, cwd=tmp_path, **pipes)

    return start


def ours(stderr: str) -> list[str]:
    """Return the lines that are not torchrun's own."""
    return [line for line in stderr.splitlines() if line.startswith("tether: ")]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_document_one_folder_one_page(parallel: str, launch: Launch, tmp_path: Path) -> None:
    run = launch("--parallel", parallel, "--json", "--max-steps", "2")
    stdout, stderr = run.communicate(timeout=400)
    assert run.returncode == 0, stderr
    record = json.loads(stdout)
    assert record["status"] == "finished" and record["hardware"]["processes"] == 2
    folder = tmp_path / "run"
    assert (folder / "report.html").is_file() and (folder / "model" / "README.md").is_file()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    written = [(line["step"], line["phase"]) for line in lines]
    assert len(written) == len(set(written)) and (2, "eval") in written


@pytest.mark.slow
def test_progress_is_shown_once(launch: Launch) -> None:
    run = launch("--max-steps", "2")
    stdout, stderr = run.communicate(timeout=400)
    assert run.returncode == 0, stderr
    shown = stdout + stderr
    assert shown.count("2 processes: 4 pairs per update; a whole copy of the model in each") == 1
    assert shown.count("rows: ") == 1 and stdout.count("status") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--beta", "-1"], 2, "beta"),
        (["--data", "nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["--loss-type", "dpop", "--reference", "none"], 2, "reference"),
    ],
)
def test_a_refusal_is_one_line_with_its_status(
    options: list[str], status: int, text: str, launch: Launch
) -> None:
    run = launch(*options)
    stdout, stderr = run.communicate(timeout=400)
    assert stdout == ""
    lines = ours(stderr)
    assert len(lines) == 1 and text in lines[0], stderr
    assert f"exitcode  : {status} " in stderr or f"(exitcode: {status})" in stderr, stderr


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_sigterm_to_torchrun_stops_all_after_the_same_update_and_the_run_goes_on(
    parallel: str, launch: Launch, tmp_path: Path
) -> None:
    options = ["--parallel", parallel, "--logging-steps", "1", "--num-train-epochs", "60"]
    run = launch(*options)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 300
    while not metrics.is_file() or metrics.read_text().count('"train"') < 3:
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=100)
    assert len([line for line in ours(stderr) if "stopped by signal 15 after step" in line]) == 1, stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{record['steps']}" / "complete.json").is_file()


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_leaves_no_orphan(launch: Launch, tmp_path: Path) -> None:
    run = launch("--logging-steps", "1", "--num-train-epochs", "200", "--save-steps", "2")
    folder = tmp_path / "run" / "checkpoints"
    until = time.monotonic() + 300
    while not (folder / "step-2" / "complete.json").is_file():
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    children = [int(n) for n in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    os.kill(children[-1], signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode != 0
    time.sleep(1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
def test_a_command_that_is_one_process_is_refused(launch: Launch) -> None:
    run = launch(command="check")
    _, stderr = run.communicate(timeout=400)
    assert ours(stderr) == ["tether: tether check is one process; start it without torchrun"]


@pytest.mark.slow
def test_scores_are_those_of_one_process(
    tmp_path: Path, model_folder: Path, data_file: Path, launch: Launch
) -> None:
    given = ["--model", str(model_folder), "--data", str(data_file), "--json"]
    run = launch(command="score", options=[*given, "--out", str(tmp_path / "two")])
    stdout, stderr = run.communicate(timeout=400)
    assert run.returncode == 0, stderr
    alone = score_file(model_folder, str(data_file), tmp_path / "one")
    assert json.loads(stdout)["completions"] == alone.completions
    one, two = (read_artifact(tmp_path / name)[0] for name in ("one", "two"))
    assert one.identity.scored == two.identity.scored and one.scores.keys() == two.scores.keys()
    for key, score in one.scores.items():
        assert two.scores[key].total == pytest.approx(score.total, rel=1e-6)


def test_one_process_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not first_process()
    with pytest.raises(SaidElsewhere) as caught, first_speaks():
        raise UsageError("no such key")
    assert caught.value.exit_code == 2
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError), first_speaks():
        raise UsageError("no such key")
