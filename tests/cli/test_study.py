"""`tether study` as a person or a program meets it: planned, run, added to, shown; and while it runs."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.cli.conftest import Call, Printed
from tests.study.fixtures import Shape, make_study
from tests.tiny import save_model, tiny_model
from tests.training.conftest import rows
from tether.cli.study import show
from tether.cli.study_progress import StudyTerminal
from tether.config.study import build_study, resolved
from tether.records.findings import Findings, read_findings
from tether.records.results import write_json
from tether.records.study import StudyRecord, read_study
from tether.study.collect import short_references
from tether.study.report import write_study_report


def test_a_study_from_flags_is_planned_run_added_to_and_shown(printed: Printed, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_model("llama"))
    for name, count, first in (("train", 12, 0), ("eval", 4, 100)):
        lines = [json.dumps(row) for row in rows(count, first)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "study"
    words = [
        *("study", "--model", tmp_path / "model", "--data", tmp_path / "train.jsonl"),
        *("--eval-data", tmp_path / "eval.jsonl", "--beta", "1,0.1", "--loss-type", "sigmoid"),
        *("--reference", "self", "--seed", "0", "--max-steps", "2", "--train-batch-size", "4"),
        *("--kl-max-new-tokens", "4", "--measured-prompts", "3", "--workers", "1", "--threads", "1"),
        *("--output-dir", out),
    ]
    plan = json.loads(printed(*words, "--plan", "--json"))
    assert (plan["cells"], plan["finished"], plan["updates"]) == (2, 0, 4)
    assert plan["references"] == {"self": 1} and plan["alone"] == {"self": 2}
    assert plan["seconds"] > 0 and plan["memory_mib"] > 0 and plan["disk_mib"] > 0
    shown = printed(*words, "--plan")
    assert "cell" in shown and not (out / "study.json").exists() and max(map(len, shown.split("\n"))) <= 80
    assert [cell["state"] for cell in json.loads(printed(*words, "--json"))["cells"]] == ["finished"] * 2
    added = json.loads(printed("study", "add", out, "--beta", "0.3", "--json"))
    assert [cell["factors"]["beta"] for cell in added["cells"]] == [1.0, 0.1, 0.3]
    assert {cell["state"] for cell in added["cells"]} == {"finished"}
    table = printed("study", "report", out)
    assert max(map(len, table.split("\n"))) <= 80
    for text in ("start", "β 1", "β 0.1", "β 0.3", "how tight?", "Needs a judge", "report.html"):
        assert text in table, text
    assert json.loads(printed("study", "report", out, "--json"))["recommended"] is None
    page = json.loads(printed("study", "example", out, "eval.jsonl:2", "--json"))["page"]
    assert "eval.jsonl:2" in Path(page).read_text(encoding="utf-8")
    for quiet in (("report", out), ("example", out, "eval.jsonl:2")):
        assert printed("study", *quiet, "--quiet") == ""


def test_a_folder_without_a_study_is_told_as_that(call: Call, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "study.yaml").write_text("")
    for folder, why in ((empty, "study.yaml is empty"), (tmp_path / "new", "there is no study.yaml")):
        for words, status in ((("--output-dir", folder), 2), (("add", folder, "--beta", "1"), 3)):
            code, out, err = call("study", *words)
            assert (code, out) == (status, "")
            assert f"{folder}: no study here to go on with ({why}): start it with --model and --data" in err
    code, _, err = call("study")
    assert code == 2 and "give --model, --data and --output-dir" in err
    assert not (tmp_path / "new").exists()


def test_a_study_whose_options_file_is_lost_goes_on_from_its_record(call: Call, tmp_path: Path) -> None:
    record = make_study(tmp_path, betas=(0.1,), seeds=(0,))
    options = {"model": "nowhere", "data": ["rows.jsonl"], "beta": [0.1], "output_dir": str(tmp_path)}
    kept = record.model_copy(update={"config": resolved(build_study(options))})
    write_json(tmp_path / "study.json", kept)
    (tmp_path / "study.yaml").write_text("")
    code, _, err = call("study", "--output-dir", tmp_path, "--plan")
    assert code == 3 and "tether: nowhere: " in err
    code, _, err = call("study", "add", tmp_path, "--beta", "x")
    assert code == 2 and "add: has beta 'x': input should be a valid number" in err
    code, _, err = call("study", "add", tmp_path)
    assert code == 2 and "name what to add" in err


@pytest.mark.parametrize(("state", "status"), [("failed", 1), ("finished", 0)])
def test_a_study_of_which_every_cell_failed_says_so_by_its_exit_code(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, status: int
) -> None:
    record = make_study(tmp_path, betas=(0.3, 0.1), seeds=(0,))
    failed = record.cells[0].model_copy(update={"state": "failed", "error": "no"})
    other = record.cells[1].model_copy(update={"state": state, "error": None})
    record = record.model_copy(update={"cells": (failed, other)})

    def ran(*_: Any, **__: Any) -> StudyRecord:
        return record

    monkeypatch.setattr("tether.api.study_config", ran)
    words = ("study", "--model", "m", "--data", "d.jsonl", "--output-dir", tmp_path)
    code, out, _ = call(*words, "--json")
    assert code == status and json.loads(out)["cells"][1]["state"] == state
    code, out, _ = call(*words)
    assert code == status and "failed" in out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("study.json", '{"schema', "damaged, not whole as JSON: EOF while parsing a string"),
        ("shared/prompts.jsonl", '{"row_id"\n', "damaged, line 1 is not JSON"),
        ("shared/vocabulary.json", "[", "damaged, no JSON object of token texts by id"),
        ("shared/vocabulary.json", "[]", "damaged, no JSON object of token texts by id"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    call: Call, tmp_path: Path, name: str, text: str, said: str
) -> None:
    make_study(tmp_path, betas=(0.1,), seeds=(0,))
    (tmp_path / name).write_text(text)
    code, out, err = call("study", "report", tmp_path)
    assert (code, out) == (3, "") and f"{tmp_path / name}: {said}" in err and "pydantic" not in err


@pytest.fixture
def terminal(tmp_path: Path) -> tuple[StudyTerminal, StudyRecord, io.StringIO]:
    """Return a live table of 80 columns, the study it shows (none finished yet), and what it printed."""
    make_study(tmp_path, betas=(1.0, 0.1), references=("self", "model:runs/strong/model"), seeds=(0, 1))
    record = read_study(tmp_path)
    waiting = tuple(cell.model_copy(update={"state": "planned"}) for cell in record.cells)
    said = io.StringIO()
    shown = StudyTerminal()
    shown._console = Console(file=said, width=80, force_terminal=True, markup=False, highlight=False)
    return shown, record.model_copy(update={"cells": waiting}), said


def test_the_table_ends_with_verdicts_what_they_rest_on_and_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed is about trained models; the dial's price; without a recommendation, how much is missing."""
    plain: dict[str, tuple[str, Findings]] = {}
    options: dict[str, Any]
    for name, options in (
        ("gains", {"betas": (1.0, 0.3, 0.1), "seeds": (0,), "shape": Shape(prompts=80)}),
        ("unclear", {"betas": (1.0, 0.1), "seeds": (0, 1), "shape": Shape(prompts=20, alpha=-0.35)}),
    ):
        folder = tmp_path / name
        record = make_study(folder, **options).model_copy(update={"judge": "gold_reward"})
        write_json(folder / "study.json", record)
        write_study_report(folder)
        show(read_study(folder), folder)
        out = capsys.readouterr().out
        assert max(map(len, out.split("\n"))) <= 80
        plain[name] = " ".join(out.split()), read_findings(folder)
    text, found = plain["gains"]
    assert [a.verdict for a in found.answers[:1]] == ["supported"]
    assert "supported: Of these trained models take the one at" in text and "% interval" in text
    assert "(80 prompts, 1 seed)" in text
    assert "One seed (0): this is about these 3 trained models, not about β." in text
    assert found.tight[0].dial is not None and "The same KL without retraining:" in text
    text, found = plain["unclear"]
    assert found.recommended is None and found.tight[0].prompts_needed is not None
    assert "not distinguishable: No recommendation for DPO" in text and "(20 prompts, 2 seeds)" in text
    assert "prompts would be needed to see it" in text and "more or cleaner pairs" in text


