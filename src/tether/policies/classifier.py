"""Sequence-classification models: reward models and classifiers, from safetensors on disk only."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from tether.errors import ModelError
from tether.policies.load import check_folder


def load_classifier(folder: Path, dtype: torch.dtype, *, called: str) -> tuple[Any, list[str]]:
    """Load a model with a classification head; return it in eval mode, and the weights its folder lacks.

    Raises:
        ModelError: the folder holds no such model; the message calls it `called`.

    """
    check_folder(folder)
    loader: Any = AutoModelForSequenceClassification.from_pretrained
    try:
        model, report = loader(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"{folder}: cannot be loaded as a {called}: {reason}") from error
    return model.eval(), sorted(report.get("missing_keys", ()))
