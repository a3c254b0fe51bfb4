"""Every format is written as well as read: what a row says comes back, what cannot is named and refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_formats import BAD, CASES, GOOD, TOOL, USER, row
from tether.data.checks import load
from tether.data.convert import ConvertRecord, convert, differences, format_named
from tether.data.fields import Columns
from tether.data.formats import FORMATS, detect
from tether.data.output import WRITERS as SUFFIXES
from tether.data.tasks import fit_task, unpair
from tether.data.writers import ALIASES, WRITERS, Kind, kind_of, own_columns
from tether.errors import DataError, UsageError
from tether.records.rows import Completion, Origin, Preference

NAMES = [format_.name for format_ in FORMATS]


def reread(columns: dict[str, Any]) -> Preference:
    return detect([columns]).read(Origin("", 0), Columns(json.loads(json.dumps(columns))))


def test_every_format_that_is_read_is_written() -> None:
    assert list(WRITERS) == NAMES
    assert set(ALIASES.values()) <= set(WRITERS)


@pytest.mark.parametrize(("value", "name"), [(case[0], case[1]) for case in CASES])
def test_a_row_of_each_format_comes_back_from_its_own_format(value: dict[str, Any], name: str) -> None:
    original = row(value)
    writer = WRITERS[name]
    if kind_of(original) != writer.kind and not (kind_of(original) == "pair" and writer.kind == "list"):
        pytest.skip("a row the format also reads, of another kind")
    again = reread(writer.write(original))
    assert differences(original, again) == []


@pytest.mark.parametrize("value", [case[0] for case in CASES])
def test_tether_keeps_everything_of_every_row(value: dict[str, Any]) -> None:
    original = replace(
        row(value), weight=0.5, margin=1.25, tools=({"type": "function"},), template_arguments={"deep": True}
    )
    assert differences(original, reread(own_columns(original))) == []


TEXT = ("nectar", "scored-list", "refdpo", "preference", "hh-rlhf", "unpaired", "prompt-completion")
"""Formats that hold plain text; the others hold chats."""


def of_kind(source: Preference, name: str, kind: Kind) -> Preference:
    """Return a real pair in the kind a format takes, with the columns it asks for."""
    if name == "refdpo":
        return replace(
            source,
            completions=tuple(
                replace(c, reference_logprob=-3.5 * i) for i, c in enumerate(source.completions)
            ),
        )
    if kind == "unpaired":
        return unpair(source)[1]
    return fit_task(source, "sft")[0] if kind == "single" else source


@pytest.mark.data
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_real_rows_go_to_every_format_and_back(
    name: str, suffix: str, real_data: Path, tmp_path: Path
) -> None:
    file = "hh-harmless.jsonl.gz" if name in TEXT else "alpacaeval-pairs-test.parquet"
    rows = load(str(real_data / file), ties="keep").rows[:60]
    # Scores are a column of AlpacaEval's pairs; only some formats have a place for them.
    scored = name in ("ultrafeedback", "preference", "refdpo", "distilabel", "scored-list")
    wanted = [
        of_kind(
            r if scored else replace(r, completions=tuple(replace(c, score=None) for c in r.completions)),
            name,
            WRITERS[name].kind,
        )
        for r in rows
    ]
    source, out = tmp_path / "source.jsonl", tmp_path / f"out{suffix}"
    source.write_text("".join(json.dumps(own_columns(r)) + "\n" for r in wanted))
    record = convert(source, out, name)
    assert (record.read, record.written, record.lost, record.left_out) == (60, 60, {}, {})
    back = load(str(out), ties="keep")
    assert back.report.files[0].format == ("refdpo" if name == "refdpo" else name)
    assert [d for a, b in zip(wanted, back.rows, strict=True) for d in differences(a, b)] == []
    home = tmp_path / "home.jsonl"
    convert(out, home, "tether")
    again = load(str(home), ties="keep").rows
    nowhere = Origin("", 0)
    assert [replace(r, origin=nowhere) for r in again] == [replace(r, origin=nowhere) for r in back.rows]


def pair(**more: Any) -> dict[str, Any]:
    return {"prompt": "Say hi.", "chosen": " Hi!", "rejected": " No.", **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "to", "lost"),
    [
        ([pair()], "openai", "plain text (it becomes a chat)"),
        ([pair(weight=2)], "trl", "weight"),
        ([pair(probability=0.75)], "trl", "probability"),
        ([pair(margin=1)], "trl", "margin"),
        (
            [pair(prompt=[USER], chosen=[GOOD], rejected=[BAD], score_chosen=5, score_rejected=2)],
            "openai",
            "scores",
        ),
        ([pair(prompt=[USER], chosen=[GOOD], rejected=[BAD], tools=[TOOL])], "axolotl", "tools"),
        ([pair(chat_template_kwargs={"deep": True})], "nectar", "chat_template_kwargs"),
        ([pair(chosen_logprob=-1.0, rejected_logprob=-2.0)], "trl", "log-probs of the reference"),
        ([pair()], "kto", "which answers belong together"),
        (
            [{"prompt": "p", "completions": ["a", "b", "c"], "scores": [3, 2, 1]}],
            "trl",
            "answers but the best and worst",
        ),
        ([{"prompt": "p", "completion": "c"}], "trl", "a row that is no pair"),
    ],
)
def test_what_a_format_cannot_say_is_refused_by_row_and_left_out_only_when_asked(
    rows: list[dict[str, Any]], to: str, lost: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", [*rows, pair(), pair()] if "prompt" in rows[0] else rows)
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"rows\.jsonl:1") as refused:
        convert(source, out, to)
    assert lost in str(refused.value) and "--lossy" in str(refused.value)
    assert not out.exists()
    record = convert(source, out, to, lossy=True)
    assert sum(record.lost.values()) >= 1 and lost in record.lost
    written = sum(1 for line in out.read_text().splitlines() if line)
    assert written == record.written


def test_a_row_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [pair(), {"prompt": "p", "completion": "c"}])
    record = convert(source, tmp_path / "out.jsonl", "trl", lossy=True)
    assert (record.read, record.written, record.left_out) == (2, 1, {"cannot_say": 1})


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    source, out = write(tmp_path / "rows.jsonl", [pair()]), tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        convert(source, out, "trl")
    assert out.read_text() == "mine"
    convert(source, out, "trl", overwrite=True)
    assert load(str(out)).rows[0].prompt == "Say hi."


def test_names_people_use_are_known_and_others_get_the_nearest() -> None:
    assert format_named("trl") == "preference" and format_named("openai-preference") == "openai-preference"
    with pytest.raises(UsageError, match="did you mean openai"):
        format_named("opeani")


@pytest.mark.parametrize("start", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1"])
def test_cells_a_spreadsheet_would_run_are_refused(start: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [pair(), pair(chosen=start)])
    with pytest.raises(DataError, match=r"rows.jsonl:2: chosen starts with .* formula; write .jsonl"):
        convert(source, tmp_path / "out.csv", "trl")
    assert not (tmp_path / "out.csv").exists()


def test_a_table_cannot_hold_chats_and_says_so(tmp_path: Path) -> None:
    chat = {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}
    with pytest.raises(DataError, match=r"a table holds text and numbers; write \.jsonl"):
        convert(write(tmp_path / "rows.jsonl", [chat]), tmp_path / "out.tsv", "trl")


def test_a_suffix_nothing_is_written_for_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.jsonl"):
        convert(write(tmp_path / "rows.jsonl", [pair()]), tmp_path / "out.xlsx", "trl")


SAYABLE = st.text(
    alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20
).filter(lambda text: text[0] not in "=+-@\t\r")


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(SUFFIXES)), st.lists(st.tuples(SAYABLE, SAYABLE, SAYABLE), min_size=1, max_size=4)
)
def test_any_text_survives_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, texts: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, chosen, rejected in texts
        if chosen != rejected
    ]
    if not rows:
        return
    record = convert(rows, folder / f"out{suffix}", "trl")
    back = load(str(folder / f"out{suffix}")).rows
    assert record.written == len(rows)
    assert [{"prompt": r.prompt, **{c.role: c.content for c in r.completions}} for r in back] == rows


def test_tool_calls_survive_sharegpt(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    original = Preference(
        Origin("", 0),
        (
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "12:00"},
        ),
        (
            Completion("chosen", ({"role": "assistant", "content": "Noon."},)),
            Completion("rejected", ({"role": "assistant", "content": "Late."},)),
        ),
        tools=({"type": "function", "function": {"name": "clock"}},),
    )
    for name in ("sharegpt-ranking", "openai-preference", "preference", "messages-ranking"):
        missing = differences(original, reread(WRITERS[name].write(original)))
        assert missing == (["tools"] if name == "messages-ranking" else [])


def test_the_record_names_its_format(tmp_path: Path) -> None:
    record = convert(write(tmp_path / "rows.jsonl", [pair()]), tmp_path / "o.json", "tether")
    assert isinstance(record, ConvertRecord) and record.format == "tether"
    assert json.loads((tmp_path / "o.json").read_text()) == [pair()]
