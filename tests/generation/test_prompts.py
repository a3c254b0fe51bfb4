"""Every way to write a prompt gives the prompt, and a row without one is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tether.errors import DataError
from tether.generation.prompts import Prompt, read_prompts

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt": [USER]}, (USER,)),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "Hi"),
        ({"prompt": "Hi", "completion": "a"}, "Hi"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]}, (USER,)),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
            "\n\nHuman: Hi\n\nAssistant:",
        ),
        ({"messages": [USER, ANSWER]}, (USER,)),
        ({"messages": [USER, ANSWER, USER]}, (USER, ANSWER, USER)),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, (USER,)),
        (
            {"conversations": [{"from": "human", "value": "Hi"}], "system": "Be kind"},
            ({"role": "system", "content": "Be kind"}, USER),
        ),
        ({"instruction": "Hi"}, (USER,)),
        ({"instruction": "Hi", "output": "a"}, (USER,)),
    ],
)
def test_the_prompt_of_every_kind_of_row(tmp_path: Path, row: dict[str, Any], content: Any) -> None:
    assert [prompt.content for prompt in read_prompts(write(tmp_path / "p.jsonl", [row]))] == [content]


def test_ids_tools_and_template_arguments_come_along(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "id": "first", "tools": [{"name": "f"}]},
        {"prompt": "b", "prompt_id": 7, "chat_template_kwargs": {"thinking": True}},
        {"prompt": "c"},
    ]
    assert read_prompts(write(tmp_path / "p.jsonl", rows)) == [
        Prompt("first", "a", ({"name": "f"},)),
        Prompt("7", "b", (), {"thinking": True}),
        Prompt("p.jsonl:3", "c"),
    ]


def test_the_key_tells_prompts_apart_and_nothing_else() -> None:
    assert Prompt("x", "a").key == Prompt("y", "a").key
    assert len({p.key for p in (Prompt("", "a"), Prompt("", "b"), Prompt("", "a", ({"name": "f"},)))}) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_lines_of_text_are_kept_byte_for_byte(tmp_path: Path, packed: bool) -> None:
    data = "  two spaces \r\n\n \nNA\u2028x\tcafe\u0301\nlast".encode()
    path = tmp_path / ("p.txt.gz" if packed else "p.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_prompts(path) == [
        Prompt(f"{path.name}:1", "  two spaces "),
        Prompt(f"{path.name}:4", "NA\u2028x\tcafe\u0301"),
        Prompt(f"{path.name}:5", "last"),
    ]


def test_bad_rows_are_counted_and_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"text": "b"}, {"prompt": 5}, {"messages": [ANSWER]}, {"prompt": None}]
    path = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(
        DataError, match=r"4 of 5 rows cannot be answered: p.jsonl:2: prompt is missing; "
    ) as caught:
        read_prompts(path)
    assert "p.jsonl:3: prompt is a number (5)" in str(caught.value)
    assert "p.jsonl:4: messages hold no turn to answer and 1 more" in str(caught.value)


def test_nothing_to_answer_and_bad_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match="after 1 prompts: byte 3"):
        read_prompts(tmp_path / "latin.txt")
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")
