"""Files become raw rows: text as it is, every bad line named, nothing unpacked or read without bound."""

import gzip
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tether.data import jsontext, raw
from tether.data.checks import load
from tether.data.sources import READERS, expand, iter_raw, labels
from tether.errors import DataError
from tether.records.results import file_digest

ODD = [
    "NA",
    "None",
    "null",
    "007",
    "1e5",
    "",
    " ",
    "=1+1",
    "a\u2028b",
    "a\x00b",
    "e\u0301",
    "\u00e9",
    "a\r\nb",
    "\ufeff",
]

# Everything but surrogates, which are no text; NUL, line separators and decomposed accents included.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
ROWS = st.lists(
    st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}), min_size=1, max_size=5
)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> list[raw.RawRow]:
    return list(iter_raw(path))


def values(path: Path) -> list[dict | None]:
    return [row.value for row in read(path)]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Quote every cell by hand: the csv module's writer is not what is tested."""
    cells = [[*rows[0]], *([row[name] for name in rows[0]] for row in rows)]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in record) for record in cells]
    path.write_bytes("\r\n".join(lines).encode() + b"\r\n")
    return path


@FEW
@given(rows=ROWS, escaped=st.booleans())
def test_text_survives_jsonl_and_json_byte_for_byte(tmp_path: Path, rows: list[dict], escaped: bool) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b"".join(json.dumps(r, ensure_ascii=escaped).encode() + b"\n" for r in rows))
    whole = tmp_path / "rows.json"
    whole.write_bytes(json.dumps(rows, ensure_ascii=escaped, indent=1).encode())
    assert values(lines) == rows
    assert values(whole) == rows


@FEW
@given(rows=ROWS)
def test_text_survives_csv_byte_for_byte(tmp_path: Path, rows: list[dict]) -> None:
    assert values(write_csv(tmp_path / "rows.csv", rows)) == rows


@FEW
@given(rows=ROWS)
def test_text_survives_parquet_byte_for_byte(tmp_path: Path, rows: list[dict]) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert values(path) == rows


def test_cells_that_other_readers_convert_stay_text(tmp_path: Path) -> None:
    rows = [{"prompt": cell, "chosen": "x"} for cell in ODD]
    assert values(write_csv(tmp_path / "odd.csv", rows)) == rows
    lines = tmp_path / "odd.jsonl"
    lines.write_bytes(b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows))
    assert values(lines) == rows


def test_bom_crlf_and_blank_lines_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "1\\r\\n"}\r\n\r\n  \n{"a": "2"}')
    rows = read(path)
    assert [row.value for row in rows] == [{"a": "1\r\n"}, {"a": "2"}]
    assert [str(row.origin) for row in rows] == ["rows.jsonl:1", "rows.jsonl:4"]
    table = tmp_path / "rows.csv"
    table.write_bytes(b'\xef\xbb\xbfa,b\r\n"1\r\n2",x\r\n\r\n3,y\r\n')
    assert [(str(r.origin), r.value) for r in read(table)] == [
        ("rows.csv:2", {"a": "1\r\n2", "b": "x"}),
        ("rows.csv:5", {"a": "3", "b": "y"}),
    ]


BAD_LINES = [
    (b'{"a": "cut', "unreadable", "cut short"),
    (b'{"a": 1, "a": 2}', "unreadable", "'a' appears twice"),
    (b'{"a": {"b": 1, "b": 2}}', "unreadable", "'b' appears twice"),
    (b'{"a": "\xe9"}', "bad_utf8", "byte 7 (0xe9)"),
    (b'{"a": "\xed\xa0\x80"}', "bad_utf8", "byte 7 (0xed)"),
    (
        b'{"a": ["ok", "x\\ud83d"]}',
        "lone_surrogate",
        "field 'a': half a surrogate pair (\\ud83d) at character 1",
    ),
    (b'{"\\udc00": 1}', "lone_surrogate", "half a surrogate pair"),
    (b"[1, 2]", "unreadable", "a list of 2, not an object"),
    (b"nonsense", "unreadable", "not JSON"),
    (b"[" * 100_000, "unreadable", "nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "unreadable", "not JSON"),
]


def test_every_bad_line_of_a_jsonl_file_is_named_in_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join(line + b'\n{"good": 1}\n' for line, _, _ in BAD_LINES))
    rows = read(path)
    assert sum(row.value == {"good": 1} for row in rows) == len(BAD_LINES)
    for row, (line, kind, text) in zip(rows[::2], BAD_LINES, strict=True):
        assert row.value is None and row.kind == kind, line
        assert row.problem is not None and text in row.problem, row.problem
        assert row.origin.line == row.origin.row + 1


def test_surrogate_pairs_written_as_escapes_are_one_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00"}\n')
    assert values(path) == [{"a": "\U0001f600"}]


