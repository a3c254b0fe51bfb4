"""`tether generate`: a model folder and a file of prompts -> a file of completions."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tether.config.generate import GenerateConfig
from tether.errors import DataError, ModelError, UsageError
from tether.generation.choice import sample_seeds
from tether.generation.completions import Meta, Row, append, opened
from tether.generation.engines import (
    Sampling,
    check_prompts,
    completion_text,
    decoder,
    generate_ids,
)
from tether.generation.measure import same_vocabulary
from tether.generation.prompts import Prompt, read_prompts
from tether.generation.streams import Dial, Source, context_length
from tether.policies.load import load_model, read_json
from tether.records.results import Record
from tether.records.rows import canonical_json
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer

BATCHES_PER_WRITE = 4
"""Completions are sorted by prompt length within this many batches, then written in order."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Progress = Callable[[int, int, int, float], None]
"""Told after each write: completions done, of how many, tokens this run wrote, seconds this run took."""


@dataclass(frozen=True)
class Speaker:
    """A model that can answer: weights, tokenizer, the ids that end its text, and its names."""

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    path: str
    hashes: dict[str, str | None]
    """weights and adapter."""


class GenerateRecord(Record):
    """What `tether generate` left in its file."""

    out: str
    model: str
    prompts: int
    rows: int
    """Completions in the file."""
    left_out: tuple[str, ...]
    """Ids of the prompts longer than the model reads (`skip_long`)."""
    continued: int
    """How many of them an earlier run had written."""
    tokens: float
    """Mean tokens per completion, end token included."""
    ended: float
    """Share that came to its own end."""
    cut_at_limit: float
    """Share cut at max_new_tokens."""
    cut_at_context: float
    """Share cut because the model reads no further."""
    seconds: float
    """Of this run, model loading not counted."""
    tokens_per_second: float | None
    """Of this run; None where nothing was left to write."""


def open_speaker(
    path: str, *, dtype: torch.dtype, device: torch.device, attention: str | None = None
) -> Speaker:
    """Load a model or adapter folder with its tokenizer (an adapter without one has its base's).

    Raises:
        ModelError: weights or tokenizer are refused.

    """
    tokenizer = load_tokenizer(str(_tokenizer_folder(Path(path))))
    loaded = load_model(path, dtype=dtype, device=device, attention=attention)
    settings: Any = loaded.model.generation_config
    stops = stop_ids(tokenizer, settings.to_dict() if settings is not None else None)
    return Speaker(
        loaded.model, tokenizer, stops, path, {"weights": loaded.weights, "adapter": loaded.adapter}
    )


def _tokenizer_folder(folder: Path) -> Path:
    if not (folder / "adapter_config.json").is_file() or (folder / "tokenizer.json").is_file():
        return folder
    name = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path"))
    return next((p for p in (Path(name), folder / name) if p.is_dir()), folder)