def lines(shown: StudyTerminal) -> list[str]:
    """Return the live table as it stands."""
    out = io.StringIO()
    Console(file=out, width=80).print(shown._table())
    return [*out.getvalue().rstrip("\n").split("\n"), shown._summary()]


def test_the_live_table_names_cells_by_what_varies_and_fits_80_columns(
    terminal: tuple[StudyTerminal, StudyRecord, io.StringIO],
) -> None:
    shown, record, said = terminal
    shown.cells(record)
    assert shown._summary() == "0 of 8 cells finished; starting workers"
    first, other = record.cells[0].cell_id, record.cells[-1].cell_id
    stage = "scoring the reference (model:runs/strong/model): 512 of 1200 rows"
    events: list[dict[str, Any]] = [
        {"event": "begin", "cell": first},
        {"event": "begin", "cell": other},
        {"event": "stage", "cell": other, "text": stage},
        {"event": "step", "cell": first, "step": 1, "total": 100, "loss": 0.6931},
        {"event": "log", "cell": first, "line": {"rewards/margins": 0.25}},
        {"event": "step", "cell": first, "step": 50, "total": 100, "loss": 0.5},
    ]
    for event in events:
        shown.event(event)
    head, training, scoring, summary = lines(shown)
    assert head.split() == ["cell", "step", "loss", "margin", "left"]
    assert training.startswith("DPO β 1, seed 0") and "50/100" in training and "0.5000" in training
    assert "0.250" in training and training.rstrip().endswith("0:00")
    assert scoring.startswith("DPO, reference strong") and "scored 512 of 1200" in scoring
    assert max(map(len, (head, training, scoring))) <= 80
    assert summary.startswith("0 of 8 cells finished; about 0:0")
    shown.event({"event": "end", "cell": first, "state": "finished"})
    shown.event({"event": "end", "cell": other, "state": "failed", "error": "step 3: the gradient is NaN"})
    shown.close()
    assert "DPO β 1, seed 0: finished after 0:00, loss 0.5000" in said.getvalue()
    assert "failed: step 3: the gradient is NaN" in said.getvalue()
    done = tuple(cell.model_copy(update={"state": "finished"}) for cell in record.cells)
    shown.cells(record.model_copy(update={"cells": done}))
    assert shown._summary() == "8 of 8 cells finished; writing findings and page"
    shown.close()


def test_references_that_end_alike_keep_their_whole_names() -> None:
    given = [
        "self",
        "model:a/strong",
        "model:runs/first/model",
        "model:x/ref",
        "model:y/ref",
        "artifact:x/ref",
    ]
    assert list(short_references(given).values()) == [
        "self", "strong", "first", "model:x/ref", "model:y/ref", "artifact:x/ref"
    ]  # fmt: skip
