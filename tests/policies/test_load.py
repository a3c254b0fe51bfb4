"""Model folders: what is loaded is named exactly, and nothing that should not is read or run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_model
from tether.errors import ModelError
from tether.policies.load import hash_files, hash_model, load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class Touch:
    """What a hostile pickle would do: leave a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_weights_are_refused_and_never_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Touch(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*safetensors"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_remote_code_is_refused_without_asking(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="remote code"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/../../outside.safetensors"])
def test_a_shard_index_that_leaves_its_folder_is_refused(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    weights = dict.fromkeys(load_file(folder / "model.safetensors"), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ModelError, match="outside the model folder"):
        load_model(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "outside.safetensors")
    with pytest.raises(ModelError, match="outside the model folder"):
        load_model(folder)


def test_a_missing_tensor_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing.*model\.norm\.weight"):
        load_model(folder)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x10\x27\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_one_line(folder: Path, damage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match="model"):
        load_model(folder)


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}])
def test_the_hash_is_the_same_for_one_file_shards_and_memory(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny_model("llama", **options)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 1
    one = hash_files([tmp_path / "one" / "model.safetensors"])
    assert one == hash_files(shards) == hash_model(model) == load_model(tmp_path / "many").weights
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    assert hash_model(model) != one
