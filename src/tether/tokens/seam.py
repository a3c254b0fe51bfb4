"""A prompt and the texts that follow it, tokenised in one go, without tokenising the prompt again and again.

Where a tokenizer cuts text into words before it looks for tokens, what follows a text changes its last word
only. So the prompt is tokenised once, and each joint text only from a word boundary shortly before the seam.
That end of the prompt must have the ids it has inside the prompt, else the whole joint text is tokenised: ids
are those of the whole joint text either way.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

LEAST = 32
"""Characters between the boundary and the seam; more where the tokenizer has longer added tokens."""
SEARCHED = 256
"""Characters before that in which a boundary is looked for."""
_BOUNDARY = re.compile(r"(?<=[A-Za-z0-9])(?= [A-Za-z])")
_WORDS = "one two three four"


class Joined(NamedTuple):
    """Ids of a prompt, and of the prompt with each of the texts that follow it."""

    prompt: list[int]
    joint: list[list[int]]


class _Cut(NamedTuple):
    prompt: str
    tail: str
    """The end of the prompt from a word boundary; the whole prompt where there is none."""
    texts: tuple[str, ...]


class Seams:
    """Tokenises prompts together with what follows them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added: Any = tokenizer.added_tokens_decoder
        longest = max((len(str(token)) for token in added.values()), default=0)
        self._window = max(LEAST, longest + 1)
        self._local = _splits_words(tokenizer)

    def encode(self, asked: Iterable[tuple[str, Sequence[str]]]) -> list[Joined]:
        """Return the ids of each prompt and of the prompt with each of its texts, in few calls."""
        cuts = [_Cut(prompt, self._tail(prompt), tuple(texts)) for prompt, texts in asked]
        known = self._known(
            text for cut in cuts for text in (cut.prompt, cut.tail, *(cut.tail + end for end in cut.texts))
        )
        whole = {
            cut.prompt
            for cut in cuts
            if not _ends_with(known[cut.prompt], known[cut.tail]) or (cut.tail and not known[cut.tail])
        }
        known |= self._known(cut.prompt + end for cut in cuts if cut.prompt in whole for end in cut.texts)
        made: list[Joined] = []
        for cut in cuts:
            prompt = known[cut.prompt]
            if cut.prompt in whole:
                joint = [list(known[cut.prompt + end]) for end in cut.texts]
            else:
                before = prompt[: len(prompt) - len(known[cut.tail])]
                joint = [before + known[cut.tail + end] for end in cut.texts]
            made.append(Joined(list(prompt), joint))
        return made

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, control tokens in it read as such, nothing added."""
        if not texts:
            return []
        return self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def _known(self, texts: Iterable[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.batch(distinct), strict=True))

    def _tail(self, prompt: str) -> str:
        last = len(prompt) - self._window
        if not self._local or last < self._window:
            return prompt
        found = [match.start() for match in _BOUNDARY.finditer(prompt, max(0, last - SEARCHED), last)]
        return prompt[found[-1] :] if found else prompt


def _ends_with(ids: list[int], end: list[int]) -> bool:
    return ids[len(ids) - len(end) :] == end


def _splits_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether this tokenizer cuts text into words before it looks for tokens."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    before = getattr(backend, "pre_tokenizer", None)
    return before is not None and len(before.pre_tokenize_str(_WORDS)) >= len(_WORDS.split())
