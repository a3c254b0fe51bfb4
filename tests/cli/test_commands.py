"""The commands as a person or a program meets them: exit codes, one-line errors, JSON, help."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Call
from tests.tiny import gentle_model, save_model
from tests.training.conftest import rows
from tether import __version__
from tether.cli.main import COMMANDS, main
from tether.config.train import TrainConfig
from tether.records.results import RunRecord
from tether.training.merge import MergeRecord
from tether.training.plan import Plan
from tether.training.scoring import ScoreRecord


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder `model` and 8 rows `rows.jsonl`."""
    folder = tmp_path_factory.mktemp("files")
    save_model(folder / "model", gentle_model())
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(8)))
    return folder


@pytest.fixture(scope="module")
def adapter_run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The words of a LoRA run of two updates, and its folder once finished."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    words = train_words(files, folder, "--use-peft", "--lora-r", "2", "--learning-rate", "1e-2")
    with pytest.raises(SystemExit) as end:
        main([*words, "--quiet"])
    assert end.value.code == 0
    return folder, words


def train_words(files: Path, out: Path, *more: str) -> list[str]:
    return [
        *("train", "--model", str(files / "model"), "--data", str(files / "rows.jsonl")),
        *("--output-dir", str(out), "--max-steps", "2", "--train-batch-size", "4", "--measure-prompts", "0"),
        *more,
    ]


def one_line(text: str) -> str:
    """Return the only line of an error; it names the command."""
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tether: ")
    assert "Traceback" not in text
    return lines[0]


@pytest.mark.parametrize("word", ["--version"])
def test_the_version_is_one_line(word: str, call: Call) -> None:
    assert call(word) == (0, f"{__version__}\n", "")


def test_python_m_tether_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tether", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command_in_lines_of_80_columns(words: list[str], call: Call) -> None:
    code, out, _ = call(*words)
    assert code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in out] == []
    assert max(map(len, out.splitlines())) <= 80


def test_help_of_train_lists_every_key(call: Call) -> None:
    code, out, _ = call("train", "--help")
    assert code == 0
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  --")}
    assert [k for k in TrainConfig.model_fields if "--" + k.replace("_", "-") not in listed] == []
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_answers_help(name: str, call: Call) -> None:
    code, out, err = call(name, "--help")
    assert code == 0 and "Usage" in out and not err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trian"], "train"),
        (["train", "--bta", "0.2"], "beta"),
        (["train", "--model", "m"], "output_dir"),
        (["score", "--model", "m"], "data"),
        (["train", "--beta", "big"], "beta"),
    ],
)
def test_wrong_words_are_usage_errors(words: list[str], named: str, call: Call) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert named in one_line(err).replace("-", "_")


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--beta", "-1", "above 0"),
        ("--label-smoothing", "0.5", "below 0.5"),
        ("--loss-type", "sigmoyd", "sigmoid"),
        ("--reference", "nobody", "model:PATH"),
        ("--eval-steps", "0", "eval_steps"),
        ("--load-best-model-at-end", "", "eval_dataset_name"),
    ],
)
def test_values_out_of_range_are_usage_errors_and_leave_no_folder(
    option: str, value: str, named: str, files: Path, tmp_path: Path, call: Call
) -> None:
    code, out, err = call(*train_words(files, tmp_path / "run"), *([option, *value.split()]))
    assert (code, out) == (2, "")
    assert named in one_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--logging_first_step", "key of trl's"),
        ("--no_remove_unused_columns", "key of trl's"),
        ("--micro_batch_size", "key of axolotl's"),
        ("--pref_beta", "key of llama-factory's"),
        ("--abacus", "Unknown option"),
    ],
)
def test_an_option_of_another_trainer_is_said_to_belong_into_yaml(
    option: str, named: str, files: Path, tmp_path: Path, call: Call
) -> None:
    code, _, err = call(*train_words(files, tmp_path / "run"), option)
    assert code == 2 and named in one_line(err) and ("theirs.yaml" in err) == (named != "Unknown option")


