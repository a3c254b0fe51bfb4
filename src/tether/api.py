"""The functions behind the commands; each returns the record its command prints.

>>> import tether
>>> record = tether.train(model="models/base", data="pairs.jsonl", output_dir="runs/first", beta=0.1)
>>> record.results["eval_loss"]
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tether.config.aliases import TRAIN_ALIASES
from tether.config.generate import GenerateConfig
from tether.config.launch import first_process
from tether.config.parse import build
from tether.config.study import StudyConfig, build_study
from tether.config.train import TrainConfig
from tether.data.checks import DataReport, load
from tether.data.convert import ConvertRecord
from tether.data.convert import convert as convert_rows
from tether.errors import UsageError
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
from tether.judging.run import (
    JudgePlan,
    JudgeRecord,
    Progress,
    Told,
    cache_path,
    judge_outputs,
)
from tether.judging.run import plan_judging as plan_judging_of
from tether.policies.load import config_summary
from tether.records.calibration import Calibration
from tether.records.comparison import ComparisonRecord
from tether.records.protocols import Evaluator
from tether.records.references import ReferenceComparison
from tether.records.results import RunRecord, write_json
from tether.records.study import StudyRecord
from tether.reports.card import write_card
from tether.reports.compare_page import write_comparison
from tether.reports.page import write_report
from tether.study.bench import Bench
from tether.study.calibrate import DIALS, Judging
from tether.study.calibrate import calibrate as run_calibration
from tether.study.execute import StudyWatcher, Unwatched
from tether.study.execute import run_study as run_in_folder
from tether.study.plan import StudyPlan, plan_study
from tether.study.references import compare_references as references_beside
from tether.study.report import write_study_report
from tether.tasks.whole import plan_task as plan_task
from tether.tasks.whole import task as task
from tether.tokens.render import Renderer
from tether.training.hardware import memory_of
from tether.training.merge import MergeRecord, merge_adapter
from tether.training.plan import model_on_meta, plan_run
from tether.training.policy import IN_MEMORY, InMemory, load_texts
from tether.training.prepare import epoch_rows, prepared_rows
from tether.training.run import Given
from tether.training.run import train as run_training
from tether.training.score import default_budget, device_of
from tether.training.scoring import ScoreRecord, score_file
from tether.training.sharing import Shared
from tether.training.track import Watcher
from tether.worlds import evaluator_named, load_world
from tether.worlds.world import WorldFiles

Rows = str | Path | Sequence[dict[str, Any]]


def train(
    model: Any,
    data: Rows,
    output_dir: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eval_data: Rows | None = None,
    evaluators: Sequence[Evaluator | str] = (),
    watcher: Watcher | None = None,
    **options: Any,
) -> RunRecord:
    """Tune a model on preferences, or supervised; the same as `tether train`.

    `model` is a folder, or a model object (then `tokenizer` is needed; it is trained in place, and its
    reference is the object as passed). `data` and `eval_data` are files, folders, globs, or lists of rows.
    Other options are the keys of `tether train`.

    Raises:
        TetherError: every refusal, with one line that says what to do.

    """
    memory = None
    if not isinstance(model, str | Path):
        if tokenizer is None:
            raise UsageError("train: a model object needs its tokenizer: train(model, ..., tokenizer=...)")
        memory = InMemory(model, tokenizer)
    rows, eval_rows = (None if isinstance(d, str | Path) else d for d in (data, eval_data))
    values: dict[str, Any] = {
        "model_name_or_path": IN_MEMORY if memory else str(model),
        "dataset_name": "(rows in memory)" if rows is not None else str(data),
        "output_dir": str(output_dir),
        "evaluators": tuple(e for e in evaluators if isinstance(e, str)),
        **options,
    }
    if eval_data is not None:
        values["eval_dataset_name"] = "(rows in memory)" if eval_rows is not None else str(eval_data)
    config = build(TrainConfig, values, aliases=TRAIN_ALIASES, source="train")
    return train_config(
        config,
        given=Given(memory, rows, eval_rows),  # pyright: ignore[reportArgumentType]
        evaluators=[e for e in evaluators if not isinstance(e, str)],
        watcher=watcher,
    )


def train_config(
    config: TrainConfig,
    *,
    given: Given | None = None,
    evaluators: Sequence[Evaluator] = (),
    watcher: Watcher | None = None,
) -> RunRecord:
    """Run a resolved config, then write its page and card."""
    named = [evaluator_named(name) for name in config.evaluators]
    record = run_training(config, given=given, evaluators=[*named, *evaluators], watcher=watcher)
    if first_process():
        report(config.output_dir)
    return record


def plan(config: TrainConfig) -> dict[str, Any]:
    """Plan a run without loading weights: updates, tokens, expected peak memory, token budget."""
    tokenizer, stops = load_texts(config, None)
    renderer = Renderer(tokenizer, stops, score_turns=config.score_turns)
    prepared = prepared_rows(config, renderer, Shared())
    model = model_on_meta(config_summary(Path(config.model_name_or_path)), config)
    device = device_of(config.device)
    budget = config.max_tokens_per_microbatch or default_budget(device)
    mixed = epoch_rows(config, prepared.train.rows)
    groups = prepared.train.groups
    first = groups if mixed is None else [groups[row] for row in mixed(0)]
    return asdict(plan_run(config, model, first, budget=budget, memory=memory_of(device)))


def calibrate(
    model: str | Path,
    data: str | Path,
    output_dir: str | Path,
    *,
    dials: Sequence[float] = DIALS,
    judge: str | None = None,
    evaluator: str | None = None,
    prompts: int | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Calibration:
    """Say how tight from one training run; the same as `tether calibrate`."""
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": str(output_dir)}
    config = build(TrainConfig, {**values, **options}, aliases=TRAIN_ALIASES, source="calibrate")
    return calibrate_config(
        config, dials=dials, judge=judge, evaluator=evaluator, prompts=prompts, watcher=watcher
    )


def calibrate_config(
    config: TrainConfig,
    *,
    dials: Sequence[float] = DIALS,
    judge: str | None = None,
    evaluator: str | None = None,
    prompts: int | None = None,
    watcher: Watcher | None = None,
) -> Calibration:
    """Calibrate a resolved config.

    Raises:
        UsageError: a judge and an evaluator.

    """
    if judge is not None and evaluator is not None:
        raise UsageError("calibrate: give --judge or --evaluator, not both: one of them decides")
    judging: Judging | None = None
    if evaluator is not None:
        scored = evaluator_named(evaluator)
        judging = Judging(scored.name, evaluator=scored)
    elif judge is not None:
        cache = Path(config.output_dir) / "opinions.jsonl"
        cache.parent.mkdir(parents=True, exist_ok=True)
        judging = Judging(judge, judge=judge_named(judge), cache=Cache(cache))
    return run_calibration(config, dials=dials, judging=judging, prompts=prompts, watcher=watcher)


def compare_references(
    model: str | Path,
    data: str | Path,
    references: Sequence[str],
    *,
    rows: int = 1000,
    prompts: int = 32,
    watcher: Watcher | None = None,
    **options: Any,
) -> ReferenceComparison:
    """Look at references before any training; the same as `tether reference compare`.

    Other options are the keys of `tether train` that say how rows are cut and scored.
    """
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": "(none)", **options}
    config = build(TrainConfig, values, aliases=TRAIN_ALIASES, source="reference compare")
    return references_beside(config, references, rows=rows, prompts=prompts, watcher=watcher)


def report(run: str | Path, *, page: Path | None = None) -> Path:
    """Rebuild the page (elsewhere with `page`) and the model card of a run folder; return the page's path."""
    page = write_report(Path(run), page)
    if (Path(run) / "model").is_dir():
        write_card(Path(run))
    return page


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


