"""`tether chat`: what `tether generate` would say, harmless on a terminal, and saved as rows to train on."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.tiny import save_model, tiny_model
from tether.cli import chat as module
from tether.cli.main import main
from tether.cli.screen import Columns, Screen, visible, wrap
from tether.data.checks import load
from tether.errors import UsageError
from tether.generation.conversation import Conversation, Spoken


class Fake:
    """Says its name, what it was asked and which sample this is, a word at a time."""

    chat = True

    def __init__(self, name: str, *, ended: bool = True, interrupt: bool = False) -> None:
        self.name, self.ended, self.interrupt = name, ended, interrupt
        self.asked: list[Any] = []
        self.samplings: list[Any] = []

    def answer(self, prompt: Any, sampling: Any, sample: int) -> Iterator[str]:
        self.asked.append(prompt.content)
        self.samplings.append(sampling)
        text = f"{self.name} {sample} says {prompt.content[-1]['content']}"
        for number, word in enumerate(re.findall(r"\S+\s*", text)):
            if self.interrupt and number == 2:
                raise KeyboardInterrupt
            yield word
        return Spoken(self.name, text, self.ended)


class Typed(io.StringIO):
    def __init__(self, text: str, *, tty: bool = False) -> None:
        super().__init__(text)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a session of these voices over these lines; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(lines: str, *words: str, voices: list[Any] | None = None) -> tuple[int, str, str]:
        if voices is not None:
            monkeypatch.setattr(module, "_voices", lambda config: voices)
        monkeypatch.setattr(sys, "stdin", Typed(lines))
        with pytest.raises(SystemExit) as ended:
            main(["chat", *(words or ("model",))])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_each_line_of_a_pipe_is_a_turn_and_answers_alone_are_printed(talk: Any) -> None:
    voice = Fake("a")
    assert talk("hi\n\nthere\n", voices=[voice]) == (0, "a 0 says hi\na 0 says there\n", "")
    assert [len(content) for content in voice.asked] == [1, 3]
    assert voice.asked[1][1] == {"role": "assistant", "content": "a 0 says hi"}


def test_two_models_answer_the_same_question_under_their_names(talk: Any) -> None:
    first, second = Fake("a"), Fake("b")
    _, out, _ = talk("hi\n", voices=[first, second])
    assert out == "[1 a]\na 0 says hi\n[2 b]\nb 0 says hi\n"
    assert first.asked == second.asked


def test_a_saved_answer_is_a_row_that_train_reads_and_the_conversation_goes_on_from_it(
    talk: Any, tmp_path: Path
) -> None:
    voices = [Fake("a"), Fake("b")]
    lines = "/system Be kind.\nhi\n/save 2\nmore\n/again\n/save 4 over 1\n"
    status, _, notes = talk(lines, "model", "--save-to", "rows.jsonl", voices=voices)
    assert status == 0 and notes.count("saved to rows.jsonl") == 2
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "chosen": [{"role": "assistant", "content": "b 0 says hi"}],
        "rejected": [{"role": "assistant", "content": "a 0 says hi"}],
        "chosen_model": "b",
        "rejected_model": "a",
    }
    assert rows[1]["prompt"][2]["content"] == "b 0 says hi", "the better one went on"
    assert rows[1]["chosen"][0]["content"] == "b 1 says more"
    read = load(str(tmp_path / "rows.jsonl"))
    assert len(read.rows) == 2 and read.report.files[0].format == "preference"
    chosen = read.rows[0].role("chosen")
    assert chosen is not None and chosen.content == ({"role": "assistant", "content": "b 0 says hi"},)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("/save 1\n", "needs two answers"),
        ("hi\n/save 1\n", "needs two answers"),
        ("hi\n/again\n/save 3\n", "no answer 3"),
        ("hi\n/again\n/again\n/save 1\n", "which of 3 answers"),
        ("hi\n/again\n/save one\n", "whole number"),
        ("hi\n/save\n", "/save N"),
        ("/undo\n", "nothing to undo"),
        ("/again\n", "nothing was asked"),
        ("/pick 1\n", "no answer 1"),
        ("/fly\n", "no such command"),
        ("/temperature warm\n", "a number"),
        ("/temperature -1\n", "between 0"),
        ("/top_k 1.5\n", "whole number"),
        ("/dial 2\n", "models that are run here"),
    ],
)
def test_a_wrong_command_from_a_pipe_ends_with_one_line(talk: Any, lines: str, words: str) -> None:
    status, _, errors = talk(lines, voices=[Fake("a")])
    assert status == 2 and words in errors and errors.startswith("tether: ") and errors.count("\n") == 1


def test_cut_and_equal_answers_are_no_preference() -> None:
    talk = Conversation(chat=True)
    talk.ask("hi").answers += [Spoken("a", "x", True), Spoken("b", "y", False), Spoken("c", "x", True)]
    with pytest.raises(UsageError, match="answer 2 was cut"):
        talk.preference(1, 2)
    with pytest.raises(UsageError, match="same text"):
        talk.preference(1, 3)


def test_options_are_set_shown_and_used(talk: Any) -> None:
    voice = Fake("a")
    lines = "/temperature 0.5\n/top-p 0.9\n/max_tokens 7\n/stop END\n/seed 4\n/temperature\nhi\n"
    _, _, notes = talk(lines, "model", "--top-k", "3", voices=[voice])
    (used,) = voice.samplings
    assert (used.temperature, used.top_p, used.max_new_tokens) == (0.5, 0.9, 7)
    assert (used.stop, used.seed, used.top_k) == (("END",), 4, 3)
    assert notes.splitlines()[-1] == "temperature 0.5"


def test_undo_reset_slashes_and_quit(talk: Any) -> None:
    voice = Fake("a")
    _, out, _ = talk("one\ntwo\n/undo\nthree\n/reset\n//four\n/quit\nfive\n", voices=[voice])
    contents = [[m["content"] for m in asked if m["role"] == "user"] for asked in voice.asked]
    assert contents == [["one"], ["one", "two"], ["one", "three"], ["/four"]]
    assert out.splitlines()[-1] == "a 0 says /four"


def test_json_is_one_document_and_nothing_else(talk: Any) -> None:
    _, out, notes = talk("hi\n/again\n/pick 2\n", "model", "--json", voices=[Fake("a")])
    document = json.loads(out)
    assert notes == "" and document["models"] == ["a"] and document["saved"] == 0
    (turn,) = document["turns"]
    assert (turn["asked"], turn["picked"]) == ("hi", 2)
    assert [answer["text"] for answer in turn["answers"]] == ["a 0 says hi", "a 1 says hi"]


def test_an_interruption_stops_the_answer_and_not_the_session(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voices = [Fake("a"), Fake("b", interrupt=True)]
    monkeypatch.setattr(module, "_voices", lambda config: voices)
    monkeypatch.setattr(sys, "stdin", Typed("", tty=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = iter(["hi", "/save 1", "/fly", "/undo"])

    def typed(_: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    with pytest.raises(SystemExit) as ended:
        main(["chat", "model"])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert "(stopped)" in out and "(answers 1 and 2 were cut)" in out
    assert "answer 1 was cut" in out and "no such command" in out and "taken back: hi" in out


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_nothing_a_model_says_can_steer_the_terminal(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode("utf-8")


def test_what_is_neutralised_can_be_read() -> None:
    assert visible("a\x1b[31mred\r\nb\tc") == "a[U+001B][31mred[U+000D]\nb    c"
    assert visible("\x9b\u202e") == "[U+009B][U+202E]"
    assert visible("\u00e9 \u4f60\u597d \U0001f600") == "\u00e9 \u4f60\u597d \U0001f600"


@given(
    st.text(alphabet="ab \n\u4f60", max_size=80),
    st.text(alphabet="ab \n\u4f60", max_size=40),
    st.integers(4, 20),
)
def test_wrapping_keeps_the_text_fits_and_never_changes_a_finished_line(
    text: str, more: str, width: int
) -> None:
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert wrap(text + more, width)[: len(lines) - 1] == lines[:-1]


@settings(max_examples=60)
@given(
    st.lists(st.text(alphabet="ab \n\u4f60", max_size=9), max_size=12),
    st.lists(st.text(alphabet="xy \n", max_size=9), max_size=12),
)
def test_two_columns_say_in_the_end_what_both_said(left: list[str], right: list[str]) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        Columns([1, 2], ["one", "two"], 43).show([iter(left), iter(right)])  # pyright: ignore
    # What a terminal keeps: everything after the last return to the line's beginning.
    rows = [line.rpartition("\r\x1b[K")[2] for line in out.getvalue().split("\n")][2:]
    assert rows[-1] == "" and all(cell_len(row) <= 43 for row in rows)
    width = 20
    cells: list[list[str]] = [[], []]
    for row in rows[:-1]:
        head, _, tail = _split(row, width)
        cells[0].append(head.rstrip())
        cells[1].append(tail.rstrip())
    for said, column in ((left, cells[0]), (right, cells[1])):
        expected = [line.rstrip() for line in wrap("".join(said), width)]
        assert column[: len(expected)] == expected and not any(column[len(expected) :])


def _split(row: str, width: int) -> tuple[str, str, str]:
    used = place = 0
    while place < len(row) and used < width:
        used += cell_len(row[place])
        place += 1
    return row[:place], row[place : place + 3], row[place + 3 :]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, seed, chat in (("a", 0, True), ("b", 1, True), ("base", 0, False)):
        save_model(root / name, tiny_model(seed=seed), chat=chat)
    return root


def test_an_answer_is_what_generate_writes(talk: Any, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "hi"}]}) + "\n")
    sampling = ["--max-new-tokens", "12", "--seed", "3", "--device", "cpu"]
    words = ["generate", str(folders / "a"), "--prompts", str(tmp_path / "p.jsonl"), "--n", "2"]
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "o.jsonl"), *sampling, "--quiet"])
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    beside = ["--beside", str(folders / "b")]
    _, out, _ = talk("hi\n/again\n", str(folders / "a"), *sampling, *beside, "--json")
    answers = json.loads(out)["turns"][0]["answers"]
    assert [answer["text"] for answer in answers[::2]] == [row["completion"] for row in rows]
    assert [answer["ended"] for answer in answers[::2]] == [row["ended"] for row in rows]
    assert answers[1]["model"] == str(folders / "b") and answers[1]["text"] != answers[0]["text"]
    _, plain, _ = talk("hi\n", str(folders / "a"), *sampling)
    assert plain == visible(rows[0]["completion"]) + "\n", "pieces make the whole"


def test_a_dial_turns_in_the_session(talk: Any, folders: Path) -> None:
    sampling = ["--max-new-tokens", "8", "--device", "cpu", "--json"]
    dialled = [str(folders / "a"), "--reference", str(folders / "b"), "--dial", "1"]
    _, out, _ = talk("hi\n/reset\n/dial 0\nhi\n/reset\n", *dialled, *sampling)
    assert json.loads(out)["turns"] == []
    texts = []
    for words, lines in (
        ([str(folders / "a")], "hi\n"),
        (dialled, "hi\n"),
        ([str(folders / "b")], "hi\n"),
        (dialled, "/dial 0\nhi\n"),
    ):
        texts.append(json.loads(talk(lines, *words, *sampling)[1])["turns"][0]["answers"][0]["text"])
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_without_a_template_text_is_continued_and_kinds_are_not_mixed(talk: Any, folders: Path) -> None:
    words = [str(folders / "base"), "--max-new-tokens", "4", "--device", "cpu"]
    status, out, notes = talk("Once upon\n", *words)
    assert status == 0 and out and "your text is continued" in notes
    status, _, errors = talk("hi\n", *words, "--beside", str(folders / "a"))
    assert status == 2 and "no chat template" in errors


def test_a_prompt_that_is_too_long_is_refused_by_the_turn(talk: Any, folders: Path) -> None:
    status, _, errors = talk("word " * 600 + "\n", str(folders / "a"), "--device", "cpu")
    assert status == 3 and "reads at most" in errors


def test_the_screen_of_a_pipe_writes_notes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().note("\x1b]0;title\x07")
    assert capsys.readouterr() == ("", "[U+001B]]0;title[U+0007]\n")


def test_the_help_names_every_command_and_fits_80_columns(talk: Any) -> None:
    _, out, err = talk("/help\n", voices=[Fake("a")])
    said = (out + err).splitlines()
    assert max(map(len, said)) <= 80
    for name in ("again", "pick", "save", "undo", "reset", "system", "temperature", "dial", "quit"):
        assert any(f"/{name}" in line for line in said), name
