"""The token preflight says what happens to every row, before any weights are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_tokenizer
from tests.tokens.variants import (
    CHATML,
    COUNTS_TURNS,
    NO_END,
    adding,
    assistant,
    chat_tokenizer,
    renderer,
    row,
    user,
)
from tether.errors import DataError
from tether.records.rows import Preference
from tether.tokens.inspect import CUT_FINDINGS, NOTES, TokenReport, inspect_tokens, inspect_with
from tether.tokens.render import Renderer
from tether.tokens.truncate import CUTS

PLAIN = tiny_tokenizer(chat=False)


def report(
    rows: list[Preference], using: Renderer, limit: int | None = None, mode: Any = "keep_start"
) -> TokenReport:
    return inspect_with(rows, using, max_length=limit, truncation_mode=mode)


def kinds(found: TokenReport) -> dict[str, tuple[str, int, tuple[str, ...]]]:
    return {finding.kind: (finding.severity, finding.count, finding.rows) for finding in found.findings}


def test_lengths_are_those_of_the_ids():
    rows = [row("Human: hi" * n, " x" * n * n, " no", index=n) for n in range(1, 8)]
    found = report(rows, renderer(PLAIN))
    groups = renderer(PLAIN).encode_all(rows)
    lengths = [len(c.ids) for group in groups for c in group.completions]
    assert found.completion_tokens is not None and found.prompt_tokens is not None
    assert found.completion_tokens.mean == pytest.approx(np.mean(lengths), rel=1e-12)
    assert found.completion_tokens.median == np.median(lengths)
    assert found.completion_tokens.p90 == pytest.approx(np.percentile(lengths, 90), rel=1e-12)
    assert found.completion_tokens.max == max(lengths)
    assert found.prompt_tokens.max == max(len(group.prompt_ids) for group in groups)
    assert found.max_id == max(group.max_id for group in groups)
    assert found.stop_tokens == ("</s>",)
    assert found.findings == ()


def test_no_rows_are_no_error():
    found = report([], renderer(PLAIN), 8)
    assert (found.rows, found.prompt_tokens, found.findings) == (0, None, ())


def chats(*answers: str) -> list[Preference]:
    return [row((user("hi"),), (assistant(a),), (assistant("n"),), index=i) for i, a in enumerate(answers)]


@pytest.mark.parametrize(
    ("rows", "using", "kind", "expected"),
    [
        (
            chats("a", "b<|im_end|>"),
            renderer(chat_tokenizer(CHATML), "<|im_end|>"),
            "special_in_content",
            ("rows.jsonl:2",),
        ),
        (
            [row("<s>a", " b"), row("a", " b", index=1)],
            renderer(adding("<s> $A")),
            "double_bos",
            ("rows.jsonl:1",),
        ),
        (
            chats("a"),
            renderer(chat_tokenizer(COUNTS_TURNS), "<|im_end|>"),
            "template_rewrites",
            ("rows.jsonl:1",),
        ),
        ([row("the br", "ead", " x")], renderer(PLAIN), "joint_differs", ("rows.jsonl:1",)),
        (chats("a", "b"), renderer(chat_tokenizer(NO_END)), "no_end_token", ("rows.jsonl:1", "rows.jsonl:2")),
        (chats("a"), renderer(chat_tokenizer(CHATML), "</s>"), "end_not_stop", ("rows.jsonl:1",)),
        (
            chats("a"),
            renderer(chat_tokenizer(CHATML + "{{ strftime_now('%Y') if 0 else '' }}"), "<|im_end|>"),
            "template_uses_clock",
            ("rows.jsonl:1",),
        ),
    ],
)
def test_what_text_does_to_tokens_is_found_by_row(
    rows: list[Preference], using: Renderer, kind: str, expected: tuple[str, ...]
):
    found = kinds(report(rows, using))
    assert list(found) == [kind]
    assert found[kind][1:] == (len(expected), expected)


def test_what_truncation_would_cut_is_counted_per_cause():
    long = " bread" * 30
    rows = [
        row("Human: hi", " yes"),
        row("Human: hi", long, index=1),
        row("Human: hi" + long, " yes", index=2),
        row("Human: hi", long + " a", long + " b", index=3),
    ]
    found = kinds(report(rows, renderer(PLAIN), 24))
    assert found == {
        "completion_cut": ("warning", 1, ("rows.jsonl:2",)),
        "prompt_too_long": ("dropped", 1, ("rows.jsonl:3",)),
        "equal_after_cut": ("dropped", 1, ("rows.jsonl:4",)),
    }
    assert kinds(report(rows, renderer(PLAIN), 24, "drop"))["dropped_too_long"][1] == 3
    assert kinds(report(rows, renderer(PLAIN), 24, "keep_end"))["prompt_cut"][2] == (
        "rows.jsonl:2",
        "rows.jsonl:3",
    )


def test_every_row_that_cannot_be_encoded_is_named_in_one_pass():
    rows = [row("a\ud800", " b"), row("a", " b", index=1), row((), " b", index=2)]
    found = report(rows, renderer(chat_tokenizer(CHATML), "<|im_end|>", "</s>"))
    assert found.rows == 1
    assert kinds(found)["cannot_be_encoded"] == ("dropped", 2, ("rows.jsonl:1", "rows.jsonl:3"))
    with pytest.raises(DataError):
        renderer(PLAIN).encode_all(rows)


def test_every_note_and_every_cut_has_a_sentence():
    assert CUT_FINDINGS.keys() == CUTS.keys()
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).parents[2] / "src/tether/tokens").glob("*.py")
    )
    assert all(f'"{note}"' in source for note in NOTES)


def test_only_the_tokenizer_of_a_model_folder_is_read(tmp_path: Path):
    chat_tokenizer(CHATML).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    found = inspect_tokens(chats("a"), str(tmp_path), max_length=None, truncation_mode="keep_start")
    assert list(kinds(found)) == ["end_not_stop"]
    assert TokenReport.model_validate_json(found.model_dump_json()) == found
