"""Models of the hub: folders first, names pinned to commits, nothing pickled or not needed is fetched."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tests.hubcache import HubCache
from tests.hubcache import hub as hub
from tether.config.hub import Pins, folder_at_hand, model_folder, pinned, published_as
from tether.config.sources import ModelName, model_name
from tether.errors import ModelError

OLD, NEW = "0" * 39 + "a", "f" * 40


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Qwen/Qwen3-0.6B", ModelName("Qwen/Qwen3-0.6B", None)),
        ("Qwen/Qwen3-0.6B@main", ModelName("Qwen/Qwen3-0.6B", "main")),
        ("owner/model@refs/pr/1", ModelName("owner/model", "refs/pr/1")),
        (f"owner/model@{OLD}", ModelName("owner/model", OLD)),
        ("gpt2", None),
        ("./owner/model", None),
        ("/owner/model", None),
        ("../owner", None),
        ("runs/first/model", None),
        ("owner/model@", None),
        ("owner/model:train", None),
        ("owner/mo del", None),
    ],
)
def test_names_of_models(text: str, found: ModelName | None) -> None:
    assert model_name(text) == found
    assert found is None or str(found) == text


def test_a_folder_here_comes_first(hub: HubCache, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("owner/model", OLD, files)
    monkeypatch.chdir(files)
    (files / "owner" / "model").mkdir(parents=True)
    assert model_folder("owner/model") == Path("owner/model") == folder_at_hand("owner/model")
    assert pinned("owner/model") == "owner/model"
    # A misspelt folder is not looked up; with a revision it is no folder.
    assert model_folder("owner/modle") == Path("owner/modle")
    assert folder_at_hand("owner/modle") is None
    assert pinned("owner/model@main") == f"owner/model@{OLD}"


def test_a_name_stands_for_one_commit_however_the_branch_moves(hub: HubCache, files: Path) -> None:
    old = hub.put("owner/model", OLD, files)
    first = Pins()
    assert first.model("owner/model") == old and first.made == {"owner/model": old}
    new = hub.put("owner/model", NEW, files)
    assert pinned("owner/model") == new
    later = Pins(first.made)
    assert later.model("owner/model") == old and later.reference("model:owner/model") == f"model:{old}"
    # Asked for in other words it is another question.
    assert later.model("owner/model@main") == new
    assert later.made == {"owner/model": old, "owner/model@main": new}
    assert pinned(old) == old
    assert later.reference("self") == "self" and later.reference(f"model:{files}") == f"model:{files}"


def test_a_snapshot_knows_its_name(hub: HubCache, files: Path) -> None:
    name = hub.put("owner/mo-del", OLD, files)
    folder = model_folder(name)
    assert published_as(folder) == name
    assert folder_at_hand("owner/mo-del", OLD) == folder
    assert published_as(files) is None and folder_at_hand("owner/mo-del", NEW) is None


def test_without_network_and_cache_it_says_what_to_do(hub: HubCache) -> None:
    with pytest.raises(ModelError, match=r"owner/model: no folder here.*hf download owner/model$"):
        model_folder("owner/model")
    with pytest.raises(ModelError, match=r"hf download owner/model --revision v2$"):
        model_folder("owner/model@v2")
    assert folder_at_hand("owner/model") is None


def test_a_network_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(repo: str, **options: Any) -> str:
        raise TimeoutError("timed out.\nand more")

    monkeypatch.setattr("tether.config.hub.snapshot_download", snapshot)
    monkeypatch.setattr("tether.config.hub.is_offline_mode", lambda: False)
    with pytest.raises(ModelError, match=r"cannot be reached \(timed out\); .*: hf download owner/model$"):
        model_folder("owner/model")


def test_pickled_weights_are_neither_asked_for_nor_read(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(repo: str, **options: Any) -> str:
        asked.append({"repo": repo, **options})
        return str(files)

    monkeypatch.setattr("tether.config.hub.snapshot_download", snapshot)
    assert model_folder("owner/model@v1", weights=True) == files
    assert asked[0]["repo"] == "owner/model" and asked[0]["revision"] == "v1"
    patterns = asked[0]["allow_patterns"]
    assert "model*.safetensors" in patterns
    assert not any(text.endswith((".bin", ".pt", ".pkl", "*", ".py")) for text in patterns)
    # Tokenizer and config alone do not cost the weights.
    model_folder("owner/model@v1")
    assert not any("safetensors" in text for text in asked[1]["allow_patterns"])
    (files / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="publishes no safetensors weights, and pickled ones are never read"):
        model_folder("owner/model@v1", weights=True)
    (files / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        model_folder("owner/model@v1")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (GatedRepoError, "accept its terms at https://huggingface.co/owner/model"),
        (RevisionNotFoundError, "no revision 'v1' of this model"),
        (RepositoryNotFoundError, "no model of the hub"),
        (TimeoutError, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    error: type[Exception], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(repo: str, **options: Any) -> str:
        if error is TimeoutError:
            raise TimeoutError("timed out\nand more")
        answer: Any = SimpleNamespace(headers={}, request=None, status_code=404)
        raise error("404 Client Error", response=answer)  # pyright: ignore[reportCallIssue]

    monkeypatch.setattr("tether.config.hub.snapshot_download", snapshot)
    with pytest.raises(ModelError, match=why) as refusal:
        model_folder("owner/model@v1")
    assert "\n" not in str(refusal.value) and refusal.value.exit_code == 3
