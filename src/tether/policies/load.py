"""Model folders in, models out: safetensors only, no remote code, nothing read outside the folder.

A folder holds a whole model (config.json, *.safetensors) or a PEFT adapter (adapter_config.json,
adapter_model.safetensors) whose base is another folder, or in the cache of the hub. The hash of the
weights names what was loaded: it is the same for one file or many shards, and for the saved file and the
model in memory.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from tether.config.hub import folder_at_hand, model_folder, published_as
from tether.errors import ModelError
from tether.policies.lora_linear import in_one_product
from tether.policies.quantisation import NONE, Quantisation, settle

# transformers draws its own bars on standard error, which belongs to the command's one live line.
disable_progress_bar()

BASE_RECORD = "tether_base.json"
"""Beside an adapter: the weights hash of the base it was trained on, so that another base is refused, and how
that base was stored (`quantisation`)."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM ready for use, and the name of exactly what it is."""

    model: PreTrainedModel | PeftModel
    path: str
    weights: str
    """Hash of the base model's weights."""
    adapter: str | None
    """Hash of the adapter's weights, or None."""
    architecture: str
    trained_on: str = "none"
    """How the adapter's base was stored while it was trained (`policies.quantisation`)."""


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: str | None = None,
    trainable_adapter: bool = False,
    quantisation: Quantisation | None = None,
) -> LoadedModel:
    """Load a model or an adapter in eval mode; `quantisation` stores the base in few bits.

    `path` is a folder, or a name of the hub (`config.hub`).

    Raises:
        ModelError: missing files, pickled weights, remote code, a shard outside the folder, or an adapter
            whose base is not the one it was trained on.

    """
    folder = model_folder(path, weights=True)
    if is_adapter(folder):
        loaded = _load_adapter(folder, dtype, device, attention, trainable_adapter, quantisation)
        return replace(loaded, path=str(path))
    check_folder(folder)
    model = _from_pretrained(folder, dtype, attention, quantisation, torch.device(device))
    weights = hash_files(weight_files(folder))
    if quantisation is None:
        model.to(device=torch.device(device))
    return LoadedModel(model.eval(), str(path), weights, None, type(model).__name__)


def _from_pretrained(
    folder: Path,
    dtype: torch.dtype,
    attention: str | None,
    quantisation: Quantisation | None,
    device: torch.device,
) -> Any:
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if quantisation is not None:
        stored = read_json(folder / "config.json").get("quantization_config")
        if stored:
            raise ModelError(
                f"{folder}: already stored as {stored.get('quant_method')}; "
                "leave out load_in_4bit and load_in_8bit"
            )
        options |= {"quantization_config": quantisation.settings(dtype), "device_map": {"": device}}
    model, missing = load_whole(AutoModelForCausalLM, folder, called="causal LM", dtype=dtype, **options)
    if quantisation is not None:
        settle(model)
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} tensors are missing, first {missing[0]!r}; get the whole model"
        )
    return model


def load_whole(kind: Any, folder: Path, *, called: str, **options: Any) -> tuple[Any, list[str]]:
    """Load a model by a class of transformers; return it, and the weights its folder lacks.

    Raises:
        ModelError: the folder holds no such model; the message calls it `called`.

    """
    try:
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a {called}: {_first_line(error)}") from error
    return model, sorted(report.get("missing_keys", ()))


def _load_adapter(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    attention: str | None,
    trainable: bool,
    quantisation: Quantisation | None,
) -> LoadedModel:
    base_path = base_folder(folder)
    settings = read_json(folder / "adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: no adapter_model.safetensors (pickled adapters are refused)")
    base = load_model(base_path, dtype=dtype, device=device, attention=attention, quantisation=quantisation)
    record = read_json(folder / BASE_RECORD) if (folder / BASE_RECORD).is_file() else {}
    if record and record.get("weights") != base.weights:
        raise ModelError(
            f"{folder}: trained on another base: {BASE_RECORD} names weights "
            f"{record.get('weights')}, {base_path} has {base.weights}"
        )
    try:
        model = PeftModel.from_pretrained(
            base.model, str(folder), is_trainable=trainable, local_files_only=True, torch_device=str(device)
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"{folder}: the adapter does not fit {base_path}: {_first_line(error)}") from error
    adapter = hash_files([folder / "adapter_model.safetensors"], extra=_adapter_settings(settings))
    trained_on = str(record.get("quantisation", NONE))
    in_one_product(model)
    return LoadedModel(model.eval(), str(folder), base.weights, adapter, base.architecture, trained_on)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()


