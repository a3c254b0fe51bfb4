"""Tokenizers and templates that each do one thing real ones do, built in memory."""

from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import CORPUS, tiny_tokenizer
from tether.records.rows import Completion, Content, Origin, Preference
from tether.tokens.render import Renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
STRIPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""DeepSeek-R1's habit: the generation prompt opens a thinking block that the full rendering does not have."""
COUNTS_TURNS = (
    "[{{ messages | length }}]{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Rewrites the very first characters when a message is added."""
NO_END = (
    "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
CONTROL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def chat_tokenizer(template: str, **kwargs: Any) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(**kwargs)
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL})
    tokenizer.chat_template = template
    return tokenizer


def adding(template: str, **kwargs: Any) -> PreTrainedTokenizerFast:
    """Return a plain text tokenizer that adds tokens around every text: `<s> $A`, `<s> $A </s>`."""
    tokenizer = tiny_tokenizer(chat=False, **kwargs)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@cache
def _metaspace() -> str:
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>"],
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def sentencepiece_like(**kwargs: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a space before every text it is given, as Llama-2's does."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_metaspace()),
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **kwargs},
    )


def unigram() -> PreTrainedTokenizerFast:
    """Return a unigram tokenizer whose model holds its control tokens as words, as SentencePiece's do."""
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    words += [(chr(code), -5.0) for code in range(32, 127)] + [("</", -4.0), ("hello", -2.0)]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(words, unk_id=0)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def with_plain_stop() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose turn ends with an added token that is not special."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    return tokenizer


def row(
    prompt: Content, chosen: Content, rejected: Content = "No.", index: int = 0, **options: Any
) -> Preference:
    return Preference(
        Origin("rows.jsonl", index, index + 1),
        prompt,
        (Completion("chosen", chosen), Completion("rejected", rejected)),
        **options,
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def renderer(tokenizer: PreTrainedTokenizerFast, *stops: str, **options: Any) -> Renderer:
    ids = [tokenizer.convert_tokens_to_ids(stop) for stop in stops or ("</s>",)]
    return Renderer(tokenizer, frozenset(ids), **options)


def tokens(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)
