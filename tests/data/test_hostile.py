"""Files made to exhaust memory or a parser: bounded, refused by row or as a whole, in one line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.data import jsontext, parquet
from tether.data.checks import load
from tether.errors import DataError

DEEP = "[" * 100_000
ROW = {"prompt": "q", "chosen": "yes", "rejected": "no"}


def test_a_parquet_file_that_unpacks_beyond_reason_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BOMB_BYTES", 2**20)
    path = tmp_path / "bomb.parquet"
    text = "a" * 2**22
    pq.write_table(pa.table({name: [text] for name in ROW}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**15
    with pytest.raises(DataError, match=r"bomb\.parquet: unpacks to more than 1 MiB and 100 times its size"):
        load(path)


def test_rows_too_large_are_listed_and_the_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 2**16)
    monkeypatch.setattr(jsontext, "MAX_ROW_BYTES", 2**16)
    rows = [ROW, {**ROW, "chosen": "long " * 2**15}, {**ROW, "prompt": "r"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("rows.parquet", "rows.json"):
        loaded = load(tmp_path / name)
        assert [row.prompt for row in loaded.rows] == ["q", "r"]
        (found,) = loaded.report.findings
        assert (found.kind, found.rows) == ("unreadable", (f"{name} row 1",))
        assert "longer than" in found.details[0]


def test_a_text_stored_once_for_many_rows_is_unpacked_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2**18)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: [name * 2**14] * 64 for name in ROW}), path)
    seen: list[int] = []
    real = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, batch_size: int, **more: object) -> object:
        seen.append(batch_size)
        return real(self, batch_size=batch_size, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert load(path).report.used == 64
    assert seen[0] < 8


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "tools": DEEP},
        {**ROW, "chat_template_kwargs": DEEP},
        {
            "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": DEEP}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"prompt": DEEP, "response_a": "[]", "response_b": "[]", "winner_model_a": 1, "winner_model_b": 0},
    ],
)
def test_json_text_without_end_inside_a_column_is_a_finding_of_its_row(row: dict[str, object]) -> None:
    loaded = load([row, ROW])
    found = loaded.report.findings[0]
    assert found.kind == "wrong_type" and "nested too deeply" in found.details[0]
    assert len(loaded.rows) == 1
