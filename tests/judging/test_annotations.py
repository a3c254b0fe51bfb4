import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.errors import DataError
from tether.judging.annotations import read_annotations, read_difficulty, read_gamed

ROWS = {
    "model": ["a", "a", "a", "b", "b"],
    "index": [0, 1, 2, 0, 2],
    "preference": [1.0, None, 2.0, 1.5, 0.0],
    "chars_model": [10, 20, 30, 40, 50],
    "chars_baseline": [100, 200, 300, 100, 300],
}


def _parquet(path: Path, **changes) -> Path:
    pq.write_table(pa.table({**ROWS, **changes}), path / "a.parquet")
    return path / "a.parquet"


def _json(path: Path, instructions: list[str], **extra) -> Path:
    rows = [
        {
            "instruction": text,
            "output_1": "base line",
            "output_2": "x" * number,
            "generator_1": "base",
            "generator_2": "m",
            "preference": 1.25,
        }
        | {name: values[number] for name, values in extra.items()}
        for number, text in enumerate(instructions)
    ]
    (path / "annotations.json").write_text(json.dumps(rows), encoding="utf-8")
    return path / "annotations.json"


def test_parquet_rows_are_placed_by_prompt_and_old_ties_are_ties(tmp_path: Path) -> None:
    read = read_annotations(_parquet(tmp_path))
    assert read.models == ("a", "b")
    assert read.prompts == ("0", "1", "2")
    np.testing.assert_array_equal(read.share, [[0, np.nan, 1], [0.5, np.nan, 0.5]])
    np.testing.assert_array_equal(read.delta, [[90, 180, 270], [60, np.nan, 250]])


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    first = read_annotations(_parquet(tmp_path)).select(["a", "b"])
    order = [4, 2, 0, 3, 1]
    shuffled = {name: [values[i] for i in order] for name, values in ROWS.items()}
    second = read_annotations(_parquet(tmp_path, **shuffled)).select(["a", "b"])
    np.testing.assert_array_equal(first.share, second.share)
    np.testing.assert_array_equal(first.delta, second.delta)


def test_difficulty_is_joined_by_number_in_any_order(tmp_path: Path) -> None:
    read = read_annotations(_parquet(tmp_path))
    table = tmp_path / "d.csv"
    table.write_text(",instruction_difficulty\n2,0.2\n0,0.0\n1,0.1\n", encoding="utf-8")
    np.testing.assert_array_equal(read_difficulty(table, read), [0.0, 0.1, 0.2])
    table.write_text("index,instruction_difficulty\n2,0.2\n0,0.0\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 of 3 prompts"):
        read_difficulty(table, read)


def test_json_rows_without_a_number_are_never_joined_by_position(tmp_path: Path) -> None:
    path = _json(tmp_path, ["second", "first"])
    read = read_annotations(path)
    assert read.by_text
    table = tmp_path / "d.csv"
    table.write_text("index,instruction_difficulty\n0,1\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="--prompts"):
        read_difficulty(table, read)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": "first"}, {"instruction": "second"}]), encoding="utf-8")
    numbered = read_annotations(path, prompts)
    np.testing.assert_array_equal(read_difficulty(table, numbered), [1, 2])
    np.testing.assert_array_equal(numbered.chars, [[1, 0]])  # "first" is the file's second row
    table.write_text("instruction,instruction_difficulty\nfirst,1\nsecond,2\n", encoding="utf-8")
    np.testing.assert_array_equal(read_difficulty(table, read), [1, 2])


def test_json_rows_with_a_number_need_nothing_else(tmp_path: Path) -> None:
    read = read_annotations(_json(tmp_path, ["p", "q"], index=[7, 3]))
    assert read.prompts == ("3", "7")
    np.testing.assert_array_equal(read.chars, [[1, 0]])
    np.testing.assert_allclose(read.share, 0.25)


def test_gamed_rows_are_read_as_alpacaeval_writes_them_and_from_lengths(tmp_path: Path) -> None:
    read = read_annotations(_parquet(tmp_path))
    table = tmp_path / "g.csv"
    table.write_text(
        "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
        "v,0,0.2,-1.5,0.3,False\nv,1,0.9,0.5,0.1,False\n",
        encoding="utf-8",
    )
    rows = read_gamed(table, read, None)
    np.testing.assert_array_equal(rows.share, [0.2, 0.9])
    np.testing.assert_array_equal(rows.difficulty, [0.3, 0.1])
    table.write_text(
        "model,index,preference,chars_model,chars_baseline\nv,0,1.2,10,20\nv,2,1.9,10,40\n", encoding="utf-8"
    )
    rows = read_gamed(table, read, np.array([5.0, 6.0, 7.0]))
    np.testing.assert_allclose(rows.share, [0.2, 0.9])
    np.testing.assert_array_equal(rows.difficulty, [5, 7])
    np.testing.assert_allclose(rows.scaled_delta, np.array([10, 30]) / np.std([10, 30], ddof=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preference": [1.0, 2.5, 1.0, 1.0, 1.0]}, "row 1: preference 2.5"),
        ({"index": [0, 0, 2, 0, 2]}, "twice for one model"),
        ({"model": None}, "no column model"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    columns = {name: values for name, values in {**ROWS, **changes}.items() if values is not None}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_annotations(tmp_path / "a.parquet")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    for name in ("a.parquet", "a.json", "absent.json"):
        with pytest.raises(DataError, match=name):
            read_annotations(tmp_path / name)