def generate(config: GenerateConfig, progress: Progress | None = None) -> GenerateRecord:
    """Answer every prompt of a file and write the completions; a run cut short is continued.

    Raises:
        UsageError: a sampling option out of range, or a device that is not there.
        DataError: rows that hold no prompt, or prompts too long for the model.
        ModelError: weights or tokenizer refused, or a dial between different vocabularies.
        RunFolderError: the file was made from something else, or another process writes it.

    """
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        seed=config.seed,
    )
    prompts = read_prompts(config.prompts)
    device = _device(config.device)
    name = config.dtype
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    options: dict[str, Any] = {
        "dtype": DTYPES[name],
        "device": device,
        "attention": config.attn_implementation,
    }
    speaker = open_speaker(config.model, **options)
    reference = None if config.reference is None else open_speaker(config.reference, **options)
    if reference is not None and not same_vocabulary(speaker.tokenizer, reference.tokenizer):
        raise ModelError(
            f"{reference.path}: its tokenizer maps tokens to other ids than that of {speaker.path}; "
            "a dial mixes next-token distributions, so it needs one vocabulary"
        )
    return generate_file(
        speaker,
        prompts,
        Path(config.out),
        sampling,
        num_samples=config.num_samples,
        batch_size=config.batch_size,
        reference=reference,
        dial=config.dial,
        dtype=name,
        skip_long=config.skip_long,
        overwrite=config.overwrite,
        progress=progress,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: {name!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device: {name} is not there ({torch.cuda.device_count()} CUDA devices); use --device cpu"
        )
    return device


def generate_file(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    out: Path,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    batch_size: int = 16,
    reference: Speaker | None = None,
    dial: float | None = None,
    dtype: str = "float32",
    skip_long: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GenerateRecord:
    """Write `num_samples` completions of each prompt to `out`, in order; see `completions` for the file.

    Raises:
        DataError: a prompt that cannot be answered, by its row.
        RunFolderError: `out` was made from something else, or another process writes it.

    """
    models = [speaker.model] if reference is None else [speaker.model, reference.model]
    prompts, ids, left_out = _fitting(prompts, _rendered(speaker, prompts), models, skip_long)
    check_prompts(models, ids, [prompt.id for prompt in prompts])
    meta = _meta(speaker, prompts, ids, sampling, num_samples, reference, dial, dtype, batch_size)
    expected = [(prompt.id, sample) for prompt in prompts for sample in range(num_samples)]
    seeds = sample_seeds(sampling.seed, [prompt.key for prompt in prompts], num_samples)
    decode = decoder(speaker.tokenizer)
    mixing = None if reference is None or dial is None else Dial(dial, Source(reference.model))
    began, written = time.perf_counter(), 0
    with opened(out, meta, expected, overwrite=overwrite) as (stream, rows):
        continued = len(rows)
        window = batch_size * BATCHES_PER_WRITE
        # From a multiple of the window, so that batches, and with them all rounding, are those of an
        # uninterrupted run; what the file already holds of it is not written twice.
        start = continued // window * window if continued < len(expected) else continued
        for first in range(start, len(expected), window):
            places = range(first, min(first + window, len(expected)))
            results = generate_ids(
                speaker.model,
                [ids[place // num_samples] for place in places],
                sampling,
                stop_ids=speaker.stop_ids,
                seeds=[seeds[place] for place in places],
                batch_size=batch_size,
                decode=decode,
                dial=mixing,
            )
            fresh = [
                Row(
                    id=prompts[place // num_samples].id,
                    prompt=prompts[place // num_samples].content,
                    completion=completion_text(result.ids, decode, speaker.stop_ids, sampling.stop),
                    ended=result.ended,
                    stopped_by=result.stopped_by,
                    tokens=len(result.ids),
                    seed=sampling.seed,
                    sample=place % num_samples,
                    model=speaker.path,
                )
                for place, result in zip(places, results, strict=True)
                if place >= len(rows)
            ]
            append(stream, fresh)
            rows += fresh
            written += sum(row.tokens for row in fresh)
            if progress is not None:
                progress(len(rows), len(expected), written, time.perf_counter() - began)
    return _record(
        rows,
        out=str(out),
        model=speaker.path,
        prompts=len(prompts),
        left_out=left_out,
        continued=continued,
        written=written,
        seconds=time.perf_counter() - began,
    )


def _fitting(
    prompts: Sequence[Prompt], ids: list[list[int]], models: Sequence[Any], skip_long: bool
) -> tuple[list[Prompt], list[list[int]], tuple[str, ...]]:
    lengths = [length for model in models if (length := context_length(model)) is not None]
    context = min(lengths, default=None)
    long = [i for i, tokens in enumerate(ids) if context is not None and len(tokens) >= context]
    if long and (not skip_long or len(long) == len(ids)):
        raise DataError(
            f"{prompts[long[0]].id}: the prompt has {len(ids[long[0]])} tokens and the model reads at most "
            f"{context} with its answer ({len(long)} of {len(ids)} prompts are too long); shorten them"
            + ("" if skip_long else ", or --skip-long")
        )
    kept = sorted(set(range(len(ids))) - set(long))
    return [prompts[i] for i in kept], [ids[i] for i in kept], tuple(prompts[i].id for i in long)


def _rendered(speaker: Speaker, prompts: Sequence[Prompt]) -> list[list[int]]:
    renderer = Renderer(speaker.tokenizer, speaker.stop_ids)
    ids: list[list[int]] = []
    for prompt in prompts:
        try:
            ids.append(renderer.prompt_ids(prompt.content, prompt.tools, prompt.template_arguments))
        except DataError as error:
            raise DataError(f"{prompt.id}: {error}") from error
    return ids


def _meta(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    sampling: Sampling,
    num_samples: int,
    reference: Speaker | None,
    dial: float | None,
    dtype: str,
    batch_size: int,
) -> Meta:
    digest = hashlib.sha256()
    for prompt, tokens in zip(prompts, ids, strict=True):
        line = canonical_json([prompt.id, prompt.key, list(tokens)])
        digest.update(line.encode("utf-8", "surrogatepass"))
    names = ("tether", "torch", "transformers")
    return Meta(
        model=speaker.hashes,
        reference=None if reference is None else reference.hashes,
        dial=dial,
        sampling=asdict(sampling) | {"stop": list(sampling.stop)},
        num_samples=num_samples,
        prompts={"count": len(prompts), "digest": digest.hexdigest()[:32]},
        stop_ids=sorted(speaker.stop_ids),
        dtype=dtype,
        computed={
            "model": speaker.path,
            "device": str(speaker.model.device),
            "batch_size": batch_size,
            "versions": {name: version(name) for name in names},
        },
    )


def _record(
    rows: Sequence[Row],
    *,
    out: str,
    model: str,
    prompts: int,
    left_out: tuple[str, ...],
    continued: int,
    written: int,
    seconds: float,
) -> GenerateRecord:
    def share(stop: str) -> float:
        return sum(row.stopped_by == stop for row in rows) / len(rows)

    return GenerateRecord(
        out=out,
        model=model,
        prompts=prompts,
        rows=len(rows),
        left_out=left_out,
        continued=continued,
        tokens=sum(row.tokens for row in rows) / len(rows),
        ended=sum(row.ended for row in rows) / len(rows),
        cut_at_limit=share("limit"),
        cut_at_context=share("context"),
        seconds=seconds,
        tokens_per_second=written / seconds if written else None,
    )
