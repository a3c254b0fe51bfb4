"""Files made to exhaust memory or a parser: bounded, refused by row or as a whole, in one line."""

import gzip
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.data import jsontext, parquet, raw
from tether.data.checks import load
from tether.data.sources import iter_raw
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


def test_a_bomb_of_many_short_rows_is_refused_before_any_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "BOMB_BYTES", 2**20)
    path = tmp_path / "many.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode() * 2**15))
    with pytest.raises(DataError, match="100 times its size"):
        next(iter_raw(path))
    honest = tmp_path / "honest.jsonl.gz"
    honest.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode() * 2**10)[:-9])
    assert next(iter_raw(honest)).value == ROW  # a cut file still gives the rows before the cut


def test_a_row_or_header_of_very_many_names_takes_no_quadratic_time(tmp_path: Path) -> None:
    names = [f"k{i}" for i in range(200_000)]
    (tmp_path / "wide.csv").write_text(",".join(names) + "\n")
    began = time.monotonic()
    with pytest.raises(DataError, match="holds no rows"):
        load(tmp_path / "wide.csv").require_rows()
    (tmp_path / "twice.csv").write_text(",".join([*names, "k7"]) + "\n")
    with pytest.raises(DataError, match="'k7' appears twice"):
        load(tmp_path / "twice.csv")
    row = "{" + ", ".join(f'"{name}": 1' for name in [*names, "k9"]) + "}"
    (tmp_path / "wide.jsonl").write_text(f"{row}\n{json.dumps(ROW)}\n")
    loaded = load(tmp_path / "wide.jsonl")
    assert loaded.report.used == 1 and "'k9' appears twice" in loaded.report.findings[0].details[0]
    assert time.monotonic() - began < 30  # the square of 200,000 takes minutes


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
