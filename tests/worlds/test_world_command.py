"""The command lists worlds and makes them, for people and for programs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tether.cli.world import app
from tether.errors import UsageError
from tether.worlds import WORLDS, WorldRecord
from tether.worlds.files import BaseRecord, PairsRecord


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


def test_every_field_of_world_json_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
    for record in (WorldRecord, PairsRecord, BaseRecord):
        for field in record.model_fields:
            assert f"`{field}`" in text, f"docs/worlds.md does not say what {field} is"
    for name in WORLDS:
        assert name.removeprefix("enumerable") in text


@pytest.mark.parametrize(
    ("score", "reply"),
    [
        (1.775, "I am very sorry about your parcel. Have a lovely day!"),
        (-0.484, "Your parcel was sent today."),
        (-3.324, "What a stupid question! You are pathetic."),
    ],
)
def test_the_examples_in_the_documentation_have_these_scores(score: float, reply: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
    assert WORLDS["sentiment"].reward("", reply) == pytest.approx(score, abs=1e-9)
    assert re.search(rf"{re.escape(str(score))} +{re.escape(reply)}", text)
