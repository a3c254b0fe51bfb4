"""Tuning: a run, its plan, its reference, its merged weights."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether import api
from tether.api.rows import Rows
from tether.config.aliases import TRAIN_ALIASES
from tether.config.hub import Pins
from tether.config.launch import first_process
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.policies.load import config_summary
from tether.records.protocols import Evaluator
from tether.records.results import RunRecord
from tether.tokens.render import Renderer
from tether.training.hardware import memory_of
from tether.training.merge import MergeRecord, merge_adapter
from tether.training.plan import model_on_meta, plan_run
from tether.training.policy import IN_MEMORY, InMemory, load_texts, pinned_config
from tether.training.prepare import epoch_rows, prepared_rows
from tether.training.run import Given
from tether.training.run import train as run_training
from tether.training.score import default_budget, device_of
from tether.training.scoring import ScoreRecord, score_file
from tether.training.sharing import Shared
from tether.training.track import Watcher
from tether.worlds import evaluator_named


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
        # Found only now: the drawing libraries take two seconds that a first update need not wait for.
        api.report(config.output_dir)
    return record


def plan(config: TrainConfig) -> dict[str, Any]:
    """Plan a run without loading weights: updates, tokens, expected peak memory, token budget."""
    config = pinned_config(config, Pins(), weights=False)
    tokenizer, stops = load_texts(config, None)
    renderer = Renderer(tokenizer, stops, score_turns=config.score_turns)
    prepared = prepared_rows(config, renderer, Shared())
    model = model_on_meta(config_summary(config.model_name_or_path), config)
    device = device_of(config.device)
    budget = config.max_tokens_per_microbatch or default_budget(device)
    mixed = epoch_rows(config, prepared.train.rows)
    groups = prepared.train.groups
    first = groups if mixed is None else [groups[row] for row in mixed(0)]
    return asdict(plan_run(config, model, first, budget=budget, memory=memory_of(device)))


def score(model: str | Path, data: str | Path, out: str | Path, **options: Any) -> ScoreRecord:
    """Score rows with any causal LM and write a reference artifact; the same as `tether score`."""
    return score_file(model, str(data), Path(out), **options)


def merge(run: str | Path, out: str | Path, **options: Any) -> MergeRecord:
    """Merge a run's adapter into its base; returns the log-prob error of merging."""
    return merge_adapter(run, Path(out), **options)
