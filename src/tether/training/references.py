"""From the words after --reference to a table, its identity, and a way to score rows again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tether.config.train import TrainConfig
from tether.errors import ReferenceMismatch, UsageError
from tether.generation.measure import same_vocabulary
from tether.objectives import needs_live_reference
from tether.policies.artifact import MANIFEST, read_artifact, read_manifest, write_artifact
from tether.policies.quantisation import by_name
from tether.policies.reference import ReferenceIdentity, ReferenceTable, Scores, table_from_columns
from tether.policies.sharding import in_shards, start_of
from tether.policies.tilted import LiveReference
from tether.records.rows import Preference
from tether.tokens.render import EncodedGroup, Renderer
from tether.training.moving import moving_reference
from tether.training.parallel import Processes
from tether.training.prepare import Prepared
from tether.training.score import Engine, Scorer, fill_table, identity, open_scorer
from tether.training.sharing import Shared
from tether.training.track import Watcher
from tether.training.verify import RESCORED_ROWS, Verified, model_at_hand, verify_rescored, verify_self


@dataclass(frozen=True)
class Policy:
    """The model under training as it stands at step 0, with the names of its parts."""

    engine: Engine
    tokenizer: Any
    stops: frozenset[int]
    weights: str
    adapter: str | None
    path: str


@dataclass(frozen=True)
class Reference:
    """A reference ready for the loop: its scores (None for `none`), its record, how it was checked."""

    table: Scores | None
    record: dict[str, Any]
    verified: Verified
    model: Any = None
    """The reference as a runnable model of the policy's own token-to-id map, where there is one."""
    live: LiveReference | None = None
    """The same to be run beside the policy at every update, where the objective reads its distributions."""


@dataclass(frozen=True)
class Place:
    """Where a reference is kept and what it is checked on: the first update's rows."""

    folder: Path
    first_update: list[EncodedGroup]
    budget: int
    watcher: Watcher
    keep_tokens: bool = False
    shared: Shared = field(default_factory=Shared)


def build_reference(config: TrainConfig, policy: Policy, prepared: Prepared, place: Place) -> Reference:
    """Build or reuse the reference named in the config, save it under the run folder, and verify it.

    Raises:
        ReferenceMismatch: it is not the one named, or cannot answer for these rows.
        GuardStop: the step-0 check failed.
        RunFolderError: a named one is another than in earlier runs that share with this one.

    """
    budget = place.budget
    kind, _, path = config.reference.partition(":")
    if kind == "none":
        text = "no reference: its log-probs are 0 for every row"
        return Reference(None, {"kind": "none", "description": text}, Verified("nothing to verify", {}))
    groups = [*prepared.train.groups, *prepared.held_out.groups]
    rows = [*prepared.train.rows, *prepared.held_out.rows]
    if kind == "columns":
        return _columns(groups)
    if kind == "moving":
        return _moving(config, policy, place)
    if kind == "artifact":
        place.shared.hold(config.reference, {"digest": read_manifest(Path(path))["digest"]})
        return _artifact(config, Path(path), groups, rows, place, policy)
    part = {**prepared.names, "budget": budget, "head_chunk": config.head_chunk}
    sharded = in_shards(policy.engine.model)

    def opened() -> Scorer:
        return place.shared.once(
            "scorers",
            {"path": path, "layout": config.layout, **part},
            lambda: open_scorer(path, config, rows, processes=policy.engine.processes, sharded=sharded),
        )

    engine, theirs, tokenizer, named = _scorer(kind, config, policy, rows, groups, opened)
    if kind == "model":
        place.shared.hold(
            config.reference, {key: named.scored[key] for key in ("weights", "adapter", "tokenizer")}
        )
    model = engine.model if kind == "model" and same_vocabulary(policy.tokenizer, tokenizer) else None
    live = _live(config, kind, policy, model)
    # A sum moves in its last bits with the rows beside it, so a table belongs to exactly these rows.
    with place.shared.reference(place.folder, {**asdict(named), **part, "tokens": place.keep_tokens}):
        source = {"model": path or policy.path, "kind": kind}
        table = _scored(place, named, engine, theirs, source, policy.engine.processes)
        if kind == "self":
            verified = verify_self(replace(policy.engine, live=live), table, place.first_update, budget)
        else:
            verified = verify_rescored(engine, table, theirs, budget)
    description = {"self": "the policy as it is at step 0", "prior": "the policy without the prompt"}.get(
        kind, f"the model in {path}"
    )
    return Reference(table, _record(table, description), verified, model, live)


