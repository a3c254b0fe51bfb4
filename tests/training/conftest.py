"""A tiny model folder and preference rows on disk, and a run of them in a fresh folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import gentle_model, save_model
from tether.config.train import TrainConfig
from tether.training import references
from tether.training.run import train

WORDS = ["bread", "fox", "jam", "help", "order", "today", "rude", "kind", "rows", "fine"]


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    """Return preference rows of uneven lengths; no two alike."""
    made: list[dict[str, str]] = []
    for i in range(start, start + count):
        word, other = WORDS[i % 10], WORDS[(i * 3 + 1) % 10]
        made.append(
            {
                "prompt": f"Question {i}: what about {word}?" + " Please be quick." * (i % 3),
                "chosen": f" I would say {word} and {other}, number {i}." + " Happy to help." * (i % 4),
                "rejected": f" No {other}." + f" Not {word}." * (i % 5) + f" {i}",
            }
        )
    return made


def spoil_reference(monkeypatch: pytest.MonkeyPatch, nats: float) -> None:
    """Move every sum of a scored reference by so many nats."""
    original = references.fill_table

    def wrong(table: Any, *args: Any, **kwargs: Any) -> None:
        original(table, *args, **kwargs)
        for key, score in table.scores.items():
            table.scores[key] = type(score)(score.total + nats, score.count)

    monkeypatch.setattr(references, "fill_table", wrong)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Save a tiny Llama and its tokenizer."""
    return save_model(tmp_path / "model-in", gentle_model())


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Save 24 preference rows."""
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(24)))
    return path


@pytest.fixture
def eval_file(tmp_path: Path) -> Path:
    """Save 7 held-out rows."""
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(7, 100)))
    return path


@pytest.fixture
def make_config(tmp_path: Path, model_folder: Path, data_file: Path) -> Callable[..., TrainConfig]:
    """Return a config maker: 12 updates of 4 pairs, nothing measured, unless told otherwise."""

    def make(**options: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model_name_or_path": str(model_folder),
            "dataset_name": str(data_file),
            "output_dir": str(tmp_path / "run"),
            "learning_rate": 1e-3,
            "train_batch_size": 4,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "measure_prompts": 0,
            "seed": 7,
        }
        return TrainConfig.model_validate({**values, **options})

    return make


@pytest.fixture
def run() -> Callable[[TrainConfig], Any]:
    """Return the training function."""
    return train
