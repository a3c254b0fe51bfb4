"""Data sets of the hub: named with a split, fetched by the datasets package, else refused in one line."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tether.config.sources import hub_name, is_hub_name
from tether.data.checks import load
from tether.errors import DataError

NO = {"role": "assistant", "content": "no", "tool_calls": None}
ROWS = [
    {
        "prompt": "a",
        "chosen": [{"role": "assistant", "content": "yes", "tool_calls": None}],
        "rejected": [NO],
    },
    {"prompt": "b", "chosen": "up", "rejected": "down"},
]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """A stand-in for `datasets`; yields what was asked for."""
    asked: list[tuple[Any, ...]] = []
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        if split == "nowhere":
            raise ValueError(f"Unknown split {split!r}.\nShould be one of ['train']")
        return ROWS

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    yield asked


def test_rows_of_a_named_split_are_read_like_a_file(fetched: list[tuple[Any, ...]]) -> None:
    loaded = load("org/pairs:train_prefs", task="preference")
    assert fetched == [("org/pairs", None, "train_prefs")]
    assert [row.row_id for row in loaded.rows] == [f"org/pairs:train_prefs row {i}" for i in (0, 1)]
    assert loaded.rows[0].completions[1].content == ({"role": "assistant", "content": "no"},)
    file = loaded.report.files[0]
    assert (file.path, file.format, file.read) == ("org/pairs:train_prefs", "preference", 2)
    assert file.sha256 == load("org/pairs:train_prefs").report.files[0].sha256
    load("org/pairs@english:test")
    assert fetched[-1] == ("org/pairs", "english", "test")


def test_what_the_hub_does_not_give_is_one_line(fetched: list[tuple[Any, ...]]) -> None:
    with pytest.raises(DataError, match=r"org/pairs:nowhere: no file here, .* Unknown split") as refused:
        load("org/pairs:nowhere")
    assert "\n" not in str(refused.value)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError, match=r"pip install 'tether\[hub\]'; or name a file"):
        load("org/pairs:train")


def test_a_path_is_never_taken_for_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pairs").write_text("")
    assert hub_name("data/pairs") is None and not is_hub_name("data/pairs")
    assert hub_name("org/pairs") is None, "only with a split, so that a misspelt path is not fetched"
    assert is_hub_name("org/pairs") and not is_hub_name("org/pairs.jsonl") and not is_hub_name("../up/pairs")
    assert not is_hub_name("/abs/pairs") and not is_hub_name("a/b/c")
    with pytest.raises(DataError, match="no such file"):
        load("org/pairs")
