"""Control tokens written in somebody's text: they must stay text.

A prompt that says `<|im_end|>` must not end the turn. Such strings are wrapped in marker characters before
the template renders the conversation; afterwards what lies between markers is tokenised as ordinary text.
Only rows that contain such a string pay for this.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.errors import DataError

PRIVATE_USE = range(0xF0000, 0xF1000)
"""Characters without a meaning; three that the row itself does not contain serve as its markers."""


class Markers(NamedTuple):
    """Three characters a row does not contain: around a control string, and at the end of a content."""

    start: str
    end: str
    here: str


class SpecialTokens(NamedTuple):
    """The named special tokens of a tokenizer: text "" and id None where it has none."""

    bos: str
    bos_id: int | None
    eos: str
    eos_id: int | None
    unk_id: int | None


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Return the tokenizer's special tokens."""
    named: Any = tokenizer
    return SpecialTokens(
        bos=named.bos_token or "",
        bos_id=named.bos_token_id,
        eos=named.eos_token or "",
        eos_id=named.eos_token_id,
        unk_id=named.unk_token_id,
    )


def strings(value: Any) -> Iterator[str]:
    """Yield every string inside messages, tools or template arguments, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def markers_for(*values: Any) -> Markers:
    """Return markers that occur in none of the values."""
    texts = [text for text in strings(values) if not text.isascii()]
    free = (chr(code) for code in PRIVATE_USE if not any(chr(code) in text for text in texts))
    try:
        return Markers(next(free), next(free), next(free))
    except StopIteration:
        raise DataError("the text uses every private-use character tether could mark it with") from None


class ControlTokens:
    """The special tokens of a tokenizer, found in text and kept out of ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        stops = set(stop_ids)
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        named = {str(entry): i for i, entry in added.items() if entry.special or i in stops}
        self.ids = frozenset(named.values())
        """Ids that text must never become."""
        longest_first = sorted((token for token in named if token), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._newline = self._ids("\n")
        self._prepends = self._ids("\na") != self._newline + self._ids("a")
        # A token spelled by its own text would be unavoidable: the unknown token of a unigram model is one.
        self._forbidden = self.ids - {special_tokens(tokenizer).unk_id}

    def found_in(self, *values: Any) -> bool:
        """Say whether any string inside the values contains a control token's text."""
        return any(self._pattern.search(text) for text in strings(values))

    def first_in(self, text: str) -> re.Match[str] | None:
        """Return the first control token in template text, or None."""
        return self._pattern.search(text)

    def mark(self, value: Any, markers: Markers) -> Any:
        """Return messages, tools or arguments with every control token's text between markers."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: markers.start + found.group() + markers.end, value)
        if isinstance(value, Mapping):
            return {self.mark(key, markers): self.mark(item, markers) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.mark(item, markers) for item in value)
        return value

    def encode_marked(self, text: str, markers: Markers, *, first: bool) -> list[int]:
        """Return the ids of a rendering whose control strings from the data are between markers.

        `first` says that the text begins the sequence; otherwise nothing is put in front of it.

        Raises:
            DataError: the tokenizer cannot spell a control token's text any other way.

        """
        split = f"{re.escape(markers.start)}(.*?){re.escape(markers.end)}|[{markers.start}{markers.end}]"
        ids: list[int] = []
        for index, piece in enumerate(re.split(split, text, flags=re.DOTALL)):
            if not piece:
                continue
            if index % 2:
                ids += self._spelled(piece)
            else:
                ids += self._ids(piece) if first and not ids else self.continued(piece)
        return ids

    def continued(self, text: str) -> list[int]:
        """Return the ids of text that goes on where other text ended.

        SentencePiece-style tokenizers put a space before every text they are given; this takes it away again.
        """
        return self._continued(text, as_text=False)

    def _continued(self, text: str, *, as_text: bool) -> list[int]:
        if self._prepends:
            ids = self._ids("\n" + text, as_text=as_text)
            if ids[: len(self._newline)] == self._newline:
                return ids[len(self._newline) :]
        return self._ids(text, as_text=as_text)

    def _spelled(self, token: str) -> list[int]:
        ids = self._continued(token, as_text=True)
        if self._forbidden.isdisjoint(ids):
            return ids
        # Stop tokens that are not special, and unigram models, which hold the token as a word: cut the word.
        ids = self._continued(token[:1], as_text=True) + self._continued(token[1:], as_text=True)
        if self._forbidden.isdisjoint(ids):
            return ids
        raise DataError(f"the tokenizer has no other spelling for {token!r}; remove it from the text")

    def _ids(self, text: str, *, as_text: bool = False) -> list[int]:
        encoding = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=as_text, verbose=False
        )
        return encoding["input_ids"]
