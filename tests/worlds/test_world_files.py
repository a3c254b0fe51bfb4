"""A made world is ordinary files, the same every time, and says truthfully how it came about."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tether.errors import DataError, RunFolderError, UsageError
from tether.records.results import read_lines
from tether.worlds import WORLDS, Enumerable, load_world, pairs, read_world
from tether.worlds.recipe import prompt_ids

pytestmark = pytest.mark.usefixtures("quick_base")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_file_is_ordinary(tiny: Enumerable, tiny_base: tuple[Any, Any], tmp_path: Path) -> None:
    files = tiny.make(tmp_path / "w", pairs=30, eval_pairs=10, prompts=2, seed=3)
    assert files.made_now
    rows = list(read_lines(files.train))
    assert len(rows) == 30
    assert len(list(read_lines(files.eval))) == 10
    for row in rows:
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert [m["role"] for key in row for m in row[key]] == ["user", "assistant", "assistant"]
        assert row["chosen"] != row["rejected"]
        assert row["chosen"][0]["content"] and row["rejected"][0]["content"]
    assert [set(row) for row in read_lines(files.prompts)] == [{"prompt"}] * 2
    model = AutoModelForCausalLM.from_pretrained(files.model, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(files.model, local_files_only=True)
    assert all((a == b).all() for a, b in zip(model.parameters(), tiny_base[0].parameters(), strict=True))
    message = rows[0]["prompt"]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert list(ids) == prompt_ids(tokenizer, message[0]["content"])
    for row in rows:
        text = row["chosen"][0]["content"]
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_record_says_how_the_pairs_came_about(tiny: Enumerable, tmp_path: Path) -> None:
    record = tiny.make(tmp_path / "w", pairs=200, eval_pairs=20, seed=1).record
    assert read_world(tmp_path / "w") == record
    gaps = []
    for row in read_lines(tmp_path / "w" / "train.jsonl"):
        message = row["prompt"][0]["content"]
        gaps.append(
            tiny.reward(message, row["chosen"][0]["content"])
            - tiny.reward(message, row["rejected"][0]["content"])
        )
    agree = sum(0.5 if abs(g) < 1e-9 else float(g > 0) for g in gaps) / len(gaps)
    assert record.train.label_agreement == pytest.approx(agree)
    expected = sum(1 / (1 + math.exp(-abs(g))) for g in gaps) / len(gaps)
    assert record.train.expected_agreement == pytest.approx(expected)
    assert record.made == {"pairs": 200, "eval_pairs": 20, "prompts": 2, "seed": 1}
    assert sum(record.train.drawn_again.values()) > 0
    assert "gold" not in (tmp_path / "w" / "train.jsonl").read_text()


def test_labels_follow_bradley_terry() -> None:
    rng = random.Random(0)
    rewards = {"good": 1.3, "bad": 0.2}
    count = 4000
    drawn = [
        pairs.label(lambda _, text: rewards[text], "m", ("good", "bad"), rng).chosen for _ in range(count)
    ]
    share = drawn.count("good") / count
    expected = 1 / (1 + math.exp(-1.1))
    assert abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / count)


def test_same_seed_same_bytes_other_seed_other_pairs(tiny: Enumerable, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny.make(tmp_path / name, pairs=20, eval_pairs=5, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["train.jsonl"] != c["train.jsonl"]
    assert a["train.jsonl"].splitlines()[:5] != a["eval.jsonl"].splitlines()
    assert a["model/model.safetensors"] == c["model/model.safetensors"]


def test_the_same_world_is_left_alone_and_anything_else_is_refused(tiny: Enumerable, tmp_path: Path) -> None:
    out = tmp_path / "w"
    out.mkdir()
    tiny.make(out, pairs=20, eval_pairs=5)
    before = contents(out)
    assert not tiny.make(out, pairs=20, eval_pairs=5).made_now
    with pytest.raises(RunFolderError, match="seed 0, not 7"):
        tiny.make(out, pairs=20, eval_pairs=5, seed=7)
    with pytest.raises(RunFolderError, match="name enumerable-tiny, not sentiment"):
        WORLDS["sentiment"].make(out, pairs=20, eval_pairs=5)
    assert contents(out) == before
    (out / "train.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"train\.jsonl is not as the world wrote it"):
        tiny.make(out, pairs=20, eval_pairs=5)
    (out / "world.json").unlink()
    with pytest.raises(RunFolderError, match="not empty and holds no world"):
        tiny.make(out, pairs=20, eval_pairs=5)
    with pytest.raises(RunFolderError, match="is a file"):
        tiny.make(out / "train.jsonl", pairs=20, eval_pairs=5)


def test_a_failed_make_leaves_nothing(
    tiny: Enumerable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("tether.worlds.world.write_json", full)
    with pytest.raises(OSError, match="no space"):
        tiny.make(tmp_path / "w", pairs=5, eval_pairs=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ({"pairs": 0}, "pairs is 0; it must be at least 1"),
        ({"eval_pairs": -1}, "eval_pairs is -1"),
        ({"prompts": 3}, "prompts is 3; this world has 2 test prompts"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tiny: Enumerable, tmp_path: Path, numbers: dict[str, int], line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        tiny.make(tmp_path / "w", **numbers)
    assert not (tmp_path / "w").exists()


def test_a_world_is_found_by_name_folder_or_file_and_refused_otherwise(
    tiny: Enumerable, tmp_path: Path
) -> None:
    out = tmp_path / "w"
    tiny.make(out, pairs=5, eval_pairs=5)
    assert load_world("enumerable-tiny") is tiny
    assert load_world(out) is load_world(str(out / "world.json")) is tiny
    with pytest.raises(UsageError, match="did you mean sentiment"):
        load_world("sentimental")
    with pytest.raises(DataError, match=r"no world\.json here"):
        load_world(tmp_path)
    document = json.loads((out / "world.json").read_text())
    for change, line in (
        ({"version": 99}, "version 99"),
        ({"name": "mars"}, "does not have"),
        ({"parameters": {}}, "other numbers"),
        ({"reward": 3}, "not a world.json"),
    ):
        (out / "world.json").write_text(json.dumps(document | change))
        with pytest.raises(DataError, match=line):
            load_world(out)


@pytest.mark.parametrize("name", list(WORLDS))
def test_parameters_survive_json(name: str) -> None:
    parameters = WORLDS[name].parameters()
    assert json.loads(json.dumps(parameters)) == parameters


def test_a_prompt_of_another_world_is_refused(tiny: Enumerable) -> None:
    with pytest.raises(DataError, match="is no prompt of this world"):
        tiny.reward("the moon", "sun")


def test_a_model_without_the_worlds_words_is_refused(tiny: Enumerable) -> None:
    model, tokenizer = WORLDS["sentiment"].base_model()
    with pytest.raises(DataError, match="no single token for"):
        tiny.conditionals(model, tokenizer)