def test_bad_elements_of_a_json_array_do_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(
        b'[{"a": "1"},\n {"a": 1, "a": 2},\n 5, {"a": "\xe9"}, {"a": "\\ud800"}, {"a": "6"},\n'
        b' {"a": }, {"a": "8"}]'
    )
    rows = read(path)
    assert [row.value for row in rows] == [{"a": "1"}, None, None, None, None, {"a": "6"}, None]
    assert [row.kind for row in rows if row.problem] == [
        "unreadable",
        "unreadable",
        "bad_utf8",
        "lone_surrogate",
        "unreadable",
    ]
    assert f"byte {path.read_bytes().index(0xE9)} (0xe9)" in str(rows[3].problem)
    assert "line 4" in str(rows[6].problem) and "rows after it are not read" in str(rows[6].problem)
    assert [str(row.origin) for row in rows][:2] == ["bad.json row 0", "bad.json row 1"]


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        (b'{"data": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}]),
        (b'{"version": 2, "rows": [{"a": 1}]}', [{"a": 1}]),
        (b'{"mine": [{"a": 1}]}', [{"a": 1}]),
        (b'{"messages": [{"role": "user"}]}', [{"messages": [{"role": "user"}]}]),
        (b'{\n "a": 1\n}', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1\n{"a": 2}\n', [None, {"a": 2}]),
        (b" \n", []),
        (b"[]", []),
        (b'[{"a": 1}] x', [{"a": 1}, None]),
    ],
)
def test_a_json_file_is_an_array_an_object_that_holds_one_or_lines(
    tmp_path: Path, document: bytes, rows: list
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(document)
    assert values(path) == rows


def test_an_object_with_two_lists_of_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'{"train": [{"a": 1}], "test": [{"a": 2}]}')
    with pytest.raises(DataError, match="train, test"):
        read(path)


def test_bad_text_in_a_list_held_by_an_object_is_one_row_s_problem(tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    path.write_bytes(b'{"data": [{"a": "1"}, {"a": "\\ud800"}, 5]}')
    assert [(row.value, row.kind if row.problem else "") for row in read(path)] == [
        ({"a": "1"}, ""),
        (None, "lone_surrogate"),
        (None, "unreadable"),
    ]
    path.write_bytes(b'{"data": [{"a": "1"}, {"a": "\xe9"}]}')
    assert [row.kind for row in read(path) if row.problem] == ["bad_utf8"]


def test_every_bad_record_of_a_csv_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b'a,b\n1,2\n1,2,3\n"x"y,2\n\xe9,2\n5,6\n"never closed,7\n8,9\n')
    rows = read(path)
    assert [row.value for row in rows] == [{"a": "1", "b": "2"}, None, None, None, {"a": "5", "b": "6"}, None]
    assert [row.origin.line for row in rows] == [2, 3, 4, 5, 6, 7]
    assert "3 cells, the header has 2" in str(rows[1].problem)
    assert (rows[3].kind, "byte 21 (0xe9)" in str(rows[3].problem)) == ("bad_utf8", True)


@pytest.mark.parametrize(
    ("head", "message"), [(b"a,a\n1,2\n", "'a' appears twice"), (b"a,,b\n1,2,3\n", "empty column")]
)
def test_a_csv_header_that_cannot_name_columns_is_refused(tmp_path: Path, head: bytes, message: str) -> None:
    path = tmp_path / "head.csv"
    path.write_bytes(head)
    with pytest.raises(DataError, match=message):
        read(path)


def test_tabs_and_semicolons_separate_where_the_header_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"a\tb\n1,5\t2\n")
    (tmp_path / "b.csv").write_bytes(b"a;b\n1,5;2\n")
    assert values(tmp_path / "a.tsv") == values(tmp_path / "b.csv") == [{"a": "1,5", "b": "2"}]


def test_nulls_of_a_parquet_struct_are_keys_a_message_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    messages = [
        {"role": "user", "content": "hi", "name": None},
        {"role": "user", "content": "ho", "name": "x"},
    ]
    pq.write_table(pa.Table.from_pylist([{"m": messages, "empty": None}]), path)
    assert values(path) == [{"m": [{"role": "user", "content": "hi"}, messages[1]], "empty": None}]


def test_a_parquet_cell_that_is_not_utf8_is_its_row_s_problem(tmp_path: Path) -> None:
    good = pa.array(["a", "b", "c"]).cast(pa.binary()).to_pylist()
    column = pa.array([good[0], b"\xe9", good[2]], pa.binary()).view(pa.string())
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": column}), path)
    rows = read(path)
    assert [row.value for row in rows] == [{"a": "a"}, None, {"a": "c"}]
    assert rows[1].kind == "bad_utf8" and str(rows[1].origin) == "rows.parquet row 1"


