"""A process that dies anywhere leaves a folder that resumes to the same weights, to the last bit."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tether.errors import ResourceError
from tether.training import checkpoint
from tether.training.run import train

Make = Callable[..., Any]
Words = Callable[[Path | None], list[str]]

DRIVER = '''
"""Trains in one forked process per death: SIGKILL just before the n-th write, fsync, rename or deletion.

Forked, because importing torch once for a hundred processes is most of what a hundred processes cost.
One JSON line per death: number, what would have been done next, how the resumed process ended.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from tether.cli.main import main
from tether.training import checkpoint

mode, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
count = 0


def guarded(name, original, number, note):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == number:
            if mode == "torn" and name == "write":
                original(*args, **kwargs)
                os.truncate(args[1], args[1].stat().st_size // 2)
            note.write_text(f"{name} {args[0] if name != 'write' else args[1].name}")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    return call


def guard(number, note):
    checkpoint.save_file = guarded("write", checkpoint.save_file, number, note)
    if mode == "before":
        os.fsync = guarded("fsync", os.fsync, number, note)
        Path.replace = guarded("replace", Path.replace, number, note)
        shutil.rmtree = guarded("rmtree", shutil.rmtree, number, note)


def forked(out, number=None, note=None):
    child = os.fork()
    if child == 0:
        if number is not None:
            guard(number, note)
        code = 1
        try:
            main([*words, "--output-dir", str(out)])
        except SystemExit as end:
            code = end.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


number = 0
while True:
    number += 1
    out, note = folder / f"killed-{number}", folder / f"note-{number}"
    status = forked(out, number, note)
    if status == 0:
        break
    if status != -signal.SIGKILL:
        sys.exit(f"death {number} ended with {status}")
    print(json.dumps([number, note.read_text(), forked(out)]), flush=True)
'''


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "driver.py"
    path.write_text(DRIVER)
    return path


@pytest.fixture
def words(model_folder: Path, data_file: Path) -> Words:
    """The command line of a run of 6 updates that saves every 2, and keeps 2 checkpoints."""

    def make(folder: Path | None) -> list[str]:
        return [
            *("train", "--model", str(model_folder), "--data", str(data_file)),
            *(() if folder is None else ("--output-dir", str(folder))),
            *("--learning-rate", "1e-3", "--train-batch-size", "4", "--max-steps", "4"),
            *(
                "--save-steps",
                "2",
                "--measure-prompts",
                "0",
                "--logging-steps",
                "1",
                "--seed",
                "7",
                "--quiet",
            ),
        ]

    return make


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def tether(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tether", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr


Outcome = tuple[dict[str, torch.Tensor], str]


def outcome(folder: Path) -> Outcome:
    """Return the final weights and the metrics of a finished run, and hold that it is whole."""
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert not list(folder.rglob("*.tmp"))
    found, damaged = checkpoint.newest(folder / "checkpoints")
    assert found is not None and not damaged
    return load_file(folder / "model" / "model.safetensors"), (folder / "metrics.jsonl").read_text()


def assert_same(whole: Outcome, again: Outcome) -> None:
    assert whole[0].keys() == again[0].keys()
    assert all(torch.equal(whole[0][name], again[0][name]) for name in whole[0])
    assert whole[1] == again[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "least"), [("before", 30), ("torn", 6)])
def test_death_before_or_inside_any_write_resumes_to_the_same_weights(
    mode: str, least: int, driver: Path, words: Words, tmp_path: Path
) -> None:
    tether(words(tmp_path / "whole"))
    whole = outcome(tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, str(driver), mode, str(tmp_path), *words(None)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    # 2 checkpoints of 3 tensor files each: fewer deaths would mean that the guard no longer guards.
    assert len(deaths) >= least
    failed: list[str] = []
    for number, doing, status in deaths:
        problem = f"the resumed run ended with {status}" if status else difference(whole, tmp_path, number)
        if problem:
            failed.append(f"death {number} before {doing}: {problem}")
    assert failed == [], done.stderr


def difference(whole: Outcome, folder: Path, number: int) -> str:
    try:
        assert_same(whole, outcome(folder / f"killed-{number}"))
    except AssertionError as error:
        return str(error).splitlines()[0] or "not the same"
    return ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sigkill_at_random_moments_resumes_to_the_same_weights(words: Words, tmp_path: Path) -> None:
    began = time.monotonic()
    tether(words(tmp_path / "whole"))
    seconds = time.monotonic() - began
    whole = outcome(tmp_path / "whole")
    generator = random.Random(5)
    folder, killed = tmp_path / "killed", 0
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "tether", *words(folder)], stderr=subprocess.DEVNULL, env=environment()
        )
        try:
            process.wait(timeout=seconds * generator.uniform(0.3, 0.9))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
    assert killed
    tether(words(folder))
    assert_same(whole, outcome(folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code(number: int, code: int, words: Words, tmp_path: Path) -> None:
    def long(folder: Path) -> list[str]:
        # Long enough that no machine is done before the signal comes.
        given = words(folder)
        given[given.index("--max-steps") + 1] = "300"
        return [*given, "--save-strategy", "no"]

    tether(long(tmp_path / "whole"))
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "tether", *long(folder)], stderr=subprocess.PIPE, text=True, env=environment()
    )
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    assert "state saved; run the same command to go on" in told
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted" and 0 < record["steps"] < 300
    tether(long(folder))
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_full_disk_is_4_names_the_path_and_keeps_older_checkpoints(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = make_config(output_dir=str(tmp_path / "whole"), save_steps=3)
    train(whole)
    config = make_config(save_steps=3)
    folder = Path(config.output_dir)
    original = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        if "step-6" in str(path) and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError, match=r"step-6: .*No space left.* MiB are free") as caught:
        train(config)
    assert caught.value.exit_code == 4
    assert str(folder / "checkpoints" / "step-6") in str(caught.value)
    assert checkpoint.verify(folder / "checkpoints" / "step-3") is None
    assert not list((folder / "checkpoints").glob("step-6*"))
    monkeypatch.undo()
    train(config)
    assert_same(outcome(tmp_path / "whole"), outcome(folder))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "random.safetensors"])
def test_what_safetensors_itself_raises_on_a_full_disk_is_4_too(
    name: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        if path.name == name:
            # What safetensors 0.8 raises there; it is no OSError.
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        original(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError, match=r"step-3: .*No space left"):
        train(make_config(save_steps=3))
