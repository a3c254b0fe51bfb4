"""Test prompts and their references: which rows, how many were left out, and what the files say."""

from pathlib import Path
from typing import Any

import pytest

from tests.tasks.conftest import dialogue, hh_row, write_rows
from tether.config.parse import build
from tether.config.task import PairFiles, TaskConfig
from tether.errors import DataError, RunFolderError
from tether.tasks.sources import pick_rows, read_asked, readable_world, turns, write_asked
from tether.worlds import WORLDS


def config(files: dict[str, Any], **options: Any) -> TaskConfig:
    values = {"task": "dialogue", "title": "x", "model": "m", "files": files, "prompts": 4, **options}
    return build(TaskConfig, values, source="test")


def test_dialogues_of_one_turn_are_picked_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = [hh_row(1 + i % 2, i) for i in range(20)] + [hh_row(1, 0)]
    path = write_rows(tmp_path / "test.jsonl", rows)
    with path.open("a") as stream:
        stream.write("{broken\n")
    found = config({"train": ["t"], "test": [str(path)], "single_turn": True})
    assert found.files is not None
    asked, counts = pick_rows(found.files, found)
    assert len(asked) == 4
    assert all(one.prompt.count("\n\nHuman:") == 1 for one in asked if isinstance(one.prompt, str))
    assert all(one.reference.startswith(" Good ") for one in asked)
    assert counts == {
        "test_read": 22,
        "test_unusable": 1,
        "test_longer_dialogues": 10,
        "test_repeated_prompts": 1,
    }
    again, _ = pick_rows(found.files, found)
    assert again == asked
    other, _ = pick_rows(found.files, config({"train": ["t"], "test": [str(path)]}, seed=1))
    assert other != asked


def test_a_column_under_another_name_is_the_reference(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "test.jsonl", [{"prompt": f"POST {i} TL;DR:", "label": f" sum {i}"} for i in range(6)]
    )
    found = config({"train": ["t"], "test": [str(path)], "columns": {"label": "completion"}})
    assert found.files is not None
    asked, _ = pick_rows(found.files, found)
    assert {one.reference for one in asked} <= {f" sum {i}" for i in range(6)}
    assert all(one.reference.split()[-1] in str(one.prompt) for one in asked)


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.jsonl", [hh_row(3, 1), hh_row(1, 2)])
    found = config({"train": ["t"], "test": [str(path)], "single_turn": True})
    assert isinstance(found.files, PairFiles)
    with pytest.raises(DataError, match="1 test prompts are left of 2 rows"):
        pick_rows(found.files, found)


def test_turns_are_the_users() -> None:
    assert turns(dialogue(3, 0)) == 3
    assert turns("Post: ... TL;DR:") == 1
    assert turns(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})) == 1


def test_what_is_written_is_read_back_and_damage_is_refused(tmp_path: Path) -> None:
    rows = [hh_row(1, i) for i in range(5)]
    path = write_rows(tmp_path / "test.jsonl", rows)
    found = config({"train": ["t"], "test": [str(path)]})
    assert found.files is not None
    asked, counts = pick_rows(found.files, found)
    write_asked(tmp_path / "data", asked, counts)
    assert list(read_asked(tmp_path / "data")) == asked
    (tmp_path / "data" / "references.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(RunFolderError, match=r"references\.jsonl: not as it was written"):
        read_asked(tmp_path / "data")


def test_only_readable_worlds_have_references() -> None:
    assert readable_world("dialogue") is WORLDS["dialogue"]
    with pytest.raises(DataError, match="a task needs a readable world"):
        readable_world("enumerable-tiny")
