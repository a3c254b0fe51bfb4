"""The small model for real rows is an ordinary folder that tether reads, and the same every time."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools import small_model

SMALL = ["--vocab", "300", "--hidden", "16", "--layers", "1", "--heads", "2", "--positions", "64"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "How are you?", "chosen": " Fine, thank you.", "rejected": " No."},
        {
            "prompt": [{"role": "user", "content": "Say caf\u00e9."}],
            "chosen": [{"role": "assistant", "content": "caf\u00e9"}],
            "rejected": [{"role": "assistant", "content": "tea"}],
        },
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(data: Path, out: Path, *more: str) -> Path:
    assert small_model.main(["--data", str(data), "--out", str(out), *SMALL, *more]) == 0
    return out


def test_folder_is_an_ordinary_one(data: Path, tmp_path: Path) -> None:
    out = build(data, tmp_path / "m")
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    assert model.config.model_type == "llama" and model.config.tie_word_embeddings
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert model.config.max_position_embeddings == 64
    ends = tokenizer.convert_tokens_to_ids([small_model.EOS, small_model.END])
    assert model.generation_config.eos_token_id == ends
    assert tokenizer.eos_token_id == ends[0] != tokenizer.pad_token_id
    assert not list(out.glob("*.bin"))


def test_tokenizer_spells_any_text_and_keeps_the_turns_apart(data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build(data, tmp_path / "m"))
    for text in ("caf\u00e9 \u65e5\u672c \x00\t ", "cafe\u0301"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    turn = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    whole = tokenizer.apply_chat_template([*turn, {"role": "assistant", "content": "Yo"}], tokenize=False)
    assert whole == prompt + "Yo<|im_end|>\n"


def test_same_data_and_seed_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    first, second = build(data, tmp_path / "a"), build(data, tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    other = build(data, tmp_path / "c", "--seed", "1")
    assert (other / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "part"),
    [(["--vocab", "100"], "at least 260"), (["--hidden", "10"], "multiple of twice --heads 4")],
)
def test_impossible_sizes_are_refused(
    data: Path, tmp_path: Path, options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small_model.main(["--data", str(data), "--out", str(tmp_path / "m"), *options]) == 2
    assert part in capsys.readouterr().err


def test_nothing_is_overwritten_and_bad_data_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("x")
    assert small_model.main(["--data", str(data), "--out", str(tmp_path / "m")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert small_model.main(["--data", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "n")]) == 3
    assert "no.jsonl" in capsys.readouterr().err
