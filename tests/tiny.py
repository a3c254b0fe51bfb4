"""Tiny models and tokenizers, built in memory: nothing is downloaded and nothing is read from disk.

Weights are scaled so that a broken mask, unrestarted positions or a leaked sibling each move a completion's
log-prob sum by more than 1e-2 (the negative controls in tests/policies hold that).
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tether.records.tensors import GroupBatch

CORPUS = [
    "Human: How do I bake bread? Assistant: Mix flour, water, salt and yeast, then wait and bake it hot.",
    "The quick brown fox jumps over the lazy dog while seven wizards quietly judge my boxes of jam.",
    "Can you help me with my order? Of course, I would be happy to help you with that today!",
    "No. I will not do that, it is rude and unkind. Please ask me something else instead.",
    "In 2026 there were 1,234 rows, 56 columns and 78.9 percent of them were fine.",
]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@cache
def _trained(vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(vocab_size: int = 384, *, chat: bool = True, **kwargs: Any) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that can spell any text, with a small chat template by default."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(vocab_size)),
        **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **kwargs},
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tiny_model(family: str = "llama", *, vocab_size: int = 384, seed: int = 0, **overrides: Any) -> Any:
    """Return a random causal LM of this family in eval mode, fp32: 2 layers, width 32, 4 heads."""
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }
    options |= FAMILY_OPTIONS.get(family, {})
    options |= overrides
    config = CONFIG_MAPPING[family](**options)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.random.set_rng_state(generator_state)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8.0)
    return model.eval()


def gentle_model(family: str = "llama", **options: Any) -> Any:
    """Return a `tiny_model` with a quarter of its weights: what trains must not explode."""
    model = tiny_model(family, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.25)
    return model


def save_model(folder: Path, model: Any, *, chat: bool = False, tokens: int | None = None) -> Path:
    """Save a model and a tokenizer of as many tokens, or of `tokens`; return the folder."""
    model.save_pretrained(folder)
    tiny_tokenizer(tokens or model.config.vocab_size, chat=chat).save_pretrained(folder)
    return folder


FAMILY_OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 64},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "qwen3": {"head_dim": 8},
}


def tiny_batch(
    shapes: list[tuple[int, list[int]]], *, vocab_size: int = 384, seed: int = 0, start: int = 0
) -> GroupBatch:
    """Return groups of random tokens: one (prompt length, completion lengths) per group."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> torch.Tensor:
        return torch.randint(3, vocab_size, (count,), generator=generator)

    drawn = [(ids(prompt), [ids(length) for length in lengths]) for prompt, lengths in shapes]
    roles = [
        role
        for _, lengths in shapes
        for role in (["chosen", "rejected"] if len(lengths) == 2 else ["completion"] * len(lengths))
    ]
    completions = [completion for _, group in drawn for completion in group]
    return GroupBatch(
        row_ids=tuple(f"row-{start + i}" for i in range(len(shapes))),
        prompt_ids=torch.cat([prompt for prompt, _ in drawn]),
        prompt_lengths=torch.tensor([len(prompt) for prompt, _ in drawn]),
        completion_ids=torch.cat(completions),
        completion_lengths=torch.tensor([len(completion) for completion in completions]),
        group_of=torch.tensor([i for i, (_, group) in enumerate(drawn) for _ in group]),
        roles=tuple(roles),
        keys=tuple(f"key-{i}" for i in range(len(completions))),
        weights=torch.ones(len(shapes)),
        margins=torch.zeros(len(shapes)),
        probabilities=torch.ones(len(shapes)),
    )
