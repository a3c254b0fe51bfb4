"""The preflight names every bad row in one pass, and nothing leaves uncounted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tether.data.checks import Loaded, load
from tether.data.report import KINDS, DataReport
from tether.errors import DataError
from tether.records.results import Finding

USER = {"role": "user", "content": "Hi?"}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "No."}


def pair(prompt: Any = "p", chosen: Any = " a", rejected: Any = " b", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def finding(loaded: Loaded, kind: str) -> Finding:
    found = [f for f in loaded.report.findings if f.kind == kind]
    assert len(found) == 1, [f.kind for f in loaded.report.findings]
    return found[0]


def kinds(loaded: Loaded) -> dict[str, int]:
    return {f.kind: f.count for f in loaded.report.findings}


DROPPED: list[tuple[str, dict[str, Any], str]] = [
    ("missing_field", {"prompt": "p", "chosen": "a"}, "rejected is missing"),
    ("wrong_type", pair(chosen=5), "chosen is a number (5)"),
    ("different_prompts", pair("x", [USER, GOOD], [USER, BAD]), "prompt is not the one"),
    ("no_final_assistant", pair([USER], [GOOD, USER], [BAD]), "chosen ends with a user message"),
    ("empty_prompt", pair(""), "prompt is empty"),
    ("empty_prompt", pair([], [GOOD], [BAD]), "prompt is empty"),
    ("empty_completion", pair(rejected=""), "rejected is empty"),
    ("empty_completion", pair([USER], [], [BAD]), "chosen is empty"),
    ("empty_completion", pair([USER], [{**GOOD, "content": ""}], [BAD]), "chosen is empty"),
    ("identical", pair(chosen=" same", rejected=" same"), "chosen and rejected are the same"),
    ("tied", pair(score_chosen=3, score_rejected=3.0), ""),
]


@pytest.mark.parametrize(("kind", "bad", "detail"), DROPPED)
def test_a_row_that_cannot_be_trained_on_is_left_out_counted_and_listed(
    tmp_path: Path, kind: str, bad: dict, detail: str
) -> None:
    loaded = load(write(tmp_path / "d.jsonl", [pair("q1"), bad, pair("q2")]))
    assert [row.row_id for row in loaded.rows] == ["d.jsonl:1", "d.jsonl:3"]
    found = finding(loaded, kind)
    assert (found.severity, found.count, found.rows) == ("dropped", 1, ("d.jsonl:2",))
    assert detail in "".join(found.details)
    assert (loaded.report.read, loaded.report.used) == (3, 2)


WARNED: list[tuple[str, list[dict[str, Any]], tuple[str, ...]]] = [
    ("duplicate", [pair(), pair("q"), pair()], ("d.jsonl:3",)),
    ("contradictory", [pair(), pair(chosen=" b", rejected=" a")], ("d.jsonl:1", "d.jsonl:2")),
    (
        "contradictory",
        [{"prompt": "p", "completion": "c", "label": x} for x in (True, False)],
        ("d.jsonl:1", "d.jsonl:2"),
    ),
    ("score_against", [pair(score_chosen=1, score_rejected=2)], ("d.jsonl:1",)),
    ("whitespace_only", [pair(rejected=" \n")], ("d.jsonl:1",)),
    ("repeated_prompt", [pair("Q: x", "Q: x a", "Q: x b")], ("d.jsonl:1",)),
    ("prompt_ends_with_assistant", [pair([USER, GOOD], [GOOD], [BAD])], ("d.jsonl:1",)),
    ("later_turns", [pair(chosen=" a\n\nHuman: x\n\nAssistant: y")], ("d.jsonl:1",)),
    ("mixed_formats", [pair(), pair("q"), {"messages": [USER, GOOD]}], ("d.jsonl:3",)),
    ("weight", [pair(weight=0.5)], ("d.jsonl:1",)),
    ("margin", [pair(margin=0.5)], ("d.jsonl:1",)),
    ("probability", [pair(probability=0.5)], ("d.jsonl:1",)),
]


@pytest.mark.parametrize(("kind", "rows", "ids"), WARNED)
def test_a_strange_row_is_used_and_listed(tmp_path: Path, kind: str, rows: list, ids: tuple) -> None:
    loaded = load(write(tmp_path / "d.jsonl", rows))
    assert len(loaded.rows) == len(rows)
    assert finding(loaded, kind).rows == ids
    assert finding(loaded, kind).severity == KINDS[kind][0] != "dropped"


def test_clean_rows_have_no_findings(tmp_path: Path) -> None:
    rows = [pair(f"q{i}") for i in range(5)] + [pair("q0", " c", " d"), pair("q0", " a", " d")]
    assert load(write(tmp_path / "d.jsonl", rows)).report.findings == ()


def test_every_bad_row_is_named_in_one_pass_and_every_row_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [json.dumps(value).encode() for _, value, _ in DROPPED]
    lines += [b'{"prompt": "\xe9"}', b'{"prompt": "\\ud800"}', b'{"prompt": ', json.dumps(pair()).encode()]
    path.write_bytes(b"\n".join(lines))
    report = load(path).report
    assert (report.read, report.used) == (len(DROPPED) + 4, 1)
    assert sum(report.dropped().values()) == report.read - report.used
    assert {"bad_utf8", "lone_surrogate", "unreadable"} < set(report.dropped())
    assert [f.kind for f in report.findings] == [kind for kind in KINDS if kind in report.dropped()]


def test_held_out_rows_that_training_sees_are_listed(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "eval").mkdir()
    train = write(tmp_path / "train" / "d.jsonl", [pair(), pair([USER], [GOOD], [BAD])])
    held = write(tmp_path / "eval" / "d.jsonl", [pair(), pair("p ", " x", " y"), pair("Hi?"), pair("new")])
    loaded = load(train, eval_spec=held)
    assert finding(loaded, "overlap_row").rows == ("eval/d.jsonl:1",)
    assert finding(loaded, "overlap_prompt").rows == ("eval/d.jsonl:2", "eval/d.jsonl:3")
    assert finding(loaded, "overlap_prompt").details == ("as train/d.jsonl:1", "as train/d.jsonl:2")
    assert (loaded.report.eval_read, loaded.report.eval_used) == (4, 4)
    assert [f.split for f in loaded.report.files] == ["train", "eval"]


def test_rows_from_memory_are_checked_like_files() -> None:
    loaded = load([pair(), pair("q", chosen="\ud800"), 5, pair("r", "x", "x")])
    assert [row.row_id for row in loaded.rows] == ["rows row 0"]
    assert kinds(loaded) == {"unreadable": 1, "lone_surrogate": 1, "identical": 1}
    assert finding(loaded, "lone_surrogate").rows == ("rows row 1",)
    assert load([], task="any").rows == []


def test_nothing_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    rows = [pair(chosen="x", rejected="x")] * 4 + [pair(rejected=None)]
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path).require_rows()
    text = str(caught.value)
    assert f"{path}: none of 5 rows can be used: 4 identical (d.jsonl:1" in text
    assert "1 missing_field (d.jsonl:5: rejected is null)" in text and "\n" not in text
    empty = write(tmp_path / "e.jsonl", [])
    assert kinds(load(empty)) == {"empty_file": 1}
    with pytest.raises(DataError, match="holds no rows"):
        load(empty).require_rows()
    good = write(tmp_path / "g.jsonl", [pair()])
    with pytest.raises(DataError, match=r"d\.jsonl: none of 5"):
        load(good, eval_spec=path).require_rows()
    load(good, eval_spec=write(tmp_path / "h.jsonl", [pair("q")])).require_rows()


def test_columns_of_no_known_format_are_refused_naming_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        DataError, match=r"d\.jsonl: no known row format has the columns question, answer\. Known"
    ):
        load(path)


def test_a_file_without_a_readable_row_is_all_findings(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xff\xfa\n{\n")
    loaded = load(path)
    assert kinds(loaded) == {"unreadable": 1, "bad_utf8": 1}
    assert loaded.report.files[0].format == "none"


RANKED = {"prompt": "p", "completions": [" x", " y", " z"], "scores": [0.1, 0.9, 0.5]}
KTO = {"prompt": "p", "completion": " c", "label": False}


def test_a_task_takes_what_it_can_train_on() -> None:
    pairs = load([pair(), RANKED, {"messages": [USER, GOOD]}, KTO], task="preference")
    assert [[(c.role, c.content) for c in row.completions] for row in pairs.rows] == [
        [("chosen", " a"), ("rejected", " b")],
        [("chosen", " y"), ("rejected", " x")],
    ]
    assert finding(pairs, "best_and_worst").count == 1
    assert finding(pairs, "wrong_task").rows == ("rows row 2", "rows row 3")
    single = load([pair(), RANKED, {"messages": [USER, GOOD]}, KTO, {**KTO, "label": True}], task="sft")
    assert [[(c.role, c.content) for c in row.completions] for row in single.rows] == [
        [("completion", " a")],
        [("completion", " y")],
        [("completion", (GOOD,))],
        [("completion", " c")],
    ]
    assert (finding(single, "best_only").count, finding(single, "wrong_task").count) == (3, 1)
    anything = load([pair(), RANKED, {"messages": [USER, GOOD]}, KTO])
    assert [row.completions[0].role for row in anything.rows] == [
        "chosen",
        "rank-0",
        "completion",
        "undesirable",
    ]


def test_ties_are_dropped_or_kept_at_one_half() -> None:
    rows = [pair("a", score_chosen=1, score_rejected=1), pair("b", score_chosen=2, score_rejected=1)]
    assert len(load(rows).rows) == 1
    soft = load(rows, ties="soft")
    assert [row.probability for row in soft.rows] == [0.5, 1.0]
    assert finding(soft, "ties_kept").rows == ("rows row 0",)
    ranking = {"prompt": "p", "completions": ["x", "y", "z"], "scores": [1, 1, 0]}
    assert kinds(load([{**ranking, "scores": [1, 1, 1]}], ties="soft")) == {"tied": 1}


def test_of_equally_good_answers_of_a_ranking_the_first_stays_and_the_others_are_counted() -> None:
    ranking = {"prompt": "p", "completions": list("vwxyz"), "scores": [1, 3, 2, 3, 1]}
    loaded = load([ranking], task="list")
    assert [(c.role, c.content) for c in loaded.rows[0].completions] == [
        ("rank-0", "w"),
        ("rank-1", "x"),
        ("rank-2", "v"),
    ]
    assert finding(loaded, "tied_answers").details == ("2 of 5 answers",)


def test_unpaired_training_takes_pairs_apart_and_lists_take_them_whole() -> None:
    rows = [pair("a"), {"prompt": "p", "completion": "c", "label": False}]
    single = load(rows, task="unpaired")
    assert [row.completions[0].role for row in single.rows] == ["desirable", "undesirable", "undesirable"]
    assert (single.report.read, single.report.used) == (2, 2)
    assert finding(single, "pair_split").count == 1
    listed = load(rows, task="list")
    assert [c.role for c in listed.rows[0].completions] == ["rank-0", "rank-1"]
    assert finding(listed, "wrong_task").rows == ("rows row 1",)
    ranking = {"prompt": "p", "completions": ["x", "y", "z"], "scores": [3, 2, 1]}
    assert finding(load([ranking, *rows], task="unpaired"), "wrong_task").rows == ("rows row 0",)


def test_lengths_are_characters_of_what_is_said() -> None:
    rows = [
        pair("ab", "1234", "12"),
        pair([USER], [{**GOOD, "content": "é" * 10}], [BAD]),
        pair("xy", "12", "34"),
    ]
    numbers = load(rows).report.numbers
    assert numbers["chosen_characters_mean"] == pytest.approx(16 / 3)
    assert (numbers["chosen_characters_median"], numbers["rejected_characters_max"]) == (4, 3)
    assert numbers["prompt_characters_median"] == 2
    assert numbers["chosen_longer_share"] == pytest.approx(2.5 / 3)


def test_the_report_survives_json(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "d.jsonl", [pair(id=1), pair(), pair(chosen=5)]))
    assert DataReport.model_validate_json(loaded.report.model_dump_json()) == loaded.report
    file = loaded.report.files[0]
    assert (file.format, file.read, file.used, file.ignored_columns) == ("preference", 3, 2, ("id",))
    assert len(file.sha256) == 64


@pytest.mark.data
def test_real_dialogues_split_without_loss(real_data: Path) -> None:
    import gzip

    loaded = load(real_data / "hh-harmless.jsonl.gz", task="preference")
    with gzip.open(real_data / "hh-harmless.jsonl.gz", "rt", encoding="utf-8", newline="\n") as stream:
        raws = [json.loads(line) for line in stream]
    assert len(loaded.rows) == loaded.report.read == 1800
    for row, value in zip(loaded.rows, raws, strict=True):
        for completion in row.completions:
            assert str(row.prompt) + str(completion.content) == value[completion.role]
        assert str(row.prompt).endswith("\n\nAssistant:")
    assert kinds(loaded) == {"whitespace_only": 3}


@pytest.mark.data
def test_real_judged_pairs_are_read_with_their_scores(real_data: Path) -> None:
    loaded = load(real_data / "alpacaeval-pairs-test.parquet", task="preference")
    assert len(loaded.rows) == 795
    assert all((row.completions[0].score or 0) > (row.completions[1].score or 0) for row in loaded.rows)
    assert loaded.report.files[0].ignored_columns == ("model_chosen", "model_rejected", "subset")