def _live(config: TrainConfig, kind: str, policy: Policy, model: Any) -> LiveReference | None:
    """Return the reference to run beside the policy, where the objective needs its distributions.

    Raises:
        UsageError: this kind of reference is scored texts only, or its tokenizer is another.

    """
    if not needs_live_reference(config):
        return None
    if kind == "self":
        start = start_of(policy.engine.model)
        return LiveReference(policy.engine.model, adapter_off=True) if start is None else LiveReference(start)
    if model is None:
        raise UsageError(
            f"loss_type {' + '.join(config.loss_type)} reads the reference's whole distributions, but "
            f"{config.reference} gives scored texts of its own tokens only; "
            "use reference self, or model:PATH with the policy's tokenizer"
        )
    return LiveReference(model)


def _moving(config: TrainConfig, policy: Policy, place: Place) -> Reference:
    moving = moving_reference(
        policy.engine,
        alpha=config.ref_model_mixup_alpha,
        every=config.ref_model_sync_steps,
        budget=place.budget,
    )
    verified = verify_self(policy.engine, moving, place.first_update, place.budget)
    text = (
        f"the policy as it is at step 0, moved {config.ref_model_mixup_alpha:g} of the way to the policy "
        f"every {config.ref_model_sync_steps} updates"
    )
    record = {
        "kind": "moving",
        "description": text,
        "identity": {
            "scored": {
                "weights": policy.weights,
                "ref_model_mixup_alpha": f"{moving.alpha:g}",
                "ref_model_sync_steps": str(moving.every),
            },
            "computed": {},
        },
        "rows": 0,
    }
    return Reference(moving, record, verified)


def _scored(
    place: Place,
    named: ReferenceIdentity,
    engine: Engine,
    groups: list[EncodedGroup],
    source: dict[str, Any],
    processes: Processes,
) -> ReferenceTable:
    table = _reuse(place.folder, named, place.keep_tokens)
    known = len(table.scores)
    note = _progress(place.watcher, source["kind"])
    fill_table(table, engine, groups, budget=place.budget, keep_tokens=place.keep_tokens, progress=note)
    processes.wait()  # until all have read what was there
    if processes.first and len(table.scores) > known:
        write_artifact(place.folder, table, source=source)
    return table


def _progress(watcher: Watcher, kind: str) -> Callable[[int, int], None]:
    def note(done: int, total: int) -> None:
        watcher.stage(f"scoring the reference ({kind}): {done} of {total} rows")

    return note


def _scorer(
    kind: str,
    config: TrainConfig,
    policy: Policy,
    rows: list[Preference],
    groups: list[EncodedGroup],
    opened: Callable[[], Scorer],
) -> tuple[Engine, list[EncodedGroup], Any, ReferenceIdentity]:
    """Return what scores the rows, the rows as it sees them, its tokenizer, and its name."""
    if kind == "model":
        scorer = opened()
        named = scorer.identity(config.reference, config, without_prompt=False)
        return scorer.engine, scorer.groups, scorer.tokenizer, named
    without = kind == "prior"
    if without:
        renderer = Renderer(
            policy.tokenizer, policy.stops, without_prompt=True, score_turns=config.score_turns
        )
        groups = renderer.encode_all(rows)
    named = _named(config.reference, config, policy, without_prompt=without)
    return policy.engine, groups, policy.tokenizer, named


def _named(kind: str, config: TrainConfig, policy: Policy, *, without_prompt: bool) -> ReferenceIdentity:
    """Name the policy as it is at step 0 as a reference."""
    return identity(
        kind,
        weights=policy.weights,
        adapter=policy.adapter,
        tokenizer=policy.tokenizer,
        stops=policy.stops,
        config=config,
        engine=policy.engine,
        without_prompt=without_prompt,
        arithmetic=config.adapter_arithmetic,
    )


