"""`tether generate --server`: prompts answered by an OpenAI-compatible server, several at a time.

Rows are written as they arrive, in any order, so that nothing paid for is lost; when all are there the file
is put in order. A run that stopped, or met failures, asks only for what is missing.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

from tether.errors import DataError, ModelError, ResourceError
from tether.generation.choice import sample_seeds
from tether.generation.client import ServerFailure
from tether.generation.completions import (
    GenerateRecord,
    Meta,
    Row,
    append,
    opened,
    prompts_digest,
    summary,
)
from tether.generation.engines import Sampling
from tether.generation.hosted import Hosted, Reply
from tether.generation.prompts import Prompt

Progress = Callable[[int, int, int, float], None]

PATIENCE = 2
"""Failures in a row, per worker, after which the server is taken to be gone."""


@dataclass(frozen=True)
class _Asked:
    """What became of one completion."""

    place: int
    reply: Reply | None
    failure: Exception | None = None


def ask_file(
    server: Hosted,
    prompts: Sequence[Prompt],
    out: Path,
    sampling: Sampling,
    *,
    num_samples: int = 1,
    workers: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GenerateRecord:
    """Write `num_samples` completions of each prompt to `out`, asking the server for those it lacks.

    Raises:
        DataError: two prompts have one id.
        ModelError: the server knows no such model or key.
        ResourceError: some completions failed; the others are in the file.
        RunFolderError: `out` was made from something else, or another process writes it.

    """
    repeated = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated:
        raise DataError(f"two prompts have the id {repeated[0]!r}; answers of a server are told apart by it")
    expected = [(prompt.id, sample) for prompt in prompts for sample in range(num_samples)]
    seeds = sample_seeds(sampling.seed, [prompt.key for prompt in prompts], num_samples, who=server.model)
    meta = Meta(
        model={"server": server.url, "name": server.model},
        reference=None,
        dial=None,
        sampling=asdict(sampling) | {"stop": list(sampling.stop)},
        num_samples=num_samples,
        prompts={
            "count": len(prompts),
            "digest": prompts_digest([prompt.id, prompt.key] for prompt in prompts),
        },
        stop_ids=[],
        dtype=None,
        computed={"workers": workers, "versions": {name: version(name) for name in ("tether", "openai")}},
    )
    began, written = time.perf_counter(), 0
    failures: list[_Asked] = []
    with opened(out, meta, expected, overwrite=overwrite, ordered=False) as (stream, rows):
        there, continued = {(row.id, row.sample) for row in rows}, len(rows)
        missing = [place for place, key in enumerate(expected) if key not in there]

        def ask(place: int) -> Reply:
            return server.complete(prompts[place // num_samples], sampling, seeds[place])

        for asked in _answers(ask, missing, min(workers, len(missing))):
            if asked.reply is None:
                failures.append(asked)
                continue
            row = _row(
                prompts[asked.place // num_samples], asked.reply, asked.place % num_samples, server, sampling
            )
            append(stream, [row])
            rows.append(row)
            written += row.tokens or 0
            if progress is not None:
                progress(len(rows), len(expected), written, time.perf_counter() - began)
    if len(rows) < len(expected):
        raise _told(failures, expected, len(rows), server, out)
    return summary(
        rows,
        out=out,
        model=server.model,
        prompts=len(prompts),
        left_out=(),
        continued=continued,
        written=written,
        seconds=time.perf_counter() - began,
    )


def _answers(ask: Callable[[int], Reply], places: Sequence[int], workers: int) -> Iterator[_Asked]:
    """Yield answers as they come; give up after a hopeless failure or too many in a row.

    The threads are daemons: whoever stops reading is not kept waiting for requests under way.
    """
    waiting: SimpleQueue[int | None] = SimpleQueue()
    done: SimpleQueue[_Asked] = SimpleQueue()
    stopped = threading.Event()
    for place in places:
        waiting.put(place)
    for _ in range(workers):
        waiting.put(None)

    def work() -> None:
        while (place := waiting.get()) is not None and not stopped.is_set():
            try:
                done.put(_Asked(place, ask(place)))
            except Exception as failure:
                done.put(_Asked(place, None, failure))

    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    in_a_row = 0
    try:
        for _ in places:
            asked = done.get()
            failure = asked.failure
            if failure is not None and not isinstance(failure, ServerFailure):
                raise failure
            in_a_row = 0 if failure is None else in_a_row + 1
            yield asked
            if in_a_row >= PATIENCE * workers or (failure is not None and failure.hopeless):
                return
    finally:
        stopped.set()


def _row(prompt: Prompt, reply: Reply, sample: int, server: Hosted, sampling: Sampling) -> Row:
    return Row(
        id=prompt.id,
        prompt=prompt.content,
        completion=reply.text,
        ended=reply.stopped_by != "limit",
        stopped_by=reply.stopped_by,
        tokens=reply.tokens,
        seed=sampling.seed,
        sample=sample,
        model=server.model,
    )


def _told(
    failures: Sequence[_Asked], expected: Sequence[tuple[str, int]], written: int, server: Hosted, out: Path
) -> ModelError | ResourceError:
    last = failures[-1]
    if isinstance(last.failure, ServerFailure) and last.failure.hopeless:
        return ModelError(f"{server.explain(last.failure)}; nothing more was asked")
    name, sample = expected[last.place]
    where = f"{name} sample {sample}" if sample else name
    return ResourceError(
        f"{server.url}: {len(expected) - written} of {len(expected)} completions are missing "
        f"({len(failures)} failed; {where}: {last.failure}); {out} keeps the rest, the same command asks for "
        "what is missing"
    )
