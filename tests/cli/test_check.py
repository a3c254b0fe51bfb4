"""`tether check`: a table that fits a terminal, one JSON document, exit 3 when nothing can be used."""

import json
from pathlib import Path

import pytest

from tests.tiny import tiny_tokenizer
from tether.cli.main import main
from tether.data.report import DataReport


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["check", *map(str, words)])
    return int(caught.value.code or 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": f"q{i}", "chosen": " yes", "rejected": " no", "note\x1b[2J": "x"} for i in range(9)]
    rows += [{"prompt": "bad", "chosen": 5, "rejected": " no"}] * 8 + [rows[0]] * 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_table_fits_80_columns_and_names_rows(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--list-rows", "3") == 0
    shown = capsys.readouterr().out
    body = [line for line in shown.splitlines() if not line.startswith(str(data.parent))]
    assert max(map(len, body)) <= 80
    assert "19 rows, 11 used" in shown and "format preference" in shown
    assert "left out: 8 x wrong_type" in shown
    assert "rows.jsonl:10: chosen is a number (5), must be text or a list of messages" in shown
    assert "and 5 more (--json lists all)" in shown
    assert "warning: 2 x duplicate" in shown and "chosen is the longer answer in 100.0 %" in shown


def test_control_characters_of_a_file_never_reach_the_terminal(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data)
    shown = capsys.readouterr().out
    assert "note\\x1b[2J" in shown and "\x1b" not in shown


def test_json_is_one_document_with_every_row(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("tokens") is None
    report = DataReport.model_validate(document)
    assert report.dropped() == {"wrong_type": 8}
    assert [len(f.rows) for f in report.findings] == [8, 2]


def test_quiet_says_only_what_is_wrong(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--quiet") == 0
    assert capsys.readouterr().out.startswith("left out: 8 x wrong_type")
    good = tmp_path / "good.jsonl"
    good.write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "weight": 0.5}\n')
    assert run(good, "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_nothing_usable_and_nothing_there_end_with_3_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text('{"prompt": "q", "chosen": "a", "rejected": "a"}\n')
    assert run(path, "--json") == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["used"] == 0
    assert err.count("\n") == 1 and "none of 1 rows can be used: 1 identical (same.jsonl:1" in err
    assert run(tmp_path / "sane.jsonl") == 3
    assert "did you mean" in capsys.readouterr().err


def test_several_files_and_held_out_rows(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.csv"
    more.write_text("prompt,chosen,rejected\nNA,007,1e5\n")
    assert run(data, more, "--eval-data", data, "--task", "preference", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [(f["split"], f["used"]) for f in report["files"]] == [("train", 11), ("train", 1), ("eval", 11)]
    assert {f["kind"]: f["count"] for f in report["findings"]}["overlap_row"] == 11


def test_a_model_folder_adds_what_its_tokenizer_says(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    assert run(data, "--model", tmp_path / "model", "--json") == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert (tokens["rows"], tokens["max_length"]) == (11, 1024)
    assert run(data, "--model", tmp_path / "model") == 0
    assert "completion, tokens" in capsys.readouterr().out