def make_world(name: str, out: str | Path, **options: Any) -> WorldFiles:
    """Write a world as ordinary files; the same as `tether world make`."""
    return load_world(name).make(Path(out), **options)


def check(data: Rows, *, eval_data: Rows | None = None) -> DataReport:
    """Inspect preference data before any model loads; the same as `tether check`."""
    return load(data, eval_spec=eval_data).report  # pyright: ignore[reportArgumentType]


def convert(
    data: Rows, out: str | Path, to: str, *, lossy: bool = False, overwrite: bool = False
) -> ConvertRecord:
    """Write rows in another format; the same as `tether convert`."""
    return convert_rows(data, Path(out), to, lossy=lossy, overwrite=overwrite)


def score(model: str | Path, data: str | Path, out: str | Path, **options: Any) -> ScoreRecord:
    """Score rows with any causal LM and write a reference artifact; the same as `tether score`."""
    return score_file(Path(model), str(data), Path(out), **options)


def merge(run: str | Path, out: str | Path, **options: Any) -> MergeRecord:
    """Merge a run's adapter into its base; returns the log-prob error of merging."""
    return merge_adapter(Path(run), Path(out), **options)


def run_study(
    model: str | Path,
    data: str | Path,
    output_dir: str | Path,
    *,
    watcher: StudyWatcher | None = None,
    **options: Any,
) -> StudyRecord:
    """Run a study, or go on with it; the same as `tether study`. Factors are lists (`beta=[1, 0.1]`)."""
    values = {"model_name_or_path": str(model), "dataset_name": str(data), "output_dir": str(output_dir)}
    return study_config(build_study({**values, **options}, source="study"), watcher=watcher)


def study_config(config: StudyConfig, *, watcher: StudyWatcher | None = None) -> StudyRecord:
    """Run a resolved study, or go on with it; then write its findings and page."""
    record = run_in_folder(config, watcher or Unwatched())
    if any(cell.state == "finished" for cell in record.cells):
        write_study_report(Path(config.output_dir))
    return record


def study_plan(config: StudyConfig) -> StudyPlan:
    """Plan a study without running it; a few of its rows are timed."""
    return plan_study(Bench(config), timing=True)
