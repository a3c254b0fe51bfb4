"""Answers: made, judged, compared."""

from pathlib import Path
from typing import Any

from tether.config.generate import GenerateConfig
from tether.config.parse import build
from tether.generation.completions import GenerateRecord
from tether.generation.sample import generate as generate_answers
from tether.judging.answers import Generated
from tether.judging.comparing import Comparing, compare_sources
from tether.judging.comparison import surprises
from tether.judging.judges import Judge
from tether.judging.named import judge_named
from tether.judging.options import Answering, Asking, Deciding, Prices, Tables
from tether.judging.outputs import Outputs, read_outputs
from tether.judging.pairwise import Cache
from tether.judging.run import JudgePlan, JudgeRecord, Progress, Told, cache_path, judge_outputs
from tether.judging.run import plan_judging as plan_judging_of
from tether.records.comparison import ComparisonRecord
from tether.records.results import write_json
from tether.reports.compare_page import write_comparison


def generate(
    model: str | Path | None, prompts: str | Path, out: str | Path, **options: Any
) -> GenerateRecord:
    """Answer prompts, seeded per prompt; the same as `tether generate`.

    `model` is a folder; with the option `server` the model's name there, or None where the URL names it.
    """
    values: dict[str, Any] = {"prompts": str(prompts), "out": str(out), **options}
    if model is not None:
        values["model"] = str(model)
    return generate_answers(build(GenerateConfig, values, source="generate"))


def judge(
    a: str | Path | Outputs,
    b: str | Path | Outputs,
    *,
    judge: str | Judge,
    out: str | Path,
    cache: str | Path | None = None,
    prices: Prices | None = None,
    asking: Asking | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> JudgeRecord:
    """Judge two files of answers in both orders and write the verdicts; the same as `tether judge`.

    `tether.judging.pairwise.read_verdicts(out)` reads them back.

    Raises:
        TetherError: every refusal, with one line that says what to do.

    """
    return judge_outputs(
        _outputs(a),
        _outputs(b),
        judge_named(judge, asking) if isinstance(judge, str) else judge,
        Path(out),
        cache=None if cache is None else Path(cache),
        prices=prices,
        overwrite=overwrite,
        told=told,
        progress=progress,
    )


def plan_judging(
    a: str | Path | Outputs,
    b: str | Path | Outputs,
    *,
    judge: str | Judge,
    out: str | Path,
    cache: str | Path | None = None,
    prices: Prices | None = None,
    asking: Asking | None = None,
) -> JudgePlan:
    """Return what `judge` would ask and cost; a judge on this machine is timed on its first questions."""
    kept = Cache(cache_path(Path(out)) if cache is None else Path(cache))
    asked = judge_named(judge, asking) if isinstance(judge, str) else judge
    return plan_judging_of(_outputs(a), _outputs(b), asked, cache=kept, prices=prices, time_it=True)


def compare(
    *sources: str | Path,
    judge: str | Judge | None = None,
    prompts: str | Path | None = None,
    out: str | Path | None = None,
    page: str | Path | None = None,
    stream: bool = False,
    tables: Tables | None = None,
    deciding: Deciding | None = None,
    answering: Answering | None = None,
    asking: Asking | None = None,
    prices: Prices | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
    generated: Generated | None = None,
) -> ComparisonRecord:
    """Say which model is better, by how much and how surely; the same as `tether compare`.

    `sources` are model folders and files of answers (these need a judge), files of verdicts, or annotations.
    With `out` the answers, verdicts, `comparison.json` and `comparison.html` are written there.

    Raises:
        TetherError: every refusal. A gate that was not passed is no refusal: see `record.requirement`.

    """
    run = Comparing(
        sources=tuple(Path(source) for source in sources),
        judge=judge_named(judge, asking) if isinstance(judge, str) else judge,
        prompts=_path(prompts),
        out=_path(out),
        stream=stream,
        tables=tables or Tables(),
        deciding=deciding or Deciding(),
        answering=answering or Answering(),
        prices=prices,
        overwrite=overwrite,
    )
    record, verdicts = compare_sources(run, told=told, progress=progress, generated=generated)
    target = _path(page) or (None if out is None else Path(out) / "comparison.html")
    if target is not None:
        record = record.model_copy(update={"files": record.files | {"page": str(target)}})
        write_comparison(record, verdicts, surprises(verdicts), target)
    if out is not None:
        write_json(Path(out) / "comparison.json", record)
    return record


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _outputs(answers: str | Path | Outputs) -> Outputs:
    return answers if isinstance(answers, Outputs) else read_outputs(Path(answers))
