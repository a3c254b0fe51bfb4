"""`tether compare` from its sources: answers are made and judged, verdicts and annotations are read."""

from dataclasses import dataclass
from pathlib import Path

from tether.errors import UsageError
from tether.judging.annotated import annotated_verdicts
from tether.judging.answers import Generated, gather
from tether.judging.compare import (
    compare_annotations,
    compare_stream,
    compare_verdicts,
    kind_of,
)
from tether.judging.judges import FORMS, Judge
from tether.judging.options import Answering, Deciding, Prices, Tables
from tether.judging.outputs import Outputs, names_of
from tether.judging.pairwise import read_verdicts
from tether.judging.run import Progress, Told, cache_path, check_out, judge_all
from tether.records.comparison import ComparisonRecord, Verdict
from tether.records.results import write_lines

VERDICTS = "verdicts.jsonl"
FEWEST_DRAWS = 100


@dataclass(frozen=True, slots=True)
class Comparing:
    """One run of `tether compare`."""

    sources: tuple[Path, ...]
    judge: Judge | None
    prompts: Path | None
    out: Path | None
    stream: bool
    tables: Tables
    deciding: Deciding
    answering: Answering
    prices: Prices | None
    overwrite: bool


def compare_sources(
    run: Comparing,
    *,
    told: Told | None = None,
    progress: Progress | None = None,
    generated: Generated | None = None,
) -> tuple[ComparisonRecord, list[Verdict]]:
    """Return the comparison, and the verdicts it rests on (of annotations those that hold texts).

    Raises:
        UsageError: sources of different kinds, or an option that these sources have no use for.
        DataError: nothing to compare in them.

    """
    if run.deciding.draws < FEWEST_DRAWS:
        raise UsageError(f"draws {run.deciding.draws}: at least {FEWEST_DRAWS} are needed for an interval")
    kind = _kind(run)
    if run.out is not None:
        run.out.mkdir(parents=True, exist_ok=True)
    if kind == "annotations":
        found = compare_annotations(
            run.sources,
            run.deciding,
            difficulty=run.tables.difficulty,
            gamed=run.tables.gamed,
            prompts=run.prompts,
        )
        return found, annotated_verdicts(run.sources)
    if kind == "verdicts":
        verdicts = [verdict for path in run.sources for verdict in read_verdicts(path)]
        record, files = compare_verdicts(verdicts, run.deciding), {}
    else:
        outputs, files = gather(
            run.sources,
            prompts=run.prompts,
            folder=run.out,
            answering=run.answering,
            progress=generated,
        )
        record, verdicts = _judged(run, outputs, told, progress)
        if run.out is not None:
            files = files | {"verdicts": str(run.out / VERDICTS)}
    sources = tuple(str(path) for path in run.sources)
    return record.model_copy(update={"sources": sources, "files": files}), verdicts


def _judged(
    run: Comparing, outputs: list[Outputs], told: Told | None, progress: Progress | None
) -> tuple[ComparisonRecord, list[Verdict]]:
    judge = run.judge
    assert judge is not None
    target = None if run.out is None else run.out / VERDICTS
    if target is not None:
        names = names_of(outputs)
        wanted = [(a, b, judge.identity) for i, a in enumerate(names) for b in names[i + 1 :]]
        check_out(target, wanted, overwrite=run.overwrite)
    verdicts, stream = judge_all(
        outputs,
        judge,
        cache=None if target is None else cache_path(target),
        stream_seed=run.deciding.seed if run.stream else None,
        prices=run.prices,
        told=told,
        progress=progress,
    )
    if target is not None:
        write_lines(target, verdicts)
    if stream is not None:
        return compare_stream(stream, run.deciding), verdicts
    return compare_verdicts(verdicts, run.deciding), verdicts


def _kind(run: Comparing) -> str:
    kinds = {kind_of(path) for path in run.sources}
    kinds = {"answers" if kind == "model" else kind for kind in kinds}
    if len(kinds) != 1:
        raise UsageError(
            f"sources of different kinds ({', '.join(sorted(kinds))}): compare one kind at a time"
        )
    (kind,) = kinds
    if kind == "answers" and run.judge is None:
        raise UsageError(f"answers need --judge: {FORMS}")
    if kind != "answers" and (run.judge is not None or run.stream):
        raise UsageError(f"{kind} are judged already: --judge and --stream are for answers and model folders")
    if kind != "annotations" and run.tables != Tables():
        raise UsageError("--difficulty and --gamed are for annotations against one baseline")
    if run.prompts is not None and kind != "annotations" and not any(path.is_dir() for path in run.sources):
        raise UsageError("--prompts is what model folders answer, or what numbers the prompts of annotations")
    return kind
