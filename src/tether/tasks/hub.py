"""Names of models in a task's config -> folders here: a path, else a repository of the Hugging Face Hub.

Only names a config holds are looked up. Data sets of the Hub are named as everywhere: `owner/name:split`.
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from tether.errors import ModelError

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What a model folder is made of; pickled weights are never fetched."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_UNREACHED = (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError)


def model_folder(name: str) -> str:
    """Return the folder of a model: as named where it is here, else the Hub's copy.

    Raises:
        ModelError: it is not here, and cannot be fetched.

    """
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if _NAME.fullmatch(name) is None:
        raise ModelError(f"{name}: no such model folder, and no name of the Hugging Face Hub (owner/model)")
    try:
        return str(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except _UNREACHED as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(
            f"{name}: no such folder here, and the Hugging Face Hub cannot give it ({reason}); "
            f"where there is a network run: hf download {name} --local-dir {name}"
        ) from error
