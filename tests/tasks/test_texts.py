"""Texts become prefixes and rests that join to the text; samples become every pair a reward tells apart."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.conftest import write_rows
from tests.tiny import tiny_tokenizer
from tether.config.parse import build
from tether.config.task import TaskConfig, TextFiles
from tether.errors import DataError
from tether.records.results import read_lines
from tether.tasks import texts as texts_module
from tether.tasks.texts import cut_text, make_pairs, text_data

TEXTS = TextFiles(train=("a",), test=("b",), prefix_tokens=(2, 8))


@settings(max_examples=200)
@given(st.text(max_size=60), st.integers(0, 10**6), st.sampled_from([None, 1, 5, 100]))
def test_prefix_and_rest_join_to_the_beginning_of_the_text(text: str, seed: int, limit: int | None) -> None:
    cut = cut_text(text, tiny_tokenizer(chat=False), TEXTS, random.Random(seed), limit)
    if cut is not None:
        assert text.startswith(cut.prefix + cut.rest)
        assert cut.prefix.strip() and cut.rest.strip()
        if limit is None:
            assert cut.prefix + cut.rest == text


def test_a_prefix_has_as_many_tokens_as_drawn_and_the_rest_as_many_as_allowed() -> None:
    tokenizer = tiny_tokenizer(chat=False)
    text = "The quick brown fox jumps over the lazy dog while seven wizards quietly judge my boxes."
    lengths = set[int]()
    for seed in range(100):
        cut = cut_text(text, tokenizer, TEXTS, random.Random(seed), 3)
        assert cut is not None
        lengths.add(len(tokenizer(cut.prefix, add_special_tokens=False)["input_ids"]))
        assert len(tokenizer(cut.rest, add_special_tokens=False)["input_ids"]) <= 3
    assert lengths == set(range(2, 9))
    assert cut_text("The", tokenizer, TEXTS, random.Random(0), None) is None


def task(tmp_path: Path, model: Path) -> TaskConfig:
    rows = [{"text": f"A film about jam number {i}, quite long and kind.", "label": 0} for i in range(30)]
    train = write_rows(tmp_path / "train.jsonl", [*rows, {"text": "x", "label": 1}])
    test = write_rows(tmp_path / "test.jsonl", rows[:12])
    return build(
        TaskConfig,
        {
            "task": "sentiment",
            "title": "x",
            "model": str(model),
            "reward": "c#POSITIVE",
            "texts": {"train": [str(train)], "test": [str(test)], "prompts": 5, "prefix_tokens": (6, 8)},
            "prompts": 6,
            "max_new_tokens": 4,
        },
        source="test",
    )


def test_texts_become_files_and_what_is_too_short_is_counted(tmp_path: Path, model_folder: Path) -> None:
    config = task(tmp_path, model_folder)
    assert config.texts is not None
    found = text_data(config, config.texts, tmp_path / "out")
    assert found.counts["train_texts"] == 31 and found.counts["train_left_out"] == 1
    sft = list(read_lines(tmp_path / "out" / "data" / "sft.jsonl"))
    assert len(sft) == 30 and all(row["completion"].endswith("kind.") for row in sft)
    assert len(list(read_lines(tmp_path / "out" / "data" / "prefixes.jsonl"))) == 5
    assert 2 <= len(found.asked) <= 6
    assert text_data(config, config.texts, tmp_path / "out").asked == found.asked


def test_every_two_samples_of_different_reward_are_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four samples, rewards 3, 1, 1, 0: six twos, one of them tied."""
    data = tmp_path / "data"
    write_rows(
        data / "samples.jsonl",
        [
            {"id": "p0", "prompt": "The", "completion": text, "sample": i}
            for i, text in enumerate(("aaa", "b", "c", ""))
        ],
    )
    monkeypatch.setattr(texts_module, "generate", lambda *_: None)

    class Reward:
        name = "reward"

        def __call__(self, prompts: Any, completions: Any) -> list[float]:
            return [float(len(completion)) for completion in completions]

    found = make_pairs(task(tmp_path, tmp_path), TEXTS, tmp_path, Reward(), tmp_path)
    assert found == {"pairs": 5, "pairs_tied": 1}
    pairs = {(row["chosen"], row["rejected"]) for row in read_lines(data / "pairs.jsonl")}
    assert pairs == {("aaa", "b"), ("aaa", "c"), ("aaa", ""), ("b", ""), ("c", "")}


def test_a_file_without_the_column_is_refused(tmp_path: Path, model_folder: Path) -> None:
    config = task(tmp_path, model_folder)
    assert config.texts is not None
    other = config.texts.model_copy(update={"column": "review"})
    with pytest.raises(DataError, match="no row of 31 has a text 'review'"):
        text_data(config, other, tmp_path / "out")
