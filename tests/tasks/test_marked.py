"""A mark that ends prompts in one file and begins answers in another ends up in the prompt of both."""

from pathlib import Path

import pytest

from tests.tasks.conftest import write_rows
from tether.config.parse import build
from tether.config.task import TaskConfig
from tether.errors import DataError
from tether.records.results import read_lines
from tether.tasks import sources
from tether.tasks.configured import task_config
from tether.tasks.marked import marked, write_marked

MARK = "TL;DR:"
POST = "SUBREDDIT: r/x\nTITLE: t\nPOST: My fox ran."


def pair(number: int, chosen: str = "TL;DR: good", rejected: str = "TL;DR:  bad") -> dict[str, str]:
    return {"prompt": f"{POST} {number}", "chosen": chosen, "rejected": rejected}


def test_the_mark_moves_from_both_answers_to_a_line_of_the_prompt() -> None:
    assert marked(pair(1), MARK) == {
        "prompt": f"{POST} 1\nTL;DR:", "chosen": " good", "rejected": "  bad"
    }  # fmt: skip
    there = {"prompt": f"{POST}\nTL;DR:", "completion": " My fox."}
    assert marked(there, MARK) == there
    # Whatever the file's last line break, one stands before the mark, and the text read is the same.
    assert marked({**pair(1), "prompt": f"{POST}\n"}, MARK)["prompt"] == f"{POST}\nTL;DR:"  # pyright: ignore


@pytest.mark.parametrize(
    "row",
    [
        pair(1, rejected="bad"),
        pair(1, chosen="It is TL;DR: good"),
        {"prompt": POST},
        {**pair(1), "prompt": 3},
    ],
)
def test_a_row_without_the_mark_is_left_out(row: dict[str, object]) -> None:
    assert marked(row, MARK) is None


def test_rows_are_written_and_those_without_are_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [pair(1), pair(2, chosen="none"), pair(3)])
    found = write_marked([str(path)], MARK, tmp_path / "out.jsonl", "pairs")
    assert found == {"pairs": 2, "pairs_without_TL;DR:": 1}
    assert [row["prompt"][-8:] for row in read_lines(tmp_path / "out.jsonl")] == ["1\nTL;DR:", "3\nTL;DR:"]
    with pytest.raises(DataError, match="stands neither at the end of a prompt"):
        write_marked([str(path)], "SUM:", tmp_path / "none.jsonl", "pairs")


def test_training_and_test_rows_of_the_public_layout_have_prompts_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published config over files laid out as the two public data sets are."""
    full = task_config("summarization", "paper")
    assert full.files is not None and full.files.mark == MARK
    tests = [{"prompt": f"{POST} t{i}\nTL;DR:", "label": f" sum {i}"} for i in range(6)]
    files = full.files.model_copy(
        update={
            "train": (str(write_rows(tmp_path / "train.jsonl", [pair(i) for i in range(9)])),),
            "eval": str(write_rows(tmp_path / "valid1.jsonl", [pair(i) for i in range(9, 12)])),
            "test": (str(write_rows(tmp_path / "test.jsonl", tests)),),
        }
    )
    document = full.model_dump() | {"files": files.model_dump(), "prompts": 4}
    config = build(TaskConfig, document, source="test")
    monkeypatch.setattr(sources, "start_model", lambda name, data: name)
    assert config.files is not None
    for _ in range(2):
        found = sources.file_data(config, config.files, tmp_path / "out")
        rows = [row for path in (*found.train, found.held_out) for row in read_lines(Path(str(path)))]
        prompts = [row["prompt"] for row in rows] + [str(one.prompt) for one in found.asked]
        assert len(rows) == 12 and all(prompt.endswith("\nTL;DR:") for prompt in prompts)
        assert all(MARK not in row["chosen"] + row["rejected"] for row in rows)
        assert all(one.reference.startswith(" sum") for one in found.asked)
        assert (found.counts["pairs"], found.counts["held_out"], found.counts["test_prompts"]) == (9, 3, 4)
