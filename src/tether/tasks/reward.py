"""A classifier as a task's true reward: the probability of one label for prompt and answer as one text.

As the DPO paper uses siebert/sentiment-roberta-large-english for films: what it says is taken as the truth.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tether.errors import ModelError, UsageError
from tether.policies.classifier import load_classifier
from tether.policies.load import hash_files, weight_files
from tether.records.rows import Content
from tether.tokens.load import load_tokenizer

BATCH = 32


class ClassifierReward:
    """An `Evaluator`: p(label) in [0, 1]; texts longer than the classifier reads lose their end."""

    def __init__(self, folder: str, label: str, device: str = "cpu") -> None:
        path = Path(folder)
        self.name = "reward"
        self._device = torch.device(device)
        self._model = _load(path).to(self._device)
        self.identity = f"classifier:{hash_files(weight_files(path))}#{label}"
        self._tokenizer: Any = load_tokenizer(folder)
        labels: dict[str, int] = {str(k): int(v) for k, v in self._model.config.label2id.items()}
        if label not in labels:
            raise ModelError(f"{folder}: has no label {label!r}; there are {', '.join(labels)}")
        self._index = labels[label]
        # RoBERTa counts positions from its padding id + 1: 514 rows are 512 tokens.
        positions = int(getattr(self._model.config, "max_position_embeddings", 512))
        self._limit = min(512, positions)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Content], completions: Sequence[str]) -> list[float]:
        """Return the reward of each completion after its prompt."""
        texts = [f"{_plain(p)}{c}" for p, c in zip(prompts, completions, strict=True)]
        found: list[float] = []
        for start in range(0, len(texts), BATCH):
            batch = self._tokenizer(
                texts[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
            ).to(self._device)
            found += self._model(**batch).logits.double().softmax(-1)[:, self._index].tolist()
        return found


def classifier_named(spec: str, folder: str) -> ClassifierReward:
    """Return the classifier of `NAME#LABEL`, whose folder here is `folder`.

    Raises:
        UsageError: no label in the name.
        ModelError: the folder is no classifier, or has no such label.

    """
    _, _, label = spec.rpartition("#")
    if "#" not in spec or not label:
        raise UsageError(
            f"reward {spec!r}: write CLASSIFIER#LABEL, the label whose probability is the reward"
        )
    return ClassifierReward(folder, label, "cuda" if torch.cuda.is_available() else "cpu")


def _plain(prompt: Content) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(str(m.get("content", "")) for m in prompt)


def _load(folder: Path) -> Any:
    model, missing = load_classifier(folder, torch.float32, called="classifier")
    if missing or model.config.num_labels < 2:
        raise ModelError(f"{folder}: no trained classifier of two or more labels")
    return model
