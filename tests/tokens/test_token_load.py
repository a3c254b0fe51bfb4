"""Loading a tokenizer runs nothing of the model's own and stops templates that never end."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from tests.tokens.variants import CHATML, LLAMA3, NO_END, STRIPS_THINKING, chat_tokenizer
from tether.errors import ModelError
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.probe import probe_template


def saved(folder: Path, tokenizer: Any = None, **config: Any) -> Path:
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    if config:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_a_saved_tokenizer_is_loaded_as_it_was(tmp_path: Path):
    tokenizer = load_tokenizer(str(saved(tmp_path)))
    assert tokenizer("Human: hi")["input_ids"] == tiny_tokenizer()("Human: hi")["input_ids"]
    assert tokenizer.chat_template == tiny_tokenizer().chat_template


@pytest.mark.parametrize("path", ["./missing", "/no/such/folder", "a/b/c", "~/nothing-here-at-all"])
def test_a_missing_folder_is_named(path: str):
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_and_nothing_runs(tmp_path: Path):
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w').close()\nclass Odd: pass\n"
    config = {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", "odd.Odd"]}}
    for with_vocabulary in (False, True):
        folder = tmp_path / str(with_vocabulary)
        folder.mkdir()
        saved(folder, **config)
        (folder / "odd.py").write_text(code)
        if not with_vocabulary:
            (folder / "tokenizer.json").unlink()
            (folder / "vocab.txt").write_text("a\n")
        with pytest.raises(ModelError, match=r"auto_map|custom code"):
            load_tokenizer(str(folder))
    assert not touched.exists()


def test_pickled_vocabularies_are_never_read(tmp_path: Path):
    touched = tmp_path / "touched"

    class Payload:
        def __reduce__(self) -> Any:
            return (open, (str(touched), "w"))

    (tmp_path / "vocab.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TransfoXLTokenizer"}')
    with pytest.raises(ModelError, match="pickle"):
        load_tokenizer(str(tmp_path))
    assert not touched.exists()


def test_broken_json_is_refused_by_file(tmp_path: Path):
    saved(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: not JSON"):
        load_tokenizer(str(tmp_path))
    saved(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_stop_tokens_are_those_of_generation_config_config_and_tokenizer(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    assert stop_ids(tokenizer) == {1}
    assert stop_ids(tokenizer, {"eos_token_id": [3, 4]}) == {1, 3, 4}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 7, "text_config": {"eos_token_id": 8}}')
    assert stop_ids(tokenizer, tmp_path) == {1, 5, 6, 7, 8}
    assert stop_ids(tokenizer, tmp_path / "generation_config.json") == {1, 5, 6}
    assert stop_ids(tiny_tokenizer(eos_token=None), {"eos_token_id": None}) == frozenset()
    with pytest.raises(ModelError, match="eos_token_id"):
        stop_ids(tokenizer, {"eos_token_id": "</s>"})


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        LLAMA3,
        NO_END,
        STRIPS_THINKING,
        "{{ raise_exception('no chats') }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{% set ns = namespace(a=1) %}{{ strftime_now('%Y') }}{{ messages | tojson(indent=2) }}",
    ],
)
def test_ordinary_templates_pass_the_probe(template: str):
    probe_template(chat_tokenizer(template))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "2 s of processor",
        ),
        ("{{ 'a' * 2000000000 }}", "MiB"),
        ("{% for a in range(2000) %}{{ 'a' * 1000 }}{% endfor %}", "characters"),
        ("{% for %}", "does not parse"),
    ],
)
def test_hostile_templates_are_stopped_before_they_run_here(tmp_path: Path, template: str, words: str):
    folder = saved(tmp_path, chat_tokenizer(template))
    with pytest.raises(ModelError, match=words):
        load_tokenizer(str(folder))


def test_a_template_cannot_reach_out_of_its_sandbox():
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = chat_tokenizer(template)
    probe_template(tokenizer)  # the sandbox refuses the conversation, which is a template's right
    with pytest.raises(Exception, match=r"unsafe|subclasses|SecurityError"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
