"""Joint tokenisation from a word boundary gives the ids of the whole joint text, whatever the tokenizer."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.tiny import CORPUS, tiny_tokenizer
from tests.tokens.variants import CHATML, chat_tokenizer, sentencepiece_like, unigram
from tether.data.checks import load
from tether.records.rows import Preference
from tether.tokens.seam import Seams


def stripping() -> Any:
    """A tokenizer that drops a text's leading spaces: a word is another token at the start of a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip(left=True, right=False)
    return tokenizer


TOKENIZERS = {
    "stripping": stripping(),
    "byte-level": tiny_tokenizer(),
    "chat": chat_tokenizer(CHATML),
    "metaspace": sentencepiece_like(),
    "unigram": unigram(),
}
LONG = " ".join(CORPUS)


def whole(tokenizer: Any, prompt: str, texts: list[str]) -> tuple[list[int], list[list[int]]]:
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return ids(prompt), [ids(prompt + text) for text in texts]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "end", ["", " ", "\n\nAssistant:", "  \n", "<|im_end|>\n<|im_start|>assistant\n", "é"]
)
def test_ids_are_those_of_the_whole_text(name: str, end: str) -> None:
    seams, prompt = Seams(TOKENIZERS[name]), LONG + end
    texts = [" Hello there.", "Hello", "\n", "", "s", "\u0301x", "'s", " 7"]
    (made,) = seams.encode([(prompt, texts)])
    assert (made.prompt, made.joint) == whole(TOKENIZERS[name], prompt, texts)


def test_the_prompt_is_not_tokenised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seams = Seams(TOKENIZERS["byte-level"])
    given: list[str] = []
    batch = seams.batch
    monkeypatch.setattr(seams, "batch", lambda texts: given.extend(texts) or batch(texts))
    seams.encode([(LONG, [" yes", " no"])])
    assert [text for text in given if text.startswith(LONG)] == [LONG]


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.text(alphabet=st.sampled_from("ab c\n<|im_end|>é1 "), min_size=60, max_size=160),
    st.lists(st.text(alphabet=st.sampled_from("ab \n|>é1"), max_size=20), max_size=3),
)
def test_any_text_gives_the_ids_of_the_whole(name: str, prompt: str, texts: list[str]) -> None:
    (made,) = Seams(TOKENIZERS[name]).encode([(prompt, texts)])
    assert (made.prompt, made.joint) == whole(TOKENIZERS[name], prompt, texts)


@pytest.mark.data
def test_on_real_rows_the_ids_are_those_of_the_whole_text(real_data: Any) -> None:
    rows: list[Preference] = load(str(real_data / "hh-harmless.jsonl.gz")).rows[:200]
    asked = [(str(row.prompt), [str(c.content) for c in row.completions]) for row in rows]
    for tokenizer in TOKENIZERS.values():
        for made, (prompt, texts) in zip(Seams(tokenizer).encode(asked), asked, strict=True):
            assert (made.prompt, made.joint) == whole(tokenizer, prompt, texts)
