"""Sequence-classification models: reward models and classifiers, from safetensors on disk only."""

from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification

from tether.policies.load import check_folder, load_whole


def load_classifier(folder: Path, dtype: torch.dtype, *, called: str) -> tuple[Any, list[str]]:
    """Load a model with a classification head; return it in eval mode, and the weights its folder lacks.

    Raises:
        ModelError: the folder holds no such model; the message calls it `called`.

    """
    check_folder(folder)
    model, missing = load_whole(AutoModelForSequenceClassification, folder, called=called, dtype=dtype)
    return model.eval(), missing
