"""The command lists worlds and makes them, for people and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tether.cli.world import app
from tether.errors import UsageError
from tether.worlds import WORLDS


def run(*words: str) -> Any:
    return app(list(words), result_action="return_value", exit_on_error=False, print_error=False)


def test_list_names_every_world(capsys: pytest.CaptureFixture[str]) -> None:
    run("list")
    text = capsys.readouterr().out
    assert all(name in text for name in WORLDS)
    run("list", "--json")
    rows = json.loads(capsys.readouterr().out)["worlds"]
    assert [row["name"] for row in rows] == list(WORLDS)
    assert set(rows[0]) == {"name", "version", "description", "pairs", "eval_pairs", "prompts"}


@pytest.mark.usefixtures("quick_base")
def test_make_writes_the_files_and_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "w")
    words = ["make", "enumerable-tiny", "--out", out, "--pairs", "10", "--eval-pairs", "5", "--seed", "2"]
    run(*words, "--json")
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"folder", "made_now", "world"}
    assert document["world"]["made"] == {"pairs": 10, "eval_pairs": 5, "prompts": 2, "seed": 2}
    assert document["made_now"]
    run(*words)
    text = capsys.readouterr().out
    assert "was there already" in text
    assert "10 pairs" in text
    run(*words, "--quiet")
    assert capsys.readouterr().out == ""


def test_an_unknown_world_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean sentiment"):
        run("make", "sentimnet", "--out", str(tmp_path / "w"))
