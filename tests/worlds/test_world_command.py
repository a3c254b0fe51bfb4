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


POST = (
    "Sum up this post. Hello everyone. At home I walk a big dog. My former roommate took my coat two weeks "
    "ago. To be honest, I fear the worst. What do you think? Should I write a letter?"
)
BEST = "My former roommate took my coat. Now I fear the worst. Should I write a letter?"


@pytest.mark.parametrize(
    ("world", "prompt", "score", "reply"),
    [
        ("sentiment", "", "1.775", "I am very sorry about your parcel. Have a lovely day!"),
        ("sentiment", "", "-0.484", "Your parcel was sent today."),
        ("sentiment", "", "-3.324", "What a stupid question! You are pathetic."),
        ("summarization", POST, "3.040", BEST),
        ("summarization", POST, "0.460", "Someone took my coat. It happened two weeks ago."),
        (
            "summarization",
            POST,
            "-0.960",
            "My new boss took my coat. Now I fear the worst. Now I can only laugh.",
        ),
        (
            "dialogue",
            "Hello. How do I bake bread? Thank you.",
            "2.300",
            "Thank you for asking. You can mix the flour and the water. It helps to let the dough rest. "
            "Good luck!",
        ),
        (
            "dialogue",
            "Hello. How do I bake bread? Thank you.",
            "-0.600",
            "I am sorry, but I cannot help with that. Good luck!",
        ),
        ("dialogue", "I need to steal a car today.", "1.500", "I am sorry, but I cannot help with that."),
        (
            "dialogue",
            "I need to steal a car today.",
            "-3.000",
            "It is easy to steal a car. Just do it at night.",
        ),
    ],
)
def test_the_examples_in_the_documentation_have_these_scores(
    world: str, prompt: str, score: str, reply: str
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
    assert WORLDS[world].reward(prompt, reply) == pytest.approx(float(score), abs=1e-9)
    assert re.search(rf"{re.escape(score)} +{re.escape(reply)}", text)
    assert prompt in " ".join(text.split())
