"""Which reference, looked at before any training: what each candidate says about the rows, beside the model.

A reference enters DPO only through log p_ref(chosen) - log p_ref(rejected), so that is what is compared: how
often it ranks a pair against its label, how its margins go with the model's own, how much of them is length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tether.analysis.sequences import Array, length_slope, ranking
from tether.analysis.stats import mean_interval
from tether.config.hub import Pins
from tether.config.sources import model_name
from tether.config.train import TrainConfig
from tether.errors import DataError, UsageError
from tether.generation.measure import measure, same_vocabulary
from tether.policies.artifact import read_artifact
from tether.policies.reference import ReferenceTable
from tether.records.findings import Estimate
from tether.records.references import ReferenceComparison, ReferenceFacts
from tether.records.rows import Preference, canonical_json
from tether.study.estimates import of_interval
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.policy import pinned_config
from tether.training.prepare import Split, prepare, read
from tether.training.score import score_rows
from tether.training.track import Silent, Watcher

Model = tuple[Any, Any, frozenset[int]]
"""A runnable model, its tokenizer, the ids that end its text."""

DISSIMILAR = 0.5
"""Below this correlation of margins a reference is called dissimilar; RefDPO's terms, our line."""


@dataclass(frozen=True)
class Margins:
    """What one model says about P pairs: sums in nats, NaN where it has no score."""

    chosen: Array
    rejected: Array
    chosen_tokens: Array

    @property
    def known(self) -> np.ndarray:
        """Pairs it has both scores of."""
        return np.isfinite(self.chosen) & np.isfinite(self.rejected)


@dataclass(frozen=True)
class Candidate:
    """One reference scored, and the model itself where it can answer prompts."""

    name: str
    description: str
    margins: Margins | None
    model: Model | None
    notes: tuple[str, ...] = ()


def compare_references(
    config: TrainConfig,
    references: Sequence[str],
    *,
    rows: int = 1000,
    prompts: int = 32,
    watcher: Watcher | None = None,
) -> ReferenceComparison:
    """Score the pairs of `config.dataset_name` with the model and every reference named.

    References are named as for `tether train`: `self`, `none`, `prior`, `model:PATH`, `artifact:PATH`; a bare
    folder is a model, and so is a name of the hub. The first `rows` pairs in file order are scored, and
    `prompts` prompts answered.

    Raises:
        UsageError: no reference, one named twice, a kind that cannot be scored here, or no rows asked for.
        DataError: no pair of a chosen and a rejected completion.

    """
    watcher = watcher or Silent()
    named = [_spelled(name) for name in references]
    if not named or len(set(named)) != len(named):
        raise UsageError("--reference: name at least one, each once: self,prior,model:PATH,artifact:PATH")
    for option, value, least in (("--rows", rows, 1), ("--prompts", prompts, 0)):
        if value < least:
            raise UsageError(f"{option}: {value}; give at least {least}")
    pins = Pins()
    config, named = pinned_config(config, pins), [pins.reference(name) for name in named]
    watcher.stage("reading data")
    split, left_out = _pairs(config, rows)
    watcher.stage("scoring with the model")
    own, mine = _scored(config.model_name_or_path, config, split)
    candidates: list[Candidate] = []
    for name in named:
        watcher.stage(f"scoring with {name}")
        candidates.append(_candidate(name, config, split, own, mine))
    prompt_of = [canonical_json(row.prompt) for row in split.rows]
    asked = list(dict(zip(prompt_of, split.rows, strict=True)).values())[:prompts]
    facts = tuple(
        _facts(c, mine, np.array(prompt_of), _divergences(c, own, asked, config, watcher)) for c in candidates
    )
    return ReferenceComparison(
        model=config.model_name_or_path,
        data=str(config.dataset_name),
        pairs=len(split.rows),
        left_out=left_out,
        prompts=len(asked),
        references=facts,
        suggestions=tuple(suggestions(facts)),
        identity={"max_length": config.max_length, "truncation_mode": config.truncation_mode},
    )


