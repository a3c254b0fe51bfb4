"""Making a reference artifact from files: any causal LM, any tokenizer, scored once."""

from pathlib import Path

import torch

from tether.config.hub import Pins
from tether.config.train import TrainConfig
from tether.errors import RunFolderError
from tether.policies.artifact import MANIFEST, write_artifact
from tether.policies.reference import ReferenceTable
from tether.records.results import Record
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.parallel import Processes, joined
from tether.training.policy import pinned_config
from tether.training.prepare import Prepared, prepare, read
from tether.training.score import default_budget, device_of, fill_table, open_scorer
from tether.training.track import Silent, Watcher


class ScoreRecord(Record):
    """What `tether score` did: how many completions, how many tokens, and the identity of the reference."""

    out: str
    rows: int
    completions: int
    tokens: int
    mean_logprob_per_token: float
    scored: dict[str, str]
    computed: dict[str, str]


def score_file(
    model: str | Path,
    data: str,
    out: Path,
    *,
    policy: str | None = None,
    without_prompt: bool = False,
    token_values: bool = False,
    mismatched: bool = False,
    max_length: int | None = 1024,
    truncation_mode: str = "keep_start",
    score_turns: str = "last",
    device: str = "auto",
    bf16: bool | None = None,
    layout: str = "auto",
    max_tokens_per_microbatch: int | None = None,
    watcher: Watcher | None = None,
) -> ScoreRecord:
    """Score every completion of the rows and write the artifact.

    `policy` names the model whose tokenizer decides what truncation cuts; without it the scorer's own does,
    so give it when the two tokenizers differ and rows are longer than `max_length`. `mismatched` also scores
    the completions KTO estimates its z0 from (pairs are taken apart for it).

    Raises:
        RunFolderError: `out` holds something that is no reference.
        TetherError: data or model are refused.

    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise RunFolderError(f"{out}: not empty and no reference; choose another --out")
    config = TrainConfig.model_validate(
        {
            "model_name_or_path": str(model),
            "dataset_name": data,
            "output_dir": str(out),
            "max_length": max_length,
            "truncation_mode": truncation_mode,
            "score_turns": score_turns,
            "device": device,
            "bf16": bf16,
            "layout": layout,
        }
    )
    pins = Pins()
    config, policy = pinned_config(config, pins), policy and pins.model(policy, weights=False)
    budget = max_tokens_per_microbatch or default_budget(device_of(device))
    with joined(device_of(device)) as processes:
        shown = watcher if watcher is not None and processes.first else Silent()
        shown.stage("reading data")
        prepared = _prepared(config, policy, mismatched)
        processes.same({"rows": prepared.data["train"]})
        shown.stage("loading the model")
        table = _scored(config, prepared, without_prompt, token_values, budget, processes, shown)
        if processes.first:
            named = config.model_name_or_path if pins.made.get(str(model)) else str(Path(model).resolve())
            source = {"model": named, "data": data, "kind": table.identity.kind}
            write_artifact(out, table, source=source)
    return _record(out, len(prepared.train.rows), table)


def _scored(
    config: TrainConfig,
    prepared: Prepared,
    without_prompt: bool,
    token_values: bool,
    budget: int,
    processes: Processes,
    watcher: Watcher,
) -> ReferenceTable:
    scorer = open_scorer(
        config.model_name_or_path,
        config,
        prepared.train.rows,
        without_prompt=without_prompt,
        processes=processes,
    )
    kind = "prior" if without_prompt else "model"
    table = ReferenceTable(scorer.identity(kind, config, without_prompt=without_prompt), {})

    def progress(done: int, total: int) -> None:
        watcher.stage(f"scoring: {done} of {total} rows")

    with torch.no_grad():
        fill_table(
            table, scorer.engine, scorer.groups, budget=budget, keep_tokens=token_values, progress=progress
        )
    return table


def _record(out: Path, rows: int, table: ReferenceTable) -> ScoreRecord:
    tokens = sum(score.count for score in table.scores.values())
    total = sum(score.total for score in table.scores.values())
    return ScoreRecord(
        out=str(out),
        rows=rows,
        completions=len(table.scores),
        tokens=tokens,
        mean_logprob_per_token=total / max(tokens, 1),
        scored=dict(table.identity.scored),
        computed=dict(table.identity.computed),
    )


def _prepared(config: TrainConfig, policy: str | None, mismatched: bool) -> Prepared:
    """Read, truncate and encode the rows as the policy would, or the scorer itself."""
    cutter = policy or config.model_name_or_path
    task = "unpaired" if mismatched else "any"
    tokenizer = load_tokenizer(cutter)
    renderer = Renderer(tokenizer, stop_ids(tokenizer, cutter), score_turns=config.score_turns)
    loaded = read(config, None, None, task=task)
    return prepare(config, loaded, renderer, task=task, mismatched=mismatched)
