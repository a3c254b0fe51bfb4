"""A judge behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, a hosted API.

The key comes from OPENAI_API_KEY and goes nowhere else. Every request is tried a bounded number of times.
"""

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from tether.judging.judges import (
    PROMPT_VERSION,
    Opinion,
    Question,
    judge_messages,
    parse_letter,
    share_of_first,
)

TRANSIENT = frozenset({408, 409, 425, 429})
"""Status codes worth another try; so is every 5xx."""


class ServerJudge:
    """Asks a chat model for one letter; takes its probabilities where the server gives them."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 60.0,
        attempts: int = 5,
        workers: int = 8,
        wait: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"server:{url}#{model}"
        self.identity = f"{self.name}:v{PROMPT_VERSION}"
        self.model, self.attempts, self.workers, self.wait = model, attempts, workers, wait
        self.retries = 0
        """Requests that were sent again, over the life of this judge."""
        self._sleep = sleep
        self._client = openai.OpenAI(
            base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", timeout=timeout, max_retries=0
        )

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return one opinion per question, asked in parallel."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            return list(pool.map(self._ask, questions))

    def _ask(self, question: Question) -> Opinion:
        messages = judge_messages(question)
        problem, attempt = "", 0
        for attempt in range(self.attempts):
            if attempt:
                self.retries += 1
                self._sleep(self._delay(attempt))
            try:
                reply = self._client.chat.completions.create(
                    model=self.model,
                    messages=messages,  # pyright: ignore[reportArgumentType]
                    max_tokens=1,
                    temperature=0,
                    logprobs=True,
                    top_logprobs=20,
                )
            except openai.APIStatusError as error:
                problem = f"HTTP {error.status_code}"
                if error.status_code not in TRANSIENT and error.status_code < 500:
                    break
            except openai.APITimeoutError:
                problem = "timeout"
            except (openai.APIError, json.JSONDecodeError, ValueError) as error:
                problem = f"unreadable answer or no connection ({type(error).__name__})"
            else:
                return _opinion(reply)
        return Opinion(None, f"{problem} after {attempt + 1} attempts")

    def _delay(self, attempt: int) -> float:
        return min(self.wait * 2 ** (attempt - 1), 30.0) * (0.5 + random.random() / 2)


def _opinion(reply: Any) -> Opinion:
    """Read a reply that may be of any shape: a server is not trusted to follow the protocol."""
    try:
        choice = reply.choices[0]
    except (AttributeError, IndexError, TypeError):
        return Opinion(None, "unparsed: no choice in the reply")
    share = _from_logprobs(choice)
    if share is not None:
        return Opinion(share)
    text = str(getattr(getattr(choice, "message", None), "content", None) or "")
    share = parse_letter(text)
    return Opinion(share) if share is not None else Opinion(None, f"unparsed: {text[:40]!r}")


def _from_logprobs(choice: Any) -> float | None:
    try:
        top = choice.logprobs.content[0].top_logprobs
        weights: dict[str, float] = {}
        for entry in top:
            weights[str(entry.token)] = weights.get(str(entry.token), 0.0) + math.exp(float(entry.logprob))
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError):
        return None
    share = share_of_first(weights)
    return share if share is not None and math.isfinite(share) else None