def test_refused_rows_and_models_leave_no_folder_and_one_that_was_there_stays(
    files: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    for position, refused in ((4, "nowhere/rows"), (2, str(tmp_path / "none"))):
        words = train_words(files, run)
        words[position] = refused
        code, _, err = call(*words)
        assert code == 3 and refused in one_line(err) and not run.exists()
    assert "named with its split: nowhere/rows:train" in call("check", "nowhere/rows")[2]
    run.mkdir()
    assert call(*words)[0] == 3 and run.is_dir()


def test_an_unknown_key_in_yaml_names_file_and_nearest_key(tmp_path: Path, call: Call) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("model: m\ndata: d\noutput_dir: o\nlearning_rat: 1e-5\n")
    code, _, err = call("train", path)
    assert code == 2
    line = one_line(err)
    assert "tune.yaml" in line and "'learning_rat'" in line and "did you mean learning_rate?" in line


def test_refused_input_is_3_and_names_what_is_missing(files: Path, tmp_path: Path, call: Call) -> None:
    words = train_words(files, tmp_path / "run")
    for option, path in (("--model", tmp_path / "no-model"), ("--data", tmp_path / "no-rows.jsonl")):
        changed = list(words)
        changed[changed.index(option) + 1] = str(path)
        code, out, err = call(*changed)
        assert (code, out) == (3, "")
        assert path.name in one_line(err)


def test_a_guard_is_6_and_names_the_rows(files: Path, tmp_path: Path, call: Call) -> None:
    words = train_words(files, tmp_path / "run", "--learning-rate", "1e30", "--lr-scheduler-type", "constant")
    code, out, err = call(*words, "--quiet")
    assert (code, out) == (6, "")
    assert "rows.jsonl:" in one_line(err)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_broken_weights_are_3_and_named(files: Path, tmp_path: Path, call: Call) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(files / "model", broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    words = train_words(files, tmp_path / "run")
    words[words.index("--model") + 1] = str(broken)
    code, out, err = call(*words, "--quiet")
    assert (code, out) == (3, "")
    assert "NaN or infinite" in one_line(err)


def test_a_bug_of_ours_is_1_and_says_how_to_see_more(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.cli import train as module

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(module, "build", broken)
    code, _, err = call("train")
    assert code == 1 and "--debug" in one_line(err)
    code, _, err = call("train", "--debug")
    assert code == 1 and "Traceback" in err


def test_train_json_is_one_document_with_the_records_fields(files: Path, tmp_path: Path, call: Call) -> None:
    code, out, _ = call(*train_words(files, tmp_path / "run"), "--json")
    assert code == 0
    document = json.loads(out)
    assert list(document) == list(RunRecord.model_fields)
    assert document == json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["status"] == "finished" and document["steps"] == 2


def test_a_finished_run_called_again_is_0_and_changes_nothing(
    adapter_run: tuple[Path, list[str]], call: Call
) -> None:
    folder, words = adapter_run
    before = (folder / "model" / "adapter_model.safetensors").stat().st_mtime_ns
    code, out, err = call(*words, "--json")
    assert code == 0
    assert json.loads(out)["run_id"] == json.loads((folder / "run.json").read_text())["run_id"]
    assert (folder / "model" / "adapter_model.safetensors").stat().st_mtime_ns == before
    code, _, err = call(*words)
    assert code == 0 and "finished" in err


def test_another_option_on_the_same_folder_is_3_and_names_it(
    adapter_run: tuple[Path, list[str]], call: Call
) -> None:
    code, _, err = call(*adapter_run[1], "--beta", "0.3")
    assert code == 3
    assert "config.beta was 0.1, now 0.3" in one_line(err)


def test_plan_prints_the_cost_and_makes_no_folder(files: Path, tmp_path: Path, call: Call) -> None:
    code, out, _ = call(*train_words(files, tmp_path / "run"), "--plan", "--json")
    assert code == 0
    document = json.loads(out)
    assert list(document) == [field.name for field in fields(Plan)]
    assert (document["rows"], document["updates"], document["updates_per_epoch"]) == (8, 2, 2)
    assert not (tmp_path / "run").exists()
    code, out, _ = call(*train_words(files, tmp_path / "run"), "--plan")
    assert code == 0 and "peak, MiB" in out


def test_options_win_over_yaml_and_the_resolved_config_repeats_the_run(
    files: Path, tmp_path: Path, call: Call
) -> None:
    path = tmp_path / "tune.yaml"
    settings: dict[str, Any] = {
        "model": str(files / "model"),
        "data": str(files / "rows.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "beta": 0.5,
        "learning_rate": "1e-5",
        "max_steps": 1,
        "measure_prompts": 0,
    }
    path.write_text(yaml.safe_dump(settings).replace("'1e-5'", "1e-5"))
    code, out, _ = call("train", path, "--beta", "0.25", "--json")
    assert code == 0
    config = json.loads(out)["config"]
    assert (config["beta"], config["learning_rate"], config["max_steps"]) == (0.25, 1e-5, 1)
    code, out, _ = call("train", tmp_path / "run" / "config.yaml", "--output-dir", tmp_path / "two", "--json")
    assert code == 0
    again = json.loads(out)["config"]
    assert {**again, "output_dir": ""} == {**config, "output_dir": ""}
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "two")]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def test_score_json_has_the_documented_fields(files: Path, tmp_path: Path, call: Call) -> None:
    out_folder = tmp_path / "reference"
    code, out, _ = call(
        *("score", "--model", files / "model", "--data", files / "rows.jsonl"), "--out", out_folder, "--json"
    )
    assert code == 0
    document = json.loads(out)
    assert list(document) == list(ScoreRecord.model_fields)
    assert (document["rows"], document["completions"]) == (8, 16)
    words = train_words(files, tmp_path / "run", "--reference", f"artifact:{out_folder}")
    code, _, err = call(*words, "--quiet")
    assert (code, err) == (0, "")


def test_merge_json_has_the_documented_fields(
    adapter_run: tuple[Path, list[str]], tmp_path: Path, call: Call
) -> None:
    code, out, _ = call("merge", adapter_run[0], "--out", tmp_path / "whole", "--json")
    assert code == 0
    document = json.loads(out)
    assert list(document) == list(MergeRecord.model_fields)
    assert document["error_max"] < 1e-4 < document["adapter_effect"]
    assert (tmp_path / "whole" / "model.safetensors").is_file()
    code, _, err = call("merge", adapter_run[0], "--out", tmp_path / "whole")
    assert code == 3 and "not empty" in one_line(err)


def test_quiet_prints_nothing_and_notes_go_to_standard_error(files: Path, tmp_path: Path, call: Call) -> None:
    assert call(*train_words(files, tmp_path / "quiet"), "--quiet") == (0, "", "")
    code, out, err = call(*train_words(files, tmp_path / "loud"))
    assert code == 0 and "finished" in out and "reference" in err