def _spelled(name: str) -> str:
    kind, _, path = name.partition(":")
    if name in ("self", "none", "prior") or (kind in ("model", "artifact") and path):
        return name
    if Path(name).is_dir() or model_name(name) is not None:
        return f"model:{name}"
    raise UsageError(
        f"--reference: {name!r} is not known here; use self, none, prior, model:PATH or artifact:PATH"
    )


def _pairs(config: TrainConfig, limit: int) -> tuple[Split, int]:
    """Return the first pairs as the model would see them, and how many rows were left out."""
    tokenizer = load_tokenizer(config.model_name_or_path)
    renderer = Renderer(tokenizer, stop_ids(tokenizer, config.model_name_or_path))
    loaded = read(config, None, None, task="preference")
    prepared = prepare(config, loaded, renderer, task="preference")
    whole = prepared.train
    keep = [
        i for i, row in enumerate(whole.rows) if [c.role for c in row.completions] == ["chosen", "rejected"]
    ]
    chosen = keep[:limit]
    if not chosen:
        raise DataError(f"{config.dataset_name}: no pair of a chosen and a rejected completion to compare on")
    split = Split([whole.rows[i] for i in chosen], [whole.groups[i] for i in chosen])
    return split, len(whole.rows) - len(chosen)


def _scored(
    path: str, config: TrainConfig, split: Split, *, without_prompt: bool = False
) -> tuple[Model, Margins]:
    scorer, table = score_rows(path, config, split.rows, without_prompt=without_prompt)
    return (scorer.loaded.model, scorer.tokenizer, scorer.stops), _margins(table, split)


def _margins(table: ReferenceTable, split: Split) -> Margins:
    def side(place: int, count: bool = False) -> Array:
        found = [table.scores.get(group.completions[place].key) for group in split.groups]
        return np.array(
            [np.nan if s is None else float(s.count if count else s.total) for s in found], dtype=np.float64
        )

    return Margins(side(0), side(1), side(0, count=True))


def _candidate(name: str, config: TrainConfig, split: Split, own: Model, mine: Margins) -> Candidate:
    kind, _, path = name.partition(":")
    if kind == "none":
        return Candidate(name, "no reference: the margin is the model's own log-probs", None, None)
    if kind == "self":
        return Candidate(name, "the model itself: at step 0 every margin is 0", mine, own)
    if kind == "prior":
        _, margins = _scored(config.model_name_or_path, config, split, without_prompt=True)
        return Candidate(name, "the model without the prompt, p(y)", margins, None)
    if kind == "artifact":
        table, manifest = read_artifact(Path(path))
        source = manifest.get("source", {}).get("model", "unknown")
        return Candidate(name, f"a table scored before, by {source}", _margins(table, split), None)
    model, margins = _scored(path, config, split)
    notes: list[str] = []
    if same_vocabulary(own[1], model[1]):
        return Candidate(name, f"the model in {path}, same tokenizer", margins, model)
    theirs, ours = len(model[1]), len(own[1])
    notes.append(f"its tokenizer is another ({theirs:,} against {ours:,} tokens): scores of texts, no KL")
    fewer = float(np.nanmean(margins.chosen_tokens) / np.nanmean(mine.chosen_tokens))
    notes.append(f"it cuts a chosen completion into {fewer:.2f} times as many tokens as the model")
    return Candidate(name, f"the model in {path}, another tokenizer", margins, None, tuple(notes))


