"""The pages of docs/ say what the code says: keys, fields, commands, public names."""

import dataclasses
import re
from pathlib import Path

import pytest

import tether
from tether.cli.main import COMMANDS
from tether.errors import Interrupted, TetherError
from tether.study.plan import StudyPlan
from tether.training.folder import OWN
from tether.training.merge import MergeRecord
from tether.training.plan import Plan
from tether.training.scoring import ScoreRecord
from tools.config_page import page

DOCS = Path(__file__).resolve().parents[1] / "docs"

DOCUMENTED = {
    "tether train --plan": [field.name for field in dataclasses.fields(Plan)],
    "tether score": list(ScoreRecord.model_fields),
    "tether merge": list(MergeRecord.model_fields),
    "tether study --plan": list(StudyPlan.model_fields),
}


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_config_page_is_what_the_config_class_says() -> None:
    assert text("config.md") == page(), "make it again: python tools/config_page.py > docs/config.md"


@pytest.mark.parametrize("command", DOCUMENTED)
def test_the_json_page_lists_exactly_the_fields(command: str) -> None:
    row = re.search(rf"^\| `{re.escape(command)}` \| `([^`]+)` \|$", text("json.md"), re.MULTILINE)
    assert row is not None
    assert row[1].split(", ") == DOCUMENTED[command]


def test_the_json_page_has_a_row_for_every_command() -> None:
    named = set(re.findall(r"^\| `tether ([a-z]+)", text("json.md"), re.MULTILINE))
    assert named == set(COMMANDS)


def test_the_json_page_names_every_exit_code() -> None:
    def codes(kind: type[TetherError]) -> set[int]:
        own = set() if kind is Interrupted else {kind.exit_code}
        return own.union(*(codes(child) for child in kind.__subclasses__()))

    sentence = re.search(r"Exit codes: (.*?)\.\n", text("json.md"), re.DOTALL)
    assert sentence is not None
    written = {int(number) for number in re.findall(r"\d+", sentence[1])}
    assert written == {0, 130, 143} | codes(TetherError)


def test_every_command_is_named_in_the_pages() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    assert [name for name in COMMANDS if f"tether {name}" not in pages] == []


def test_the_python_page_lists_the_public_names() -> None:
    named = re.findall(r"^\| `tether\.(\w+)\(", text("python.md"), re.MULTILINE)
    assert sorted(named) == sorted(set(tether.__all__) - {"__version__"})
    assert all(callable(getattr(tether, name)) for name in named)


def test_the_files_of_a_run_folder_are_documented() -> None:
    assert [name for name in sorted(OWN) if f"`{name}" not in text("run-folder.md")] == []
