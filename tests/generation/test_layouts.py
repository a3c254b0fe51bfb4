"""The layouts are those AlpacaEval, Arena-Hard and MT-Bench read, and made again byte for byte."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_model, tiny_model
from tether.config.generate import GenerateConfig
from tether.errors import DataError, RunFolderError
from tether.generation.layouts import markdown_counts, turn_file
from tether.generation.prompts import read_prompts
from tether.generation.sample import generate
from tether.judging.outputs import read_outputs

ALPACA = [
    {"dataset": "koala", "instruction": f"Name {n} birds", "output": "x", "generator": "y"} for n in range(3)
]
ARENA = [{"uid": f"u{n}", "category": "hard_prompt", "prompt": f"Write {n} lines"} for n in range(3)]
MT = [
    {"question_id": 82, "category": "writing", "turns": ["Write a poem", "Now shorter"]},
    {"question_id": 81, "category": "math", "turns": ["1 + 1?", "And 2?"], "reference": ["2", "4"]},
    {"question_id": 100, "category": "math", "turns": ["Only one"]},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), tiny_model(), chat=True)


def config(
    model: Path, out: Path, rows: Sequence[dict[str, Any]], layout: str, **more: Any
) -> GenerateConfig:
    prompts = out.parent / "questions.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"model": str(model), "prompts": str(prompts), "out": str(out), "format": layout, "device": "cpu"}
    return GenerateConfig.model_validate(given | {"max_new_tokens": 6, "batch_size": 2} | more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_alpacaeval_is_a_list_by_instruction_that_its_readers_take(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model_outputs.json"
    record = generate(config(model, out, ALPACA, "alpacaeval", generator="mine"))
    rows = json.loads(out.read_text())
    own = lines(turn_file(out, 1))
    assert [set(row) for row in rows] == [{"instruction", "output", "generator", "dataset"}] * 3
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in ALPACA]
    assert [row["output"] for row in rows] == [row["completion"] for row in own]
    assert {(row["generator"], row["dataset"]) for row in rows} == {("mine", "koala")}
    assert (record.rows, record.out) == (3, str(out))
    read = read_outputs(out)
    assert read.name == "mine" and len(read.answers) == 3


def test_arena_hard_holds_the_answer_where_its_judge_looks(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    generate(config(model, out, ARENA, "arena-hard", generator="mine"))
    for row, question, own in zip(lines(out), ARENA, lines(turn_file(out, 1)), strict=True):
        assert set(row) == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}
        assert (row["uid"], row["model"]) == (question["uid"], "mine")
        assert row["messages"][0] == {"role": "user", "content": question["prompt"]}
        assert row["messages"][-1]["content"]["answer"] == own["completion"]
        assert own["prompt"] == [{"role": "user", "content": question["prompt"]}], "asked as a user"
        # Style control sums what is no whole number, as its show_result does.
        numbers = [v if isinstance(v, int) else sum(v.values()) for v in row["metadata"].values()]
        assert len(numbers) == 4 and numbers[0] == own["tokens"]


def test_mt_bench_asks_the_second_turn_after_its_own_first_answer(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    record = generate(config(model, out, MT, "mt-bench", num_samples=2))
    rows = lines(out)
    assert [row["question_id"] for row in rows] == [81, 82, 100]
    assert [[len(choice["turns"]) for choice in row["choices"]] for row in rows] == [[2, 2], [2, 2], [1, 1]]
    assert [choice["index"] for choice in rows[0]["choices"]] == [0, 1]
    second = {row["id"]: row for row in lines(turn_file(out, 2))}
    for row, question in ((rows[0], MT[1]), (rows[1], MT[0])):
        for choice in row["choices"]:
            asked = second[f"{row['question_id']}#{choice['index']}"]
            assert [m["content"] for m in asked["prompt"]] == [
                question["turns"][0],
                choice["turns"][0],
                question["turns"][1],
            ]
            assert asked["completion"] == choice["turns"][1]
    assert rows[0]["model_id"] == str(model)
    assert (record.rows, record.prompts) == (10, 3)
    assert len({row["answer_id"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("layout", "rows"), [("alpacaeval", ALPACA), ("arena-hard", ARENA), ("mt-bench", MT)]
)
def test_a_run_stopped_anywhere_ends_in_the_same_bytes(
    model: Path, tmp_path: Path, layout: str, rows: Any
) -> None:
    out = tmp_path / "out"
    made = config(model, out, rows, layout)
    generate(made)
    expected = out.read_bytes()
    assert generate(made).tokens_per_second is None, "nothing was asked again"
    assert out.read_bytes() == expected
    last = turn_file(out, 2 if layout == "mt-bench" else 1)
    whole = last.read_bytes()
    out.unlink()
    last.write_bytes(whole[: len(whole) // 2])
    generate(made)
    assert last.read_bytes() == whole

    def timeless(data: bytes) -> list[dict[str, Any]]:
        if layout == "alpacaeval":
            return json.loads(data)
        return [{k: v for k, v in json.loads(line).items() if k != "tstamp"} for line in data.splitlines()]

    assert timeless(out.read_bytes()) == timeless(expected)


def test_a_file_that_was_not_made_here_is_left_alone(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("precious")
    with pytest.raises(RunFolderError, match="was not made here"):
        generate(config(model, out, ALPACA, "alpacaeval"))
    assert out.read_text() == "precious"
    generate(config(model, out, ALPACA, "alpacaeval", overwrite=True))
    assert len(json.loads(out.read_text())) == 3


@pytest.mark.parametrize(
    ("layout", "rows", "words"),
    [
        (
            "alpacaeval",
            [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}],
            "system",
        ),
        ("arena-hard", MT, "has 2 turns"),
        ("tether", MT, "--format mt-bench"),
        ("mt-bench", ARENA, "whole numbers"),
        ("arena-hard", [*ARENA, ARENA[0]], "two prompts have this id"),
        ("mt-bench", [{"question_id": 1, "turns": []}], "no list of texts"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_by_its_row(
    model: Path, tmp_path: Path, layout: str, rows: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        generate(config(model, tmp_path / "o", rows, layout))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "option",
    [
        {"format": "alpacaeval", "num_samples": 2},
        {"format": "mt-bench", "skip_long": True},
        {"generator": "name"},
    ],
)
def test_options_a_layout_cannot_keep_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"layout|mt-bench"):
        GenerateConfig.model_validate({"model": "m", "prompts": "p", "out": "o"} | option)


def test_turns_are_texts_or_objects_and_ids_are_the_benchmarks(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question_id": "abc", "turns": [{"content": "a"}, {"content": "b"}]}) + "\n")
    (prompt,) = read_prompts(path)
    assert (prompt.id, prompt.content_messages[0]["content"], prompt.follow_ups) == ("abc", "a", ("b",))


def test_markdown_is_counted_outside_code() -> None:
    text = "# One\n## Two\n- a\n* b\n1. c\n**bold** and __bold__\n```\n# no\n- no\n**no**\n```\n"
    counts = markdown_counts(text)
    assert (counts["header_count"]["h1"], counts["header_count"]["h2"], counts["header_count"]["h3"]) == (
        1,
        1,
        0,
    )
    assert counts["list_count"] == {"ordered": 1, "unordered": 2}
    assert counts["bold_count"] == {"**": 1, "__": 1}
