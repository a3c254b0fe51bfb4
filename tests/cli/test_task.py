"""The command for people and programs: lists, plans, runs, and says in one line what cannot be done."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Call
from tether import api
from tether.records.comparison import Estimate
from tether.records.task import Example, Gap, TaskPolicy, TaskRecord, WinRate


def test_list_names_every_task_in_both_sizes(call: Call) -> None:
    code, out, _ = call("task", "list")
    assert code == 0 and out.count("--full paper") == 3
    rows = json.loads(call("task", "list", "--json")[1])["tasks"]
    assert [row["task"] for row in rows[::2]] == ["sentiment", "summarization", "dialogue"]


def test_a_printed_config_can_be_given_back(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("task", "config", "dialogue", "--full", "paper")
    assert code == 0
    path = tmp_path / "own.yaml"
    path.write_text(out)
    words = ("task", "run", "dialogue", "--full", path, "--output-dir", tmp_path / "o", "--plan", "--json")
    stages = json.loads(call(*words)[1])["stages"]
    assert [stage["stage"] for stage in stages][:3] == ["data", "preferred-ft", "dpo-beta-0.1"]
    assert stages[-1]["does"].endswith("by a judge still to be named (--judge)")
    with_judge = json.loads(call(*words, "--judge", "length")[1])["stages"]
    assert with_judge[-1]["does"].endswith("by length")
    assert not (tmp_path / "o").exists()


def test_a_plan_counts_what_will_be_done(call: Call, tmp_path: Path) -> None:
    """Sentiment: 4 answering policies x 5 temperatures x 200 prompts, and 15 more samples at 4 of them."""
    code, out, _ = call("task", "run", "sentiment", "--output-dir", tmp_path / "o", "--plan")
    assert code == 0
    assert f"{200 * (4 * 5 + 15 * 4):,} completions" in out
    assert f"{200 * 6 * 5:,} pairs in both orders" in out
    assert "126 updates" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("poetry",), 2, "no task 'poetry'; there are sentiment, summarization, dialogue"),
        (("dialogue", "--full", "nowhere.yaml"), 2, "nowhere.yaml: No such file"),
        (("dialogue", "--full", "paper"), 2, "its reward is unknown, so name a judge"),
        (("dialogue", "--full", "paper", "--judge", "oracle"), 2, "judge 'oracle' is not known"),
        (
            ("dialogue", "--full", "paper", "--judge", "length"),
            3,
            "pythia-2.8b: no folder here, not (all of it) in the hub's cache, and HF_HUB_OFFLINE is set",
        ),
        (("dialogue", "--quick", "--full", "paper"), 2, "--quick shortens the small tasks"),
        (("dialogue", "--prompts", "1"), 2, "prompts: "),
    ],
)
def test_what_cannot_be_done_is_one_line(
    call: Call, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    found, out, err = call("task", "run", *words, "--output-dir", tmp_path / "o")
    assert (found, out) == (code, "")
    assert line in err and len(err.splitlines()) <= 2


def test_a_run_prints_one_document_or_a_table(call: Call, tmp_path: Path) -> None:
    document = {
        "task": "dialogue",
        "title": "short",
        "world": "dialogue",
        "pairs": 8,
        "eval_pairs": 4,
        "prompts": 4,
        "temperatures": [1],
        "best_of": 1,
        "alpha": None,
        "max_new_tokens": 8,
        "train": {"max_steps": 1, "train_batch_size": 4, "measure_prompts": 2, "kl_max_new_tokens": 4},
    }
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(document))
    words = ("task", "run", "dialogue", "--full", path, "--output-dir", tmp_path / "o")
    code, out, err = call(*words, "--json")
    assert code == 0 and err == ""
    record = TaskRecord.model_validate(json.loads(out))
    assert [policy.name for policy in record.policies] == ["model", "preferred-ft", "dpo-beta-0.1"]
    code, out, err = call(*words)
    assert code == 0 and "dpo-beta-0.1, 95 %" in out
    assert err.splitlines() == ["data", "preferred-ft", "dpo-beta-0.1", "answers", "judging"]
    assert call(*words, "--quiet")[1:] == ("", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_between_the_runs_is_one_line_and_its_status(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    # A shell's background jobs ignore Ctrl-C; the tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(api, "task", lambda *_, **__: signal.raise_signal(number))
    found, out, err = call("task", "run", "dialogue", "--output-dir", tmp_path / "o")
    signal.signal(signal.SIGINT, before)
    assert (found, out) == (code, "")
    assert (
        err.splitlines()[-1] == "tether: stopped; what is done is kept, the same command goes on from there"
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_task_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """SIGKILL while a model trains, and while answers are written; the record is that of a run left alone."""
    document = {
        "task": "dialogue", "title": "short", "world": "dialogue", "pairs": 32, "eval_pairs": 8,
        "prompts": 12, "temperatures": [0, 1], "best_of": 3, "alpha": 0.1, "max_new_tokens": 24,
        "train": {"max_steps": 4, "train_batch_size": 8, "measure_prompts": 4, "kl_max_new_tokens": 8},
    }  # fmt: skip
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(document))
    records = []
    for name, stages in (
        ("whole", ()),
        ("killed", ("dpo-beta-0.1", "answers")),
    ):
        words = ["task", "run", "dialogue", "--full", path, "--output-dir", tmp_path / name]
        command = [sys.executable, "-m", "tether", *map(str, words)]
        for stage in stages:
            with subprocess.Popen(
                command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            ) as run:
                assert run.stderr is not None
                assert any(line.strip() == stage for line in run.stderr)
                run.kill()
        subprocess.run([*command, "--quiet"], check=True)
        found = json.loads((tmp_path / name / "task.json").read_text())
        records.append({key: found[key] for key in ("win_rates", "gaps", "frontier", "examples", "data")})
    assert records[0] == records[1]


def test_every_field_of_task_json_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for record in (TaskRecord, TaskPolicy, WinRate, Gap, Example, Estimate):
        for field in record.model_fields:
            assert f"`{field}`" in text, f"docs/tasks.md does not say what {field} is"
