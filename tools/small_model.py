"""Build a small random model for some data: `python tools/small_model.py --data FILE... --out DIR`.

The tokenizer is a byte-level BPE trained on the texts of the data, with a ChatML-like template; the model is
Llama-shaped, tied head, random weights (the defaults make about 5 M parameters). The folder is an ordinary
Hugging Face folder. Same data, same options, same versions: same bytes.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from tether.data.checks import load
from tether.errors import TetherError
from tether.records.rows import Content, Preference
from tether.worlds.recipe import byte_level

EOS, PAD, START, END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (EOS, PAD, START, END)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FEWEST_TOKENS = 256 + len(SPECIAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the folder the arguments name; return the exit status."""
    options = _parser().parse_args(arguments)
    if problem := refusal(options):
        print(problem, file=sys.stderr)
        return 2
    try:
        rows = load(options.data).rows
    except TetherError as error:
        print(error, file=sys.stderr)
        return 3
    tokenizer = new_tokenizer(texts(rows), options.vocab)
    model = new_model(tokenizer, options)
    logging.disable_progress_bar()
    tokenizer.save_pretrained(options.out)
    model.save_pretrained(options.out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.out}: {count:,} parameters, {len(tokenizer):,} tokens, from {len(rows):,} rows")
    return 0


def refusal(options: argparse.Namespace) -> str:
    """Return why these options make no model, or nothing."""
    if options.vocab < FEWEST_TOKENS:
        return (
            f"--vocab {options.vocab}: must be at least {FEWEST_TOKENS} (every byte, and {len(SPECIAL)} more)"
        )
    if options.hidden % (2 * options.heads):
        return f"--hidden {options.hidden}: must be a multiple of twice --heads {options.heads}"
    if options.out.is_dir() and any(options.out.iterdir()):
        return f"--out {options.out}: is not empty; name a new folder"
    return ""


def texts(rows: Iterable[Preference]) -> Iterator[str]:
    """Yield every text of the rows once per row, prompts first."""
    for row in rows:
        yield from _said(row.prompt)
        for completion in row.completions:
            yield from _said(completion.content)


def new_tokenizer(corpus: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that can spell any text, with a ChatML-like template."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(corpus, vocab, SPECIAL),
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START, END],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def new_model(tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> LlamaForCausalLM:
    """Return the random model; both the end of the text and the end of a turn stop it."""
    eos, pad = tokenizer.convert_tokens_to_ids([EOS, PAD])
    stops = [eos, tokenizer.convert_tokens_to_ids(END)]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=(options.hidden * 11 // 4 + 31) // 32 * 32,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=options.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=stops,
        pad_token_id=pad,
    )
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=pad, do_sample=True)
    return model


def _said(content: Content) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for message in content:
        text = message.get("content")
        if isinstance(text, str):
            yield text
        if calls := message.get("tool_calls"):
            yield json.dumps(calls)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--data", nargs="+", required=True, help="files whose texts the tokenizer learns from"
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to make")
    parser.add_argument("--vocab", type=int, default=8000, help="most tokens [8000]")
    parser.add_argument("--hidden", type=int, default=256, help="width [256]")
    parser.add_argument("--layers", type=int, default=4, help="blocks [4]")
    parser.add_argument("--heads", type=int, default=4, help="attention heads [4]")
    parser.add_argument("--positions", type=int, default=4096, help="longest text, in tokens [4096]")
    parser.add_argument("--seed", type=int, default=0, help="of the weights [0]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
