"""A judge that is any local model: the probability of each letter from one forward pass, on CPU too."""

from collections.abc import Sequence
from typing import Any

import torch

from tether.config.hub import pinned
from tether.errors import ModelError
from tether.judging.judges import PROMPT_VERSION, Opinion, Question, judge_messages
from tether.policies.load import load_model
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer


class LocalJudge:
    """Asks a chat model of a folder; without a chat template the same words are plain text."""

    free, at_once = True, 2

    def __init__(self, path: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.name = f"local:{path}"
        path = pinned(path, weights=True)
        loaded = load_model(path, dtype=dtype, device=device)
        tokenizer: Any = load_tokenizer(path)
        self.identity = f"local:{loaded.weights}:{loaded.adapter}:v{PROMPT_VERSION}"
        self._model: Any = loaded.model
        self._device = device
        self._renderer = Renderer(tokenizer, stop_ids(tokenizer, path))
        self._chat = bool(tokenizer.chat_template)
        self._options = [_option_ids(tokenizer, letter) for letter in "AB"]
        if not all(self._options) or self._options[0] & self._options[1]:
            raise ModelError(f"{path}: its tokenizer has no single tokens for the letters A and B")

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return P(A) / (P(A) + P(B)) of the next token, one question at a time."""
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Opinion:
        messages = judge_messages(question)
        if self._chat:
            ids = self._renderer.prompt_ids(tuple(messages))
        else:
            ids = self._renderer.prompt_ids("\n\n".join(m["content"] for m in messages))
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            return Opinion(None, f"longer than the {limit} tokens the judge reads: {len(ids)}")
        scores = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False).logits[
            0, -1
        ]
        weights = [torch.logsumexp(scores[sorted(option)].double(), dim=0) for option in self._options]
        share = float(torch.sigmoid(weights[0] - weights[1]))
        return Opinion(share) if share == share else Opinion(None, "the judge gave no number")


def _option_ids(tokenizer: Any, letter: str) -> set[int]:
    """Return the ids that spell the letter as one token, with and without a space before it."""
    found: set[int] = set()
    for text in (letter, " " + letter):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == 1 and tokenizer.decode(ids).strip() == letter:
            found.add(ids[0])
    return found
