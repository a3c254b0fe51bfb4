"""A judge that is a reward model: the answer with the higher score wins, whatever the order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tether.config.hub import model_folder, pinned
from tether.errors import ModelError
from tether.judging.judges import Opinion, Question, plain_text
from tether.policies.classifier import load_classifier
from tether.policies.load import hash_files, weight_files
from tether.records.rows import Content
from tether.tokens.control import ControlTokens, markers_for
from tether.tokens.load import load_tokenizer, stop_ids


class RewardJudge:
    """Scores prompt and answer with a sequence-classification model of one output, one text at a time.

    With a chat template the model reads the whole conversation, answer included; without one it reads prompt
    and answer as a pair of texts. Special tokens written in them stay text. The folder is safetensors only.
    """

    free, at_once = True, 4

    def __init__(self, path: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.name = f"reward:{path}"
        path = pinned(path, weights=True)
        folder = model_folder(path, weights=True)
        self._model = _load(folder, dtype).to(torch.device(device))
        self._device = device
        self._tokenizer: Any = load_tokenizer(path)
        self._control = ControlTokens(self._tokenizer, stop_ids(self._tokenizer, path))
        self._limit = getattr(self._model.config, "max_position_embeddings", None)
        self.identity = f"reward:{hash_files(weight_files(folder))}"

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return 1, 0, or 1/2 for equal scores; each answer is scored once."""
        scores: dict[tuple[int, str], float | str] = {}
        opinions: list[Opinion] = []
        prompts = {id(question.prompt): question.prompt for question in questions}
        for question in questions:
            found: list[float | str] = []
            for answer in (question.first, question.second):
                key = (id(question.prompt), answer)
                if key not in scores:
                    scores[key] = self.score(prompts[key[0]], answer)
                found.append(scores[key])
            opinions.append(_opinion(*found))
        return opinions

    @torch.no_grad()
    def score(self, prompt: Content, answer: str) -> float | str:
        """Return the reward of one answer, or why there is none."""
        inputs = self._inputs(prompt, answer)
        length = len(inputs["input_ids"])
        if self._limit is not None and length > self._limit:
            return f"prompt and answer have {length} tokens, the reward model reads {self._limit}"
        tensors = {name: torch.tensor([ids], device=self._device) for name, ids in inputs.items()}
        value = float(self._model(**tensors).logits[0, 0].double())
        return value if abs(value) < float("inf") else "the reward model gave no number"

    def _inputs(self, prompt: Content, answer: str) -> dict[str, list[int]]:
        if not self._tokenizer.chat_template:
            pair = self._tokenizer(
                plain_text(prompt), answer, split_special_tokens=True, truncation=False, verbose=False
            )
            return {name: list(ids) for name, ids in pair.items()}
        turns = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        )
        turns.append({"role": "assistant", "content": answer})
        markers = markers_for(turns)
        text = self._tokenizer.apply_chat_template(self._control.mark(turns, markers), tokenize=False)
        ids = self._control.encode_marked(text, markers, first=True)
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def _opinion(first: float | str, second: float | str) -> Opinion:
    for found in (first, second):
        if isinstance(found, str):
            return Opinion(None, found)
    return Opinion(0.5 if first == second else float(first > second))  # pyright: ignore[reportOperatorIssue]


def _load(folder: Path, dtype: torch.dtype) -> Any:
    model, missing = load_classifier(folder, dtype, called="reward model")
    if missing:
        raise ModelError(
            f"{folder}: no trained reward head ({missing[0]!r} is missing); "
            "name a sequence-classification model, or judge with local:MODEL"
        )
    if model.config.num_labels != 1:
        raise ModelError(f"{folder}: {model.config.num_labels} outputs; a reward model has one")
    return model
