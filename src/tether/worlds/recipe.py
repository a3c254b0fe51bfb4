"""How a world's base model is made: a small Llama, from random weights, on text the world writes itself.

A plain loop, apart from `tether.training` on purpose: the reference every claim is measured against must not
change when the trainer does. Same texts, seed, thread count and machine give the same bits.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

BOS, EOS, PAD, USER, ASSISTANT, SYSTEM = SPECIAL = (
    "<s>",
    "</s>",
    "<pad>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """Size of a base model; the vocabulary comes from its tokenizer, embeddings are tied."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int


@dataclass(frozen=True)
class Schedule:
    """How a base model is trained: AdamW (betas 0.9, 0.95, no weight decay), short warm-up, linear decay."""

    steps: int
    batch_size: int
    learning_rate: float
    prompt_dropout: float = 0.15
    """Share of texts trained without their user turn, so that the model also knows p(completion)."""
    seed: int = 0


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, words joined by single spaces; other words are `<unk>`."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, "<unk>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(tokenizer, unk_token="<unk>")


def text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on these texts; it can spell any text."""
    return _wrap(byte_level(texts, vocab_size, SPECIAL))


def byte_level(texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> Tokenizer:
    """Return byte-level BPE trained on these texts, with these special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        clean_up_tokenization_spaces=False,
        **special,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def new_model(tokenizer: Any, shape: Shape, seed: int) -> LlamaForCausalLM:
    """Return a Llama-shaped model with random weights; the global random state is left as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return model


def prompt_ids(tokenizer: Any, message: str | None) -> list[int]:
    """Return the ids of the generation prompt for one user message, or for no user turn at all."""
    head, tail = [tokenizer.bos_token_id], tokenizer.convert_tokens_to_ids([ASSISTANT])
    if message is None:
        return head + tail
    user = tokenizer.convert_tokens_to_ids([USER])
    return head + user + tokenizer.encode(message, add_special_tokens=False) + tail


Text = tuple[str, str]
"""A user message and the reply to it."""


def train(
    model: Any,
    tokenizer: Any,
    write: Callable[[random.Random], Text],
    schedule: Schedule,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train on fresh texts from `write`, on the reply's tokens and the end token; in place.

    Texts are drawn in blocks of 16 batches and sorted by length inside a block, so little is padding; the
    batches of a block come in random order. `report` gets the step and the recent mean nats per token.
    """
    rng = random.Random(schedule.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    warmup = max(1, schedule.steps // 50)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (schedule.steps - step) / max(1, schedule.steps - warmup)),
    )
    model.train()
    seen, total = 0, 0.0
    batches: list[list[tuple[list[int], list[int]]]] = []
    for step in range(schedule.steps):
        if not batches:
            batches = _block(tokenizer, write, schedule, rng)
        ids, labels = _pad(batches.pop(), tokenizer.pad_token_id)
        loss = next_token_loss(model, ids, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        seen, total = seen + 1, total + float(loss.detach())
        if report and (seen == 100 or step + 1 == schedule.steps):
            report(step + 1, total / seen)
            seen, total = 0, 0.0
    model.eval()


def next_token_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood (nats per labelled token); padding is on the right."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def likelihood(model: Any, tokenizer: Any, texts: Sequence[Text]) -> float:
    """Return the mean log-likelihood of the replies, end token included, nats per token."""
    total, count = 0.0, 0
    for start in range(0, len(texts), 64):
        ids, labels = _pad(
            [_encode(tokenizer, text, drop=False) for text in texts[start : start + 64]],
            tokenizer.pad_token_id,
        )
        tokens = int((labels[:, 1:] != IGNORED).sum())
        total -= float(next_token_loss(model, ids, labels)) * tokens
        count += tokens
    return total / count


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: configs, safetensors, tokenizer, chat template."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _block(
    tokenizer: Any, write: Callable[[random.Random], Text], schedule: Schedule, rng: random.Random
) -> list[list[tuple[list[int], list[int]]]]:
    rows = [
        _encode(tokenizer, write(rng), drop=rng.random() < schedule.prompt_dropout)
        for _ in range(16 * schedule.batch_size)
    ]
    rows.sort(key=lambda row: len(row[0]))
    batches = [rows[i : i + schedule.batch_size] for i in range(0, len(rows), schedule.batch_size)]
    rng.shuffle(batches)
    return batches


def _encode(tokenizer: Any, text: Text, *, drop: bool) -> tuple[list[int], list[int]]:
    message, reply = text
    prompt = prompt_ids(tokenizer, None if drop else message)
    completion = [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + completion, [IGNORED] * len(prompt) + completion


def _pad(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in rows])
    return ids, labels