def base_folder(folder: Path) -> Path:
    """Return the folder of an adapter's base: as named, inside the adapter's, or in the cache of the hub.

    Raises:
        ModelError: it is in none of them. Nothing is fetched: the adapter named it, not the user.

    """
    settings = read_json(folder / "adapter_config.json")
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not name:
        raise ModelError(
            f"{folder}/adapter_config.json: base_model_name_or_path is empty; name the base model"
        )
    if (folder / name).is_dir() and not Path(name).is_dir():
        return folder / name
    found = folder_at_hand(name, revision)
    if found is None:
        fetch = f"hf download {name}{f' --revision {revision}' if revision else ''}"
        raise ModelError(
            f"{folder}/adapter_config.json: its base {name!r} is no folder here and not in the cache of the "
            f"hub; a model of the hub is fetched with: {fetch}"
        )
    return found


def _adapter_settings(settings: dict[str, Any]) -> str:
    kept = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "bias")
    return json.dumps({key: settings.get(key) for key in kept}, sort_keys=True)


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Refuse a model folder that is not one, needs remote code, or (with `weights`) reaches outside itself.

    Raises:
        ModelError: with the file at fault and what to do.

    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: no config.json; name a Hugging Face model folder")
    settings = read_json(config)
    if settings.get("model_type") not in CONFIG_MAPPING:
        why = "it needs remote code (auto_map)" if "auto_map" in settings else "unknown to this transformers"
        raise ModelError(
            f"{config}: model_type {settings.get('model_type')!r}: {why}; tether runs built-in models only"
        )
    if weights and not weight_files(folder):
        pickled = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt*")]
        text = (
            f"only pickled weights ({pickled[0]}); convert them to safetensors"
            if pickled
            else "no *.safetensors"
        )
        raise ModelError(f"{folder}: {text}")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, sorted; every shard must lie inside it.

    Raises:
        ModelError: the index names a file elsewhere, or one that is missing.

    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [_inside(folder, single.name, folder)] if single.is_file() else []
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    return [_inside(folder, str(name), index) for name in names]


def _inside(folder: Path, name: str, source: Path) -> Path:
    path = folder / name
    # A hub cache keeps snapshots of links into a sibling `blobs` folder: that is the one link out we follow.
    roots = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        roots.append(folder.resolve().parents[1] / "blobs")
    if Path(name).name != name or not any(path.resolve().is_relative_to(root) for root in roots):
        raise ModelError(f"{source}: shard {name!r} lies outside the model folder")
    if not path.is_file():
        raise ModelError(f"{source}: shard {name!r} is missing")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: it is missing, unreadable or not an object.

    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    with path.open("rb") as stream:
        prefix = stream.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < size <= min(100_000_000, path.stat().st_size):
            raise ModelError(f"{path}: not a safetensors file (header of {size} bytes)")
        try:
            header = json.loads(stream.read(size))
        except ValueError as error:
            raise ModelError(f"{path}: damaged safetensors header") from error
    header.pop("__metadata__", None)
    return 8 + size, header


def parameter_count(path: str | Path) -> int:
    """Return how many weights a model, or the base of an adapter, holds on disk."""
    folder = model_folder(path, weights=True)
    if is_adapter(folder):
        folder = base_folder(folder)
    headers = [_header(file)[1] for file in weight_files(folder)]
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


def hash_files(paths: list[Path], *, extra: str = "") -> str:
    """Hash the tensors of safetensors files: name, dtype, shape and bytes, in order of name."""
    places = [
        (name, path, start, entry)
        for path in paths
        for start, h in [_header(path)]
        for name, entry in h.items()
    ]
    digest = hashlib.sha256(extra.encode())
    for name, path, start, entry in sorted(places, key=lambda place: place[0]):
        begin, end = entry["data_offsets"]
        digest.update(f"{name}|{entry['dtype']}|{entry['shape']}|".encode())
        with path.open("rb") as stream:
            stream.seek(start + begin)
            for piece in _pieces(stream, end - begin):
                digest.update(piece)
    return digest.hexdigest()[:32]


def _pieces(stream: Any, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = stream.read(min(size, 1 << 24))
        if not piece:
            raise ModelError(f"{stream.name}: truncated safetensors file")
        size -= len(piece)
        yield piece


DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


def hash_tensors(tensors: dict[str, Tensor], *, extra: str = "") -> str:
    """Hash tensors in memory exactly as `hash_files` hashes the file they would be saved to."""
    digest = hashlib.sha256(extra.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        kind = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        digest.update(f"{name}|{kind}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def hash_model(model: nn.Module) -> str:
    """Hash a model in memory: what `save_pretrained` would write, tied tensors once."""
    shared = set(getattr(model, "_tied_weights_keys", None) or {})
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    # A tied name is listed after its source so that the source is the one kept, as in the saved file.
    for name, tensor in sorted(model.state_dict().items(), key=lambda item: item[0] in shared):
        if name in shared and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        tensors[name] = tensor
    return hash_tensors(tensors)


def config_summary(path: str | Path) -> Any:
    """Return the transformers config of a model without reading, or fetching, its weights."""
    folder = model_folder(path)
    check_folder(folder, weights=published_as(folder) is None)
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
