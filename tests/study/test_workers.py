"""Real worker processes: they outlive nothing they should not, and lose nothing they did."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.study.conftest import Told
from tether.config.study import StudyConfig
from tether.records.results import file_digest
from tether.records.study import cell_folder, measures, read_study
from tether.study.bench import Bench
from tether.study.execute import StudyFolder, run_study
from tether.study.executor import LocalWorkers
from tether.study.worker import Orders

Make = Callable[..., StudyConfig]
PATIENCE = 600
"""Seconds a study may take on a machine that has other work."""


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


def command(config: StudyConfig, tmp_path: Path) -> list[str]:
    """Write the study as YAML; return the command that runs it."""
    import yaml

    from tether.config.study import resolved

    (tmp_path / "study-in.yaml").write_text(yaml.safe_dump(resolved(config)))
    words = [sys.executable, "-m", "tether", "study", str(tmp_path / "study-in.yaml")]
    return [*words, "--workers", "1", "--threads", "1"]


def start(words: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(words: list[str]) -> None:
    """Go on with a study of two cells to its end."""
    process = start([*words, "--json"])
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert [c["state"] for c in json.loads(printed)["cells"]] == ["finished", "finished"]


def steps(folder: Path, number: int = 0) -> int:
    files = sorted((folder / "cells").glob("*/metrics.jsonl"))
    if len(files) <= number:
        return 0
    return sum('"train"' in line for line in files[number].read_text().splitlines())


def state(folder: Path, number: int = 0) -> str:
    cell = read_study(folder).cells[number]
    return str(cell.state)


def test_a_worker_process_runs_the_cells_and_its_death_costs_one_try(
    make_study: Make, tmp_path: Path
) -> None:
    config = make_study(beta=[0.1], max_steps=60, workers=1, save_steps=5)
    told = Told()
    killed: list[int] = []
    folder = tmp_path / "study"

    class Killing(LocalWorkers):
        def next(self, timeout: float) -> Any:
            event = super().next(timeout)
            if event and event["event"] == "step" and event["step"] > 20 and not killed:
                killed.append(self._workers[event["worker"]].process.pid)
                os.kill(killed[0], signal.SIGKILL)
            return event

    record = run_study(config, told, lambda plan: Killing(folder, 1, 1))
    assert killed and record.cells[0].state == "finished"
    assert [e["event"] for e in told.events if e["event"] in ("begin", "end", "lost")] == [
        "begin", "lost", "begin", "end",
    ]  # fmt: skip
    assert any("status -9" in note and "tried once more" in note for note in told.notes)
    # It went on from the checkpoint of step 20 or later, not from the beginning.
    again = [e["event"] for e in told.events].index("lost")
    assert next(e["step"] for e in told.events[again:] if e["event"] == "step") > 20
    assert measures(cell_folder(folder, record.cells[0].cell_id)) is not None


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_one_cell_runs_by_itself_as_another_executor_would_start_it(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[0.1])
    folder = StudyFolder(config)
    with folder.locked():
        record = folder.begin(None, set())
    name = record.cells[0].cell_id
    process = start([sys.executable, "-m", "tether.study.worker", str(folder.path), "--cell", name])
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    events = [json.loads(line) for line in printed.splitlines()]
    assert [e["event"] for e in events if e["event"] in ("begin", "end")] == ["begin", "end"]
    assert {e["cell"] for e in events} == {name} and events[-1]["state"] == "finished"
    assert state(folder.path) == "finished" and measures(cell_folder(folder.path, name)) is not None


def test_orders_end_with_their_input_and_stop_what_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
    idle = Orders()
    idle.listen(iter([json.dumps({"cell": "a"}) + "\n"]))  # type: ignore[arg-type]
    assert idle.next() is None and sent == []  # the input ended before the cell began: it is not begun
    busy = Orders()
    busy.busy = True
    busy.listen(iter([json.dumps({"stop": True}) + "\n"]))  # type: ignore[arg-type]
    assert sent == [signal.SIGTERM]


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[1, 0.1], max_steps=150, save_steps=1000)
    folder, words = tmp_path / "study", command(config, tmp_path)
    process = start(words)
    until(lambda: steps(folder) >= 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "run the same command to go on" in errors
    assert read_study(folder).status == "interrupted" and state(folder) == "interrupted"
    finish(words)
    whole = make_study(output_dir=str(tmp_path / "whole"), beta=[1, 0.1], max_steps=150, workers=1, threads=1)
    run_study(whole, Told())
    for cell in read_study(folder).cells:
        digests = {
            file_digest(cell_folder(tmp_path / name, cell.cell_id) / "model" / "model.safetensors")
            for name in ("study", "whole")
        }
        assert len(digests) == 1


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.slow
def test_cells_survive_the_death_of_the_studys_process(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[1, 0.1], max_steps=150, save_steps=1000)
    folder, words = tmp_path / "study", command(config, tmp_path)
    process = start(words)
    until(lambda: steps(folder) >= 3)
    worker = until(lambda: read_study(folder).cells[0].worker)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not Path(f"/proc/{worker}").exists())
    # The worker noticed, saved a checkpoint, and left.
    assert state(folder) == "interrupted"
    assert list((cell_folder(folder, read_study(folder).cells[0].cell_id) / "checkpoints").glob("step-*"))
    finish(words)


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.slow
def test_two_workers_share_one_scoring_and_one_measured_start(make_study: Make, tmp_path: Path) -> None:
    config = make_study(beta=[1, 0.3, 0.1, 0.03], workers=2, threads=1)
    record = run_study(config, Told())
    assert [c.state for c in record.cells] == ["finished"] * 4
    assert len({c.worker for c in record.cells}) == 2
    assert record.shared["made"]["references"] == 1
    assert len(list((tmp_path / "study" / "shared" / "references").glob("*/manifest.json"))) == 1
    bench = Bench(config)
    assert bench.start_measures().kl == 0
