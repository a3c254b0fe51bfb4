"""A tiny chat-less model folder, a tiny classifier, and files as public data sets lay them out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.tiny import gentle_model, save_model

WORDS = ["bread", "fox", "jam", "help", "order", "today", "rude", "kind", "rows", "fine"]


def dialogue(turns: int, number: int) -> str:
    """Return an HH-RLHF prompt of this many turns of the user."""
    asked = [f"\n\nHuman: Question {number}, part {i}: {WORDS[(number + i) % 10]}?" for i in range(turns)]
    return "\n\nAssistant: Yes.".join(asked) + "\n\nAssistant:"


def hh_row(turns: int, number: int) -> dict[str, str]:
    prompt = dialogue(turns, number)
    return {"chosen": f"{prompt} Good {number}.", "rejected": f"{prompt} Bad {number}, no."}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", gentle_model())


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    """A random classifier of two labels, with weights large enough that texts differ."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=2,
        num_labels=2,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8.0)
    return save_model(tmp_path / "classifier", model)
