"""Load a tokenizer, and only a tokenizer: no weights, no remote code, no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.hub import model_folder
from tether.errors import ModelError
from tether.tokens.probe import probe_template

SAFE_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Vocabulary files that are data; a folder with none of these has nothing to load."""


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model (a folder, or a name of the hub), and try out its chat template.

    Raises:
        ModelError: there is none, it needs code or pickle files of its own, it cannot map tokens back to
            characters (no `tokenizer.json`), or its chat template is hostile (`probe_template`).

    """
    folder = model_folder(path)
    if not folder.exists():
        raise ModelError(f"{path}: no such folder; name a model folder, or a model of the hub (owner/name)")
    _refuse_folder(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # every tokenizer class has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: the tokenizer cannot be loaded: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise ModelError(
            f"{path}: {type(tokenizer).__name__} cannot map tokens to characters; "
            "save the tokenizer with a tokenizer.json (transformers' save_pretrained writes one)"
        )
    probe_template(tokenizer, path)
    return tokenizer


def _refuse_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: a file; name the model folder that holds it")
    _read_json(folder / "tokenizer_config.json")
    has_data = any((folder / name).is_file() for name in SAFE_FILES)
    if not has_data:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".pkl", ".pickle", ".bin", ".pt"))
        also = f" ({pickles[0]} may be a pickle, which is never read)" if pickles else ""
        raise ModelError(f"{folder}: no tokenizer.json or other vocabulary file here{also}")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object was expected, not {type(value).__name__}")
    return value


def stop_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: str | Path | Mapping[str, Any] | None = None
) -> frozenset[int]:
    """Return the token ids that end a text when this model generates.

    They are `eos_token_id` of generation_config.json and of config.json, and the tokenizer's own. Name the
    model, one of its JSON files, or pass the loaded generation config as a mapping.

    Raises:
        ModelError: an `eos_token_id` is neither a number nor a list of numbers.

    """
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(generation_config, Mapping):
        sources.append(("generation config", generation_config))
    elif generation_config is not None:
        path = model_folder(generation_config)
        files = [path / "generation_config.json", path / "config.json"] if path.is_dir() else [path]
        sources += [(str(file), _read_json(file)) for file in files]
    found: set[int] = set()
    for name, source in sources:
        nested = source.get("text_config")
        inner: Mapping[str, Any] = nested if isinstance(nested, Mapping) else {}
        for value in (source.get("eos_token_id"), inner.get("eos_token_id")):
            found |= _ids(value, name)
    if tokenizer.eos_token_id is not None:
        found |= _ids(tokenizer.eos_token_id, "tokenizer")
    return frozenset(found)


def _ids(value: Any, name: str) -> set[int]:
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in values):
        raise ModelError(f"{name}: eos_token_id is {value!r}; a token id or a list of token ids was expected")
    return set(values)
