"""Weights -> token ids: batched sampling in which every sequence is its own, whatever shares its batch.

An own loop over transformers' cache, not `model.generate`: noise per sequence, finished sequences leaving
the batch, a prompt with several samples read once, a second model in step (the dial), and nothing taken from
a model's generation_config (no penalties, no forced tokens, no hidden temperature).
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tether.config.generate import SamplingOptions
from tether.errors import DataError, UsageError
from tether.generation.choice import draw, noise, warpers
from tether.generation.streams import (
    Dial,
    Dialled,
    Most,
    Source,
    context_length,
    evaluating,
    left_padded,
    vocabulary_size,
)

Stop = Literal["stop_token", "stop_string", "limit", "context"]
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when a completion ends; by default the model's own distribution."""

    temperature: float = 1.0
    """Scores are divided by it; 0 takes the most likely token."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this; 1 keeps all."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the most likely one; 0 keeps all."""
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the text is cut before the first of them."""
    seed: int = 0

    def __post_init__(self) -> None:
        checks: dict[str, tuple[bool, str]] = {
            "temperature": (0 <= self.temperature <= 1000, "between 0 (greedy) and 1000"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (1: off)"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "seed": (self.seed >= 0, "0 or more"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (fine, limit) in checks.items():
            if not fine:
                raise UsageError(f"{name}: must be {limit}, got {getattr(self, name)!r}")


def sampling_of(options: SamplingOptions) -> Sampling:
    """Return the sampling a command's options ask for.

    Raises:
        UsageError: one is out of range.

    """
    return Sampling(**{name: getattr(options, name) for name in SamplingOptions.model_fields})


@dataclass(frozen=True)
class Generated:
    """One completion as token ids, its stop token included where it has one."""

    ids: list[int]
    stopped_by: Stop
    """`limit`: max_new_tokens reached; `context`: the model reads no further."""

    @property
    def ended(self) -> bool:
        """Whether the completion came to its own end (stop token or stop text), not cut."""
        return self.stopped_by in ("stop_token", "stop_string")


@dataclass
class _Row:
    limit: int
    limited_by: Stop
    ids: list[int] = field(default_factory=list[int])
    stopped_by: Stop | None = None


def generate_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    seeds: Sequence[int],
    pad_id: int = 0,
    batch_size: int = 16,
    decode: Decode | None = None,
    dial: Dial | None = None,
    most: Most = int,
) -> list[Generated]:
    """Return one completion per prompt, in the order given.

    The completion of a prompt depends on model, prompt ids, sampling and its seed (`choice.sample_seeds`; the
    sampling's own `seed` is what those are made from) and not on the batch, up to rounding: in fp32 scores of
    two batches differ by about 1e-6 relative, and a token changes only where its boundary lies within that.
    In bf16 the rounding is a thousand times coarser and another batch size does change samples.

    Models are put in eval mode and back; the global random state is not touched; `pad_id` fills masked
    places. It runs under the caller's autocast. Of a model in shards every process answers as many
    prompts, of its own, and passes its `most`: it reads on until the others are done.

    Raises:
        DataError: an empty prompt, or one that leaves the model no room to write.
        UsageError: stop texts without `decode`, or not one seed per prompt.
        ModelError: an id beyond the embedding, scores that are NaN.

    """
    if sampling.stop and decode is None:
        raise UsageError("stop: stop texts need the tokenizer's decode")
    if len(seeds) != len(prompts):
        raise UsageError(f"seeds: {len(seeds)} for {len(prompts)} prompts")
    if batch_size < 1:
        raise UsageError(f"batch_size: must be at least 1, got {batch_size}")
    models = [model] if dial is None else [model, dial.reference.model]
    check_prompts(models, prompts)
    # Longest first: memory is short at once or never. Equal prompts stay neighbours and are read once.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    results: list[Generated | None] = [None] * len(prompts)
    limits = [_limit(models, len(prompt), sampling) for prompt in prompts]
    with evaluating(*models):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = [_Row(*limits[index]) for index in batch]
            uniforms = noise([seeds[index] for index in batch], max(row.limit for row in rows))
            reader = Dialled(Source(model), dial)
            begun = [tuple(prompts[i]) for i in batch]
            for _ in _fill(reader, begun, rows, uniforms, sampling, stop_ids, pad_id, decode, most):
                pass
            for index, row in zip(batch, rows, strict=True):
                results[index] = Generated(row.ids, row.stopped_by or row.limited_by)
    return [result for result in results if result is not None]


def stream_ids(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    seed: int,
    decode: Decode | None = None,
    dial: Dial | None = None,
) -> Generator[int, None, Stop]:
    """Yield the tokens of one completion as they are chosen, and return how it ended.

    The tokens are those `generate_ids` gives this prompt and seed alone in a batch. Models must be in eval
    mode. Between tokens nothing is held: two streams may be read in turn, and either left.

    Raises:
        DataError: a prompt that leaves the model no room to write.
        ModelError: an id beyond the embedding, scores that are NaN.

    """
    models = [model] if dial is None else [model, dial.reference.model]
    check_prompts(models, [prompt])
    row = _Row(*_limit(models, len(prompt), sampling))
    reader = Dialled(Source(model), dial)
    steps = _fill(reader, [tuple(prompt)], [row], noise([seed], row.limit), sampling, stop_ids, 0, decode)
    while True:
        with torch.no_grad():
            if next(steps, None) is None:
                return row.stopped_by or row.limited_by
        yield row.ids[-1]


def check_prompts(
    models: Sequence[Any], prompts: Sequence[Sequence[int]], names: Sequence[str] | None = None
) -> None:
    """Refuse prompts that no completion can follow.

    Raises:
        DataError: naming the prompt: empty, as long as the model's context, or an id beyond the embedding.

    """
    lengths = [length for model in models if (length := context_length(model)) is not None]
    context = min(lengths, default=None)
    vocabulary = min(vocabulary_size(model) for model in models)
    for index, prompt in enumerate(prompts):
        name = names[index] if names else f"prompt {index}"
        if not prompt:
            raise DataError(f"{name}: the prompt has no tokens; a model needs at least one to begin")
        if context is not None and len(prompt) >= context:
            raise DataError(
                f"{name}: the prompt has {len(prompt)} tokens and the model reads at most {context}; "
                "shorten it or leave it out"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise DataError(
                f"{name}: token id {max(prompt)} is beyond the model's {vocabulary} embedding rows; "
                "use the tokenizer that belongs to the model"
            )


def _limit(models: Sequence[Any], tokens: int, sampling: Sampling) -> tuple[int, Stop]:
    room = min((c - tokens for m in models if (c := context_length(m)) is not None), default=math.inf)
    return (int(room), "context") if room < sampling.max_new_tokens else (sampling.max_new_tokens, "limit")


def _fill(
    reader: Dialled,
    prompts: Sequence[tuple[int, ...]],
    rows: Sequence[_Row],
    uniforms: Tensor,
    sampling: Sampling,
    stop_ids: frozenset[int],
    pad_id: int,
    decode: Decode | None,
    most: Most = int,
) -> Iterator[int]:
    """Write the rows, a token each per step; yields the number of tokens after every step."""
    choose = _chooser(sampling)
    device = reader.device
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    ids, mask = (tensor.to(device) for tensor in left_padded(list(places), pad_id))
    scores = reader.read(ids, mask, 1)[:, 0]
    if len(places) < len(prompts):
        spread = torch.tensor([places[prompt] for prompt in prompts], device=device)
        reader.select(spread)
        scores, mask = scores[spread], mask[spread]
    active = list(range(len(rows)))
    for step in _count():
        tokens = choose(scores, uniforms[active, step])
        for place, token in zip(active, tokens.tolist(), strict=True):
            rows[place].ids.append(token)
            rows[place].stopped_by = _ending(rows[place], token, sampling.stop, stop_ids, decode)
        yield step + 1
        alive = [slot for slot, place in enumerate(active) if rows[place].stopped_by is None]
        if not most(len(alive)):
            return
        if not alive:
            _read_on(reader, tokens, mask, most)
            return
        if len(alive) < len(active):
            kept = torch.tensor(alive, device=device)
            reader.select(kept)
            tokens, mask, active = tokens[kept], mask[kept], [active[slot] for slot in alive]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        scores = reader.read(tokens.unsqueeze(-1), mask, 1)[:, 0]


def _read_on(reader: Dialled, tokens: Tensor, mask: Tensor, most: Most) -> None:
    """Read a masked place again and again until the other processes have nothing left to say."""
    reader.select(torch.zeros(1, dtype=torch.int64, device=reader.device))
    token, mask = tokens[:1].unsqueeze(-1), mask[:1]
    going = True
    while going:
        mask = torch.cat([mask, mask.new_zeros(1, 1)], dim=1)
        reader.read(token, mask, 1)
        going = bool(most(0))


def _count() -> Iterator[int]:
    step = 0
    while True:
        yield step
        step += 1


def _chooser(sampling: Sampling) -> Callable[[Tensor, Tensor], Tensor]:
    if sampling.temperature == 0:
        return lambda scores, uniforms: scores.argmax(-1)
    chain = warpers(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    unread: Any = None  # the filters look at the scores only
    return lambda scores, uniforms: draw(chain(unread, scores), uniforms)


def _ending(
    row: _Row, token: int, stop: tuple[str, ...], stop_ids: frozenset[int], decode: Decode | None
) -> Stop | None:
    if token in stop_ids:
        return "stop_token"
    if stop and decode is not None and has_stop(row.ids, stop, decode):
        return "stop_string"
    return row.limited_by if len(row.ids) >= row.limit else None


def has_stop(ids: list[int], stop: tuple[str, ...], decode: Decode) -> bool:
    """Whether the decoded completion contains a stop text.

    Only the end is decoded at each step: a text of n bytes lies within the last n tokens that say anything;
    the margin is for tokens that say nothing and for a first token that begins inside a character.
    """
    window = 16 + max(len(text.encode("utf-8", "surrogatepass")) for text in stop)
    tail = decode(ids[-window:])
    if not any(text in tail for text in stop):
        return False
    return len(ids) <= window or any(text in decode(ids) for text in stop)


def completion_text(
    ids: Sequence[int], decode: Decode, stop_ids: frozenset[int], stop: tuple[str, ...] = ()
) -> str:
    """Return what a completion says: without its final stop token, cut before its first stop text.

    Special tokens in the middle are spelled out, not hidden.
    """
    said = list(ids)
    if said and said[-1] in stop_ids:
        said.pop()
    text = decode(said)
    cuts = [place for entry in stop if (place := text.find(entry)) >= 0]
    return text[: min(cuts)] if cuts else text


def decoder(tokenizer: Any) -> Decode:
    """Return the decode of text that goes on where other text ended; spaces and special tokens stay.

    SentencePiece-style tokenizers drop the space before the first word of whatever they decode, so a line
    break is put in front and taken away again.
    """

    def plain(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    lead: list[int] = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    start = plain(lead)

    def decode(ids: list[int]) -> str:
        text = plain([*lead, *ids])
        return text[len(start) :] if text.startswith(start) else plain(ids)

    return decode
