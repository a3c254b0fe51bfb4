"""What training leaves: an ordinary Hugging Face folder, or a PEFT adapter that names its base."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from tether.policies.load import BASE_RECORD
from tether.records.results import write_json


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, base_weights: str) -> None:
    """Save model and tokenizer, safetensors only; the folder appears whole or not at all."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    use_cache = model.config.use_cache
    model.config.use_cache = True
    try:
        model.save_pretrained(temporary)
    finally:
        model.config.use_cache = use_cache
    tokenizer.save_pretrained(temporary)
    if isinstance(model, PeftModel):
        write_json(temporary / BASE_RECORD, {"weights": base_weights})
        _absolute_base(temporary / "adapter_config.json")
    (temporary / "README.md").unlink(missing_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    for path in temporary.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors makes files only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _absolute_base(path: Path) -> None:
    """Name the base so that the adapter loads from any working directory."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    base = Path(settings.get("base_model_name_or_path") or "")
    if base.is_dir():
        settings["base_model_name_or_path"] = str(base.resolve())
        write_json(path, settings)
