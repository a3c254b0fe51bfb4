"""A judge behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, hosted ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tether.judging.client import Answer, Client, Server, text_of, token_logprobs
from tether.judging.judges import (
    PROMPT_VERSION,
    Opinion,
    Question,
    judge_messages,
    parse_letter,
    share_of_first,
)

LIKELIEST = 20
"""Tokens whose probabilities are asked for: the most that servers give."""


class ServerJudge:
    """Asks a chat model for one letter; takes its probabilities where the server gives them.

    `reply_tokens` above 1 is for models that say something before the letter; the letter is then parsed.
    """

    free = False

    def __init__(self, server: Server, model: str, *, reply_tokens: int = 1) -> None:
        self.name = f"server:{server.url}#{model}"
        more = "" if reply_tokens == 1 else f":{reply_tokens} tokens"
        self.identity = f"{self.name}:v{PROMPT_VERSION}{more}"
        self.model, self.reply_tokens = model, reply_tokens
        self.client = Client(server)
        self.usage = self.client.usage
        self.at_once = server.workers

    def messages(self, question: Question) -> list[dict[str, str]]:
        """Return what is sent for one question."""
        return judge_messages(question)

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return one opinion per question, asked in parallel."""
        return in_parallel(self.client, self._ask, questions)

    def _ask(self, question: Question) -> Opinion:
        answer = self.client.ask(
            {
                "model": self.model,
                "messages": self.messages(question),
                "max_tokens": self.reply_tokens,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": LIKELIEST,
            }
        )
        return read_opinion(answer, self._share)

    def _share(self, choice: Mapping[str, Any]) -> float | None:
        likeliest = token_logprobs(choice, 0) if self.reply_tokens == 1 else None
        if likeliest is not None:
            weights: dict[str, float] = {token: math.exp(value) for token, value in likeliest.items()}
            share = share_of_first(weights)
            if share is not None:
                return share
        return parse_letter(text_of(choice))


def in_parallel(
    client: Client, ask: Callable[[Question], Opinion], questions: Sequence[Question]
) -> list[Opinion]:
    """Ask all questions, some at a time; an interruption ends the waiting of those under way."""
    with ThreadPoolExecutor(max_workers=client.server.workers) as pool:
        asked = [pool.submit(ask, question) for question in questions]
        try:
            return [future.result() for future in asked]
        except BaseException:
            client.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_opinion(answer: Answer, share_of: Callable[[Mapping[str, Any]], float | None]) -> Opinion:
    """Return the opinion in a server's answer; whatever is none is named, never guessed."""
    if answer.choice is None:
        return Opinion(None, answer.error)
    share = share_of(answer.choice)
    if share is not None and 0 <= share <= 1:
        return Opinion(share)
    return Opinion(None, f"unparsed: {text_of(answer.choice)[:40]!r}")
