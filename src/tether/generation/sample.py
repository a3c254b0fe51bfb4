"""`tether generate`: a model folder or a server, and a file of prompts -> a file of completions."""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tether.config.generate import GenerateConfig, ModelOptions, speaker_of
from tether.errors import DataError, UsageError
from tether.generation.choice import sample_seeds
from tether.generation.completions import (
    GenerateRecord,
    Meta,
    Row,
    append,
    opened,
    prompts_digest,
    summary,
)
from tether.generation.engines import (
    Sampling,
    check_prompts,
    completion_text,
    decoder,
    generate_ids,
    sampling_of,
)
from tether.generation.layouts import Answer, write_layout
from tether.generation.prompts import Prompt, read_prompts
from tether.generation.speaker import (
    Machine,
    Speaker,
    dial_between,
    machine,
    open_reference,
    open_speaker,
    who_answers,
)
from tether.generation.streams import context_length
from tether.tokens.render import Renderer

BATCHES_PER_WRITE = 4
"""Completions are sorted by prompt length within this many batches, then written in order."""

Progress = Callable[[int, int, int, float], None]
"""Told after each write: completions done, of how many, tokens this run wrote, seconds this run took."""


def generate(config: GenerateConfig, progress: Progress | None = None) -> GenerateRecord:
    """Answer every prompt of a file and write the completions; a run cut short is continued.

    Raises:
        UsageError: a sampling option out of range, or a device that is not there.
        DataError: rows that hold no prompt, or prompts too long for the model.
        ModelError: weights or tokenizer refused, or a dial between different vocabularies.
        RunFolderError: the file was made from something else, or another process writes it.
        ResourceError: a server gave no answer to some prompts; the others are written.

    """
    prompts = read_prompts(config.prompts)
    answer = _answerer(config, progress)
    if config.format != "tether":
        return write_layout(
            config.format,
            answer,
            prompts,
            Path(config.out),
            model=config.generator or speaker_of(config.model, config.server)[1],
            num_samples=config.num_samples,
            overwrite=config.overwrite,
        )
    asked = next((prompt for prompt in prompts if prompt.follow_ups), None)
    if asked is not None:
        raise DataError(
            f"{asked.id}: has {1 + len(asked.follow_ups)} turns; --format mt-bench answers them all"
        )
    return answer(prompts, Path(config.out), config.num_samples)


def _answerer(config: GenerateConfig, progress: Progress | None) -> Answer:
    """Open the model or server and return what writes its completions."""
    sampling = sampling_of(config)
    options: dict[str, Any] = {"overwrite": config.overwrite, "progress": progress}
    url, name = speaker_of(config.model, config.server)
    if url is not None:
        server = hosted_model(config, url, name, workers=config.workers)
        remote: Any = importlib.import_module("tether.generation.remote")
        return lambda prompts, out, num_samples: remote.ask_file(
            server, prompts, out, sampling, workers=config.workers, num_samples=num_samples, **options
        )
    where = machine(config.device, config.dtype, config.attn_implementation)
    speaker = open_speaker(name, where)
    reference = None if config.reference is None else open_reference(config.reference, speaker, where)
    return lambda prompts, out, num_samples: generate_file(
        speaker,
        prompts,
        out,
        sampling,
        where=where,
        num_samples=num_samples,
        batch_size=config.batch_size,
        reference=reference,
        dial=config.dial,
        skip_long=config.skip_long,
        **options,
    )


def hosted_model(options: ModelOptions, url: str, name: str, *, workers: int = 1) -> Any:
    """Return the model of a server as `hosted.Hosted`, which needs the openai package: loaded when named.

    Raises:
        UsageError: the package is not installed.

    """
    try:
        client, hosted = (
            importlib.import_module(f"tether.generation.{part}") for part in ("client", "hosted")
        )
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise UsageError("server: needs the openai package: pip install 'tether[server]'") from error
    server = client.Server(
        url, options.api_key_env, timeout=options.timeout, attempts=options.attempts, workers=workers
    )
    return hosted.Hosted(server, name)


def generate_file(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    out: Path,
    sampling: Sampling,
    *,
    where: Machine,
    num_samples: int = 1,
    batch_size: int = 16,
    reference: Speaker | None = None,
    dial: float | None = None,
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
    meta = _meta(speaker, prompts, ids, sampling, num_samples, reference, dial, where.dtype, batch_size)
    expected = [(prompt.id, sample) for prompt in prompts for sample in range(num_samples)]
    who = who_answers(speaker, reference, dial)
    seeds = sample_seeds(sampling.seed, [prompt.key for prompt in prompts], num_samples, who=who)
    decode = decoder(speaker.tokenizer)
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
                dial=dial_between(reference, dial),
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
            written += sum(row.tokens or 0 for row in fresh)
            if progress is not None:
                progress(len(rows), len(expected), written, time.perf_counter() - began)
    return summary(
        rows,
        out=out,
        model=speaker.path,
        prompts=len(prompts),
        left_out=left_out,
        continued=continued,
        written=written,
        seconds=time.perf_counter() - began,
        trained_on=speaker.trained_on,
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
    parts = ([prompt.id, prompt.key, list(tokens)] for prompt, tokens in zip(prompts, ids, strict=True))
    names = ("tether", "torch", "transformers")
    return Meta(
        model=speaker.hashes,
        reference=None if reference is None else reference.hashes,
        dial=dial,
        sampling=asdict(sampling) | {"stop": list(sampling.stop)},
        num_samples=num_samples,
        prompts={"count": len(prompts), "digest": prompts_digest(parts)},
        stop_ids=sorted(speaker.stop_ids),
        dtype=dtype,
        computed={
            "model": speaker.path,
            "device": str(speaker.model.device),
            "batch_size": batch_size,
            "versions": {name: version(name) for name in names},
        },
    )
