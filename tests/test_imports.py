"""What starts fast stays fast: help, the preflight and the page need neither torch nor transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tether

DEMO_MODEL = Path(tether.__file__).parent / "worlds" / "assets" / "sentiment"
HEAVY = ("torch", "transformers", "peft", "pyarrow", "scipy", "altair")
LIGHT = [
    "tether.errors",
    "tether.config.train",
    "tether.config.parse",
    "tether.config.generate",
    "tether.records.rows",
    "tether.records.results",
    "tether.data.checks",
    "tether.analysis.stats",
    "tether.analysis.drift",
    "tether.reports.page",
    "tether.reports.card",
    "tether.cli.main",
    "tether.cli.train",
]


def loaded(code: str, *arguments: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of all modules it left loaded."""
    ending = "\nimport json, sys\nsys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code + ending, *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return set(json.loads(found.stderr.splitlines()[-1]))


def test_light_modules_load_neither_torch_nor_transformers() -> None:
    # All in one process: what none of them loads together, none of them loads alone.
    assert not loaded(f"import {', '.join(LIGHT)}") & {"torch", "transformers", "peft"}


def test_importing_tether_loads_nothing_else() -> None:
    names = loaded("import tether")
    assert not names & {*HEAVY, "numpy", "pydantic", "cyclopts", "yaml", "rich"}
    assert {name for name in names if name.partition(".")[0] == "tether"} == {"tether"}


def test_check_on_jsonl_loads_no_pyarrow_and_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " c"}) + "\n")
    code = (
        "import sys\nfrom tether.cli.main import main\n"
        "try:\n    main(['check', sys.argv[1]])\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert not loaded(code, str(path)) & set(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["check", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        f"from tether.cli.main import main\ntry:\n    main({words!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code"
    )
    assert not loaded(code) & set(HEAVY)


FIRST_UPDATE = """
import json, os, sys
from tether.cli.main import main
import tether.training.loop as loop
def stop(*_, **__):
    os.write(1, json.dumps([sum(os.times()[:2]), sorted(sys.modules)]).encode())
    os._exit(0)
loop.update_gradient = stop
main(sys.argv[1:])
"""


def test_the_demo_model_reaches_its_first_update_in_eight_seconds_without_libraries_it_does_not_use(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": f"My lamp {n} broke.", "chosen": " So sorry.", "rejected": " Not my fault."}
        for n in range(64)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "--model",
        str(DEMO_MODEL),
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--output-dir",
        str(tmp_path / "run"),
    ]
    torch_before = imports_torch()
    found = subprocess.run(
        [sys.executable, "-c", FIRST_UPDATE, "train", *words, "--quiet"], capture_output=True, check=True
    )
    seconds, names = json.loads(found.stdout)
    slowness = min(torch_before, imports_torch()) / TORCH_SECONDS
    assert not set(names) & {"altair", "datasets", "pandas", "matplotlib", "bitsandbytes", "tensorboard"}
    # Processor time, as below; a machine on which importing torch alone takes longer gets in proportion more.
    assert seconds < 8 * max(1.0, slowness)


TORCH_SECONDS = 1.2
"""Processor seconds of importing torch on the machine that eight seconds are meant for. The first update took
4.3 to 4.8 times as long as that, 5.2 to 5.5 s; on a shared host that others kept busy torch took 2.1 to 6."""


def imports_torch() -> float:
    """Return the processor seconds of a process that imports torch."""
    code = "import os, torch; print(sum(os.times()[:2]))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def test_help_answers_within_three_tenths_of_a_second() -> None:
    # Processor time, not the clock: a busy machine makes any start slow.
    best = min(started() for _ in range(3))
    assert best < 0.3


def started() -> float:
    before = os.times()
    subprocess.run([sys.executable, "-m", "tether", "--help"], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