def test_a_damaged_parquet_file_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 no PAR1")
    (row,) = read(path)
    assert row.problem is not None and "Parquet" in row.problem


def test_gzip_is_seen_by_content_and_a_cut_file_says_so(tmp_path: Path) -> None:
    lines = b"".join(b'{"a": "%d"}\n' % (i * i) for i in range(20_000))
    packed = gzip.compress(lines)
    whole, cut = tmp_path / "plain-name.jsonl", tmp_path / "cut.jsonl.gz"
    whole.write_bytes(packed)
    cut.write_bytes(packed[: len(packed) // 2])
    assert len(values(whole)) == 20_000
    rows = read(cut)
    assert all(row.problem is None for row in rows[:-1]) and len(rows) > 100
    assert "cannot be read further" in str(rows[-1].problem)
    (tmp_path / "cut.json.gz").write_bytes(packed[:50])
    assert "cannot be read" in str(read(tmp_path / "cut.json.gz")[0].problem)


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz", "bomb.csv.gz"])
def test_a_gzip_bomb_is_refused_while_unpacking(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "BOMB_BYTES", 4 * 2**20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"a" * (8 * 2**20)))
    with pytest.raises(DataError, match="100 times its size"):
        read(path)
    honest = tmp_path / "honest.jsonl.gz"
    honest.write_bytes(gzip.compress(b'{"a": "b"}\n' * 1000))
    assert len(values(honest)) == 1000


def test_a_line_beyond_the_row_limit_is_a_problem_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (raw, jsontext):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 2**20)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * 3 * 2**20 + b'"}\n{"a": "next"}\n')
    rows = read(path)
    assert "longer than 1 MiB" in str(rows[0].problem)
    assert rows[1].value == {"a": "next"}


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16; save it as UTF-8"):
        read(path)


def test_a_row_of_5_mb_takes_under_2_seconds(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_text(json.dumps({"chosen": "word " * 1_000_000}) + "\n")
    start = time.perf_counter()
    (value,) = values(path)
    assert value is not None and len(value["chosen"]) == 5_000_000
    (row,) = load([{**value, "rejected": value["chosen"] + "x"}]).rows
    assert time.perf_counter() - start < 2
    assert len(str(row.prompt)) > 4_999_980


def test_a_jsonl_run_imports_neither_arrow_nor_pandas_nor_datasets(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.csv"):
        path = tmp_path / name
        path.write_text(
            '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
            if "jsonl" in name
            else "prompt,chosen,rejected\np,a,b\n"
        )
        code = (
            "import sys; from tether.data.checks import load; assert len(load(sys.argv[1]).rows) == 1; "
            "heavy = ('pyarrow', 'pandas', 'datasets', 'numpy', 'torch', 'transformers'); "
            "print([m for m in heavy if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("target", sorted(set(READERS.values())))
def test_every_reader_named_by_string_exists(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_path_may_be_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet", "sub/c.csv.gz", ".hidden/d.jsonl", "notes.txt", "dataset_info.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [p.relative_to(tmp_path).as_posix() for p in expand(tmp_path)]
    assert names == ["a.parquet", "b.jsonl", "sub/c.csv.gz"]
    assert [p.name for p in expand(f"{tmp_path}/*.jsonl")] == ["b.jsonl"]
    assert [p.name for p in expand(f"{tmp_path}/**/*.csv.gz")] == ["c.csv.gz"]
    assert [p.name for p in expand([tmp_path / "b.jsonl", tmp_path / "a.parquet"])] == [
        "b.jsonl",
        "a.parquet",
    ]


def test_paths_that_lead_nowhere_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"")
    for spec, message in [
        (tmp_path / "trian.jsonl", "did you mean .*train.jsonl"),
        (tmp_path / "no" / "x.jsonl", "does not exist either"),
        (f"{tmp_path}/*.csv", "matches no file"),
        ([], "no data file was named"),
        ([tmp_path / "train.jsonl", tmp_path], "named twice"),
    ]:
        with pytest.raises(DataError, match=message):
            expand(spec)
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(DataError, match="no reader for this name"):
        expand(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="none is"):
        expand(f"{tmp_path}/*.txt")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "data-0.arrow").write_bytes(b"")
    with pytest.raises(DataError, match="to_parquet"):
        expand(tmp_path / "hub")


def test_a_folder_with_training_and_held_out_files_is_not_mixed(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"\(test, train\).*train-00000"):
        expand(tmp_path)


def test_labels_are_as_short_as_they_can_be() -> None:
    assert labels([Path("/x/a.jsonl"), Path("/x/b.jsonl")]) == ["a.jsonl", "b.jsonl"]
    assert labels([Path("/x/train/a.jsonl"), Path("/x/test/a.jsonl")]) == ["train/a.jsonl", "test/a.jsonl"]
    assert labels([]) == []


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")
