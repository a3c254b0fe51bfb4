"""Files to encoded groups: the preflight, the split, truncation, and what each of them left out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tether.config.train import TrainConfig
from tether.data.checks import Loaded, load
from tether.data.mix import first_of_each, halve, mix, shuffle_labels, split, take
from tether.data.tasks import Task
from tether.errors import DataError, ModelError
from tether.objectives import OBJECTIVES, needs_mismatched
from tether.records.results import Finding
from tether.records.rows import Preference
from tether.tokens.inspect import CUT_FINDINGS, NOTES
from tether.tokens.loader import Updates
from tether.tokens.mismatch import add_mismatched
from tether.tokens.render import EncodedGroup, Renderer
from tether.tokens.truncate import truncate_each
from tether.tokens.turns import assistant_turns
from tether.training.sharing import Shared

ROW_KEYS = (
    "model_name_or_path",
    *(
        name
        for name, field in TrainConfig.model_fields.items()
        if isinstance(field.json_schema_extra, dict)
        and field.json_schema_extra.get("group") == "Data"
        and name != "split_seed"  # `choice_seed` says what it comes to
    ),
)
"""Config keys that decide what the rows look like to a run, beside `seed` and what its objectives read."""


@dataclass(frozen=True)
class Split:
    """Rows as the policy will see them (truncated), and their token ids, in step."""

    rows: list[Preference]
    groups: list[EncodedGroup]


@dataclass(frozen=True)
class Prepared:
    """Everything the data side hands to training."""

    train: Split
    held_out: Split
    preflight: dict[str, Any]
    data: dict[str, Any]

    @property
    def names(self) -> dict[str, str]:
        """Digests of the rows on both sides: equal for the same rows in the same order, cut alike."""
        return {"train": self.data["train"], "eval": self.data["eval"]}


def task_of(config: TrainConfig) -> Literal["preference", "sft", "unpaired", "list"]:
    """Return which rows the objectives read: pairs, single completions, marked ones, or rankings."""
    reads = {OBJECTIVES[name].reads for name in config.loss_type}
    if "pairs" in reads:
        return "preference"
    return "unpaired" if "unpaired" in reads else "list" if "list" in reads else "sft"


def prepared_rows(
    config: TrainConfig,
    renderer: Renderer,
    shared: Shared,
    rows: Sequence[Any] | None = None,
    eval_rows: Sequence[Any] | None = None,
) -> Prepared:
    """Read, check, split, truncate and encode the rows, or take them over from a run of the same ones."""
    task, mismatched = task_of(config), needs_mismatched(config)
    key = {name: getattr(config, name) for name in ROW_KEYS}
    return shared.stored(
        "rows",
        {**key, "choice_seed": config.choice_seed, "task": task, "mismatched": mismatched},
        Prepared,
        lambda: prepare(
            config, read(config, rows, eval_rows, task=task), renderer, task=task, mismatched=mismatched
        ),
    )


def read(
    config: TrainConfig, rows: Sequence[Any] | None, eval_rows: Sequence[Any] | None, *, task: Task
) -> Loaded:
    """Read and check the rows of a run: files, or rows in memory."""
    eval_spec = eval_rows if eval_rows is not None else config.eval_dataset_name
    spec = rows if rows is not None else config.dataset_name
    loaded = load(spec, eval_spec=eval_spec, task=task, ties=config.ties)
    loaded.require_rows()
    return loaded


def prepare(
    config: TrainConfig, loaded: Loaded, renderer: Renderer, *, task: Task, mismatched: bool = False
) -> Prepared:
    """Split, truncate and encode; count everything that was cut or left out.

    `mismatched` puts another row's answer beside every single one (`tokens.mismatch`).

    Raises:
        DataError: nothing is left to train on.

    """
    findings: list[Finding] = []
    rows, held_out = (
        _for_task(_first(part, config, findings, side), task, config.score_turns)
        for part, side in ((loaded.rows, "train"), (loaded.eval_rows, "eval"))
    )
    if not held_out:
        rows, held_out = split(rows, _share_held_out(config, len(rows)), config.choice_seed)
    if config.data_fraction < 1:
        rows, unused = take(rows, config.data_fraction, config.choice_seed)
        text = f"not used: data_fraction is {config.data_fraction:g}"
        findings.append(_finding("data_fraction", "dropped", [row.row_id for row in unused], text))
    if config.data_half != "both":
        rows, unused = halve(rows, config.data_half, config.choice_seed)
        text = f"not used: data_half is {config.data_half}"
        findings.append(_finding("data_half", "dropped", [row.row_id for row in unused], text))
    if config.labels == "shuffled":
        rows, swapped = shuffle_labels(rows, config.choice_seed)
        findings.append(_finding("labels_shuffled", "warning", swapped, "chosen and rejected were swapped"))
    train = _encode(rows, renderer, config, findings, "train")
    evaluation = _encode(held_out, renderer, config, findings, "eval")
    if mismatched:
        train = _mismatch(train, renderer, config, findings, "train")
        evaluation = _mismatch(evaluation, renderer, config, findings, "eval")
    if not train.groups:
        reasons = "; ".join(f"{f.count} {f.kind}" for f in findings) or "no rows"
        raise DataError(f"{config.dataset_name}: no row is left to train on: {reasons}")
    preflight = loaded.report.model_dump(mode="json")
    preflight["findings"] = [*preflight["findings"], *(f.model_dump(mode="json") for f in findings)]
    files = preflight.get("files", [])
    data = {
        "train": _digest(train),
        "eval": _digest(evaluation),
        "files": files,
        "read": preflight.get("read"),
        "used": len(train.groups),
        "eval_used": len(evaluation.groups),
        # Row ids stay in preflight.json; the record keeps what happened and how often.
        "findings": [{**finding, "rows": [], "details": []} for finding in preflight["findings"]],
    }
    return Prepared(train, evaluation, preflight, data)


def _share_held_out(config: TrainConfig, rows: int) -> float:
    """Return the share of the rows to hold out.

    Raises:
        DataError: `eval_rows` leaves nothing to train on.

    """
    if config.eval_rows is None:
        return config.eval_fraction
    if config.eval_rows >= rows:
        raise DataError(f"eval_rows is {config.eval_rows}, but there are {rows} rows; hold fewer out")
    # Half a row less, so that rounding never holds out a prompt more than was asked for.
    return (config.eval_rows - 0.5) / rows


def _first(
    rows: list[Preference], config: TrainConfig, findings: list[Finding], side: str
) -> list[Preference]:
    """Keep the first rows of every source (`max_samples`)."""
    if config.max_samples is None:
        return rows
    rows, unused = first_of_each(rows, config.max_samples)
    if unused:
        ids = list(dict.fromkeys(row.row_id for row in unused))
        text = f"not used: max_samples is {config.max_samples}"
        findings.append(_finding(f"{side}_max_samples", "dropped", ids, text))
    return rows


def _for_task(rows: Sequence[Preference], task: Task, score_turns: str) -> list[Preference]:
    """Keep the completions an objective reads: supervised tuning never pays for rejected ones."""
    if task != "sft":
        return list(rows)
    kept = ("chosen", "completion", "desirable")
    made = [replace(row, completions=tuple(c for c in row.completions if c.role in kept)) for row in rows]
    return [_every_turn(row) for row in made] if score_turns == "all" else made


def _every_turn(row: Preference) -> Preference:
    """Let the answer of a supervised chat begin at the first assistant turn, so that all are scored."""
    (completion,), prompt = row.completions, row.prompt
    if isinstance(prompt, str) or isinstance(completion.content, str):
        return row
    turns = [place for place in assistant_turns(prompt) if place > 0]
    if not turns:
        return row
    answer = (*prompt[turns[0] :], *completion.content)
    return replace(row, prompt=prompt[: turns[0]], completions=(replace(completion, content=answer),))


def _digest(part: Split) -> str:
    """Name the exact rows, their order and their labels, whatever file they came from."""
    keys = [f"{c.role}:{c.key}" for group in part.groups for c in group.completions]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def _encode(
    rows: Sequence[Preference], renderer: Renderer, config: TrainConfig, findings: list[Finding], side: str
) -> Split:
    kept: list[Preference] = []
    groups: list[EncodedGroup] = []
    cuts: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    refused: list[tuple[str, str]] = []
    for row, result in truncate_each(
        rows,
        renderer,
        lambda row, error: refused.append((row.row_id, str(error))),
        max_length=config.max_length,
        mode=config.truncation_mode,
    ):
        for reason in result.cut:
            cuts.setdefault(reason, []).append(row.row_id)
        if result.row is None or result.encoded is None:
            continue
        kept.append(result.row)
        groups.append(result.encoded)
        for note in result.encoded.notes:
            notes.setdefault(note, []).append(row.row_id)
    for reason, ids in sorted(cuts.items()):
        severity, text = CUT_FINDINGS[reason]
        findings.append(_finding(f"{side}_{reason}", severity, ids, text.format(limit=config.max_length)))
    for note, ids in sorted(notes.items()):
        severity, text = NOTES[note]
        findings.append(_finding(f"{side}_{note}", severity, ids, text))
    if refused:
        ids, text = [row_id for row_id, _ in refused], f"first: {refused[0][1]}"
        findings.append(_finding(f"{side}_cannot_be_encoded", "dropped", ids, text))
    return Split(kept, groups)


def _mismatch(
    part: Split, renderer: Renderer, config: TrainConfig, findings: list[Finding], side: str
) -> Split:
    """Give every row its mismatched completion; rows that no other answer fits are left out."""
    made = add_mismatched(part.rows, part.groups, renderer, config.max_length)
    limit = config.max_length
    for kind, severity, ids, text in (
        ("mismatched_cut", "note", made.cut, f"the mismatched answer is cut to max_length {limit}"),
        ("no_mismatched", "dropped", made.without, f"no other row's answer fits max_length {limit}"),
    ):
        if ids:
            findings.append(_finding(f"{side}_{kind}", severity, ids, text))
    return Split(made.rows, made.groups)


def _finding(kind: str, severity: Any, ids: list[str], text: str) -> Finding:
    return Finding(kind=kind, severity=severity, count=len(ids), rows=tuple(ids), text=text)


def updates_of(
    config: TrainConfig,
    groups: Sequence[EncodedGroup],
    rows_of: Callable[[int], Sequence[int]] | None = None,
) -> Updates:
    """Return the updates of a run, in their order."""
    return Updates(
        groups,
        train_batch_size=config.pairs_per_update,
        seed=config.seed if config.data_seed is None else config.data_seed,
        strategy=config.train_sampling_strategy,
        epoch_rows=rows_of,
    )


def epoch_rows(config: TrainConfig, rows: Sequence[Preference]) -> Callable[[int], list[int]] | None:
    """Return which rows each epoch has under `dataset_weights`, or None where it has every row once."""
    weights = config.dataset_weights
    if weights is None:
        return None
    sources = [row.origin.source for row in rows]
    return lambda epoch: mix(sources, weights, config.choice_seed, epoch)


def left_out(prepared: Prepared) -> str:
    """Say in one line what became of the rows: read, used, held out, left out, cut."""
    data = prepared.data
    read = (data.get("read") or 0) + (prepared.preflight.get("eval_read") or 0)
    cut = sum(f["count"] for f in data["findings"] if f["kind"].endswith(("completion_cut", "prompt_cut")))
    lost = sum(f["count"] for f in data["findings"] if f["severity"] == "dropped")
    split = sum(f["count"] for f in data["findings"] if f["kind"] == "pair_split")
    apart = f" ({split} pairs taken apart)" if split else ""
    text = (
        f"rows: {read} read, {data['used']} to train on{apart}, {data['eval_used']} held out, {lost} left out"
    )
    return f"{text}, {cut} cut to max_length (preflight.json lists them)" if cut or lost else text


def check_ids(groups: Sequence[EncodedGroup], embedding_rows: int) -> None:
    """Refuse token ids the model has no embedding for.

    Raises:
        ModelError: names the row, the id and the limit.

    """
    for group in groups:
        ids = [*group.prompt_ids, *(i for c in group.completions for i in c.ids)]
        if ids and max(ids) >= embedding_rows:
            raise ModelError(
                f"{group.row_id}: token id {max(ids)} but the model's embedding has {embedding_rows} rows; "
                "this tokenizer is not this model's"
            )
