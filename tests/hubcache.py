"""A cache of the Hugging Face hub on disk, filled by hand: what was fetched, read by the real library."""

import shutil
from pathlib import Path

import pytest


class HubCache:
    """Models by name, commit and branch, in the folders `huggingface_hub` keeps them in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, commit: str, source: Path, *, branch: str = "main") -> str:
        """Keep a copy of a model folder as this commit, and let the branch stand for it; return its name."""
        home = self.folder / f"models--{name.replace('/', '--')}"
        shutil.copytree(source, home / "snapshots" / commit)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(commit)
        return f"{name}@{commit}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Return an empty cache that the library takes for its own; it is offline (tests/conftest.py)."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))  # for processes a test starts
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return HubCache(folder)