def _reuse(folder: Path, named: ReferenceIdentity, keep_tokens: bool) -> ReferenceTable:
    """Take the run folder's own table back where what was scored and how are both the same."""
    if (folder / MANIFEST).is_file():
        table, _ = read_artifact(folder)
        same = named.difference(table.identity) is None
        whole = not keep_tokens or all(score.tokens is not None for score in table.scores.values())
        if same and whole and dict(table.identity.computed) == dict(named.computed):
            return table
    return ReferenceTable(named, {})


def _columns(groups: list[EncodedGroup]) -> Reference:
    cut = next((g.row_id for g in groups for c in g.completions if c.cut), None)
    if cut is not None:
        raise ReferenceMismatch(
            f"{cut}: max_length cuts this completion, but its log-prob column is of the whole text; "
            "raise max_length"
        )
    table = table_from_columns((g.row_id, c.key, c.reference_logprob) for g in groups for c in g.completions)
    for group in groups:
        for completion in group.completions:
            score = table.scores[completion.key]
            table.scores[completion.key] = type(score)(score.total, completion.scored_count)
    text = "log-probs given by the data's own columns"
    return Reference(
        table,
        _record(table, text),
        Verified("not verifiable here: the data does not say which model scored it", {}),
    )


def _artifact(
    config: TrainConfig,
    path: Path,
    groups: list[EncodedGroup],
    rows: list[Preference],
    place: Place,
    policy: Policy,
) -> Reference:
    table, manifest = read_artifact(path)
    wanted = f"{config.truncation_mode} {config.max_length}"
    missing = table.missing(c.key for g in groups for c in g.completions)
    if missing:
        had = table.identity.scored.get("truncation")
        why = (
            f"truncation is {had!r}, this run's is {wanted!r}"
            if had != wanted
            else "it was made from other rows"
        )
        raise ReferenceMismatch(
            f"{path}: has no score for {len(missing)} of {sum(len(g.completions) for g in groups)} "
            f"completions: {why}; "
            "score this data again with tether score"
        )
    verified = _verify_artifact(config, path, table, manifest.get("source", {}), groups, rows, place, policy)
    return Reference(table, _record(table, f"the artifact in {path}"), verified)


def _verify_artifact(
    config: TrainConfig,
    path: Path,
    table: ReferenceTable,
    source: dict[str, Any],
    groups: list[EncodedGroup],
    rows: list[Preference],
    place: Place,
    policy: Policy,
) -> Verified:
    """Score a few rows again with the model that made the artifact, which is often the policy as it is now.

    Raises:
        ReferenceMismatch: the model is at hand and is not what it was.
        GuardStop: it does not repeat its scores.

    """
    scored = table.identity.scored
    without = scored.get("prompt") == "without"

    def difference(now: ReferenceIdentity) -> str | None:
        # Truncation and turns were compared row by row through the keys; what changes no row is the same.
        by_row = {name: scored.get(name, "") for name in ("truncation", "turns")}
        return ReferenceIdentity(now.kind, {**now.scored, **by_row}).difference(table.identity)

    kind = table.identity.kind
    own = not config.adapter_arithmetic and not without  # else the policy's sums are the table's only nearly
    if own and difference(_named(kind, config, policy, without_prompt=False)) is None:
        place.watcher.stage(f"checking {path} against the policy, the model that made it")
        return verify_rescored(policy.engine, table, groups, place.budget)
    model = model_at_hand(source)
    if model is None:
        return Verified("not verifiable here: the model that scored it is not at hand", {})
    place.watcher.stage(f"checking {path} against {model}")
    scorer = open_scorer(
        model,
        config,
        rows[:RESCORED_ROWS],
        without_prompt=without,
        processes=policy.engine.processes,
        sharded=in_shards(policy.engine.model),
        quantisation=by_name(str(scored.get("quantisation"))),
    )
    found = difference(scorer.identity(kind, config, without_prompt=without))
    if found is not None:
        raise ReferenceMismatch(f"{path}: not made by {model} as it is now: {found}; score the data again")
    return verify_rescored(scorer.engine, table, scorer.groups, place.budget)


def _record(table: ReferenceTable, description: str) -> dict[str, Any]:
    return {
        "kind": table.identity.kind,
        "description": description,
        "identity": {"scored": dict(table.identity.scored), "computed": dict(table.identity.computed)},
        "rows": len(table.scores),
    }