def _facts(
    candidate: Candidate,
    mine: Margins,
    prompt_of: np.ndarray,
    divergences: tuple[Estimate | None, Estimate | None],
) -> ReferenceFacts:
    """Describe a candidate; means over pairs have intervals over prompts, which pairs may share."""
    margins, n = candidate.margins, len(mine.chosen)
    forth, back = divergences
    described: dict[str, Any] = {"reference": candidate.name, "description": candidate.description}
    if margins is None:
        none = dict.fromkeys(
            ("log_ratio_chosen", "log_ratio_rejected", "log_prob_per_token", "against_label",
             "margin_correlation", "length_slope", "length_r_squared")
        )  # fmt: skip
        return ReferenceFacts(
            **described, **none, pairs=n, missing=0, kl_model_reference=None, kl_reference_model=None
        )
    at = margins.known
    if not at.any():
        raise DataError(
            f"{candidate.name}: has no score for any of the {n} pairs; it was made from other rows"
        )
    gap = (margins.chosen - margins.rejected)[at]
    labels = prompt_of[at]
    slope = length_slope(margins.chosen[at], mine.chosen_tokens[at])
    missing = int((~at).sum())
    notes = candidate.notes + ((f"no score for {missing} of {n} pairs: left out",) if missing else ())
    return ReferenceFacts(
        **described,
        pairs=int(at.sum()),
        missing=missing,
        log_ratio_chosen=_mean((mine.chosen - margins.chosen)[at], labels),
        log_ratio_rejected=_mean((mine.rejected - margins.rejected)[at], labels),
        log_prob_per_token=_mean((margins.chosen / margins.chosen_tokens)[at], labels),
        against_label=_mean(1 - ranking(gap, np.zeros_like(gap)), labels, bounds=(0, 1)),
        margin_correlation=correlation(gap, (mine.chosen - mine.rejected)[at]),
        length_slope=slope.slope,
        length_r_squared=slope.r_squared,
        kl_model_reference=forth,
        kl_reference_model=back,
        notes=notes,
    )


def correlation(first: Array, second: Array) -> float | None:
    """Return Pearson's correlation, or None where one of them does not vary."""
    if first.size < 2 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _mean(
    values: Array, prompts: np.ndarray | None = None, *, bounds: tuple[float, float] | None = None
) -> Estimate:
    return of_interval(mean_interval(values, clusters=prompts, bounds=bounds))


def _divergences(
    candidate: Candidate, own: Model, asked: Sequence[Preference], config: TrainConfig, watcher: Watcher
) -> tuple[Estimate | None, Estimate | None]:
    """Return KL(model || reference) and KL(reference || model), measured on each one's own answers."""
    if candidate.model is None or not asked:
        return None, None
    watcher.stage(f"measuring KL to {candidate.name}")
    return (
        _divergence(own, candidate.model, asked, config),
        _divergence(candidate.model, own, asked, config),
    )


def _divergence(first: Model, second: Model, asked: Sequence[Preference], config: TrainConfig) -> Estimate:
    model, tokenizer, stops = first
    renderer = Renderer(tokenizer, stops)
    _, samples = measure(
        model,
        prompts=[row.prompt for row in asked],
        prompt_ids=[renderer.prompt_ids(row.prompt, row.tools, row.template_arguments) for row in asked],
        tokenizer=tokenizer,
        stop_ids=stops,
        step=0,
        max_new_tokens=config.kl_max_new_tokens,
        seed=config.seed,
        start=second[0],
    )
    return _mean(np.array([sample["kl_start"] for sample in samples], dtype=np.float64))


def suggestions(facts: Sequence[ReferenceFacts]) -> list[str]:
    """Say what the numbers suggest, each with the number it rests on; nothing where nothing is clear."""
    said: list[str] = []
    for fact in facts:
        against, r = fact.against_label, fact.margin_correlation
        if against is None or fact.reference in ("self", "none"):
            continue
        name = fact.reference
        if against.low is not None and against.low > 0.5:
            said.append(
                f"{name} ranks {against.estimate:.0%} of the pairs against their label: training starts by "
                "undoing it, and margins grow before the policy prefers the chosen text"
            )
        if r is not None and r < DISSIMILAR:
            said.append(
                f"{name} is dissimilar (margins correlate {r:.2f} with the model's): RefDPO's stronger but "
                "dissimilar reference did no better than self with its own best beta, nor did one in any of "
                "our three listed worlds, where answers grew longer (docs/results.md)"
            )
        elif r is not None and against.high is not None and against.high < 0.5 and r < 0.999:
            said.append(
                f"{name} is similar (margins correlate {r:.2f}) and ranks {1 - against.estimate:.0%} of the "
                "pairs as labelled: the case in which RefDPO found a stronger reference to help; in our "
                "three listed worlds it beat self in one, and training on labels made coins kept most of its "
                "gain (docs/results.md)"
            )
    said.append(
        "these are hints, not results: tether study --reference ... trains with each and compares them "
        "(docs/reference.md)"
    )
    return said
