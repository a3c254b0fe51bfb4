"""Names of models: folders here first; what is nowhere is one line that says what to run."""

from pathlib import Path
from typing import Any

import pytest

from tether.errors import ModelError
from tether.tasks.hub import model_folder


def test_a_folder_here_is_taken_as_named(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path)) == str(tmp_path)


def test_a_hub_name_without_a_network_says_what_to_run() -> None:
    with pytest.raises(ModelError, match=r"hf download EleutherAI/pythia-2.8b --local-dir EleutherAI/pythia"):
        model_folder("EleutherAI/pythia-2.8b")


def test_what_is_no_name_of_the_hub_is_refused() -> None:
    with pytest.raises(ModelError, match="no such model folder, and no name of the Hugging Face Hub"):
        model_folder("no folder here")


def test_pickled_weights_are_never_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(repo: str, **options: Any) -> str:
        asked.append({"repo": repo, **options})
        return str(tmp_path)

    monkeypatch.setattr("tether.tasks.hub.snapshot_download", snapshot)
    assert model_folder("owner/model") == str(tmp_path)
    assert asked[0]["repo"] == "owner/model"
    patterns = asked[0]["allow_patterns"]
    assert "*.safetensors" in patterns and not any(text.endswith((".bin", ".pt", "*")) for text in patterns)
