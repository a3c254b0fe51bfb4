"""`tether compare`: verdicts, annotations or a stopped stream -> one record, and its gate."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from tether.config.sources import model_name
from tether.errors import DataError, UsageError
from tether.judging import comparison as judging
from tether.judging.annotations import Annotations, merged, read_annotations, read_difficulty, read_gamed
from tether.judging.options import Deciding
from tether.judging.outputs import read_rows
from tether.judging.winrate import WinRates, paired_difference, paired_lc_difference, win_rates
from tether.records.comparison import (
    Comparison,
    ComparisonRecord,
    PairedDifference,
    Requirement,
    Stream,
    Verdict,
)

Key = tuple[str, str, str]
"""Model A, model B, judge."""
MOST_DIFFERENCES = 10
"""Most models of which every two are compared; more are compared where a gate names them."""


def kind_of(path: Path) -> str:
    """Return what a path holds: `model`, `answers`, `verdicts` or `annotations`.

    Raises:
        DataError: no such file, or none of these.

    """
    if path.is_dir() or model_name(str(path)) is not None:
        return "model"
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".parquet":
        return "annotations"
    first = read_rows(path)[0]
    if "a_first" in first:
        return "verdicts"
    return "annotations" if "preference" in first else "answers"


def compare_verdicts(verdicts: Sequence[Verdict], deciding: Deciding) -> ComparisonRecord:
    """Compare all models of these verdicts.

    Raises:
        DataError: none of them was judged in both orders, or the gate names models not compared.

    """
    groups = judging.group(verdicts)
    models = tuple(sorted({name for a, b, _ in groups for name in (a, b)}))
    compared = {
        key: judging.compare_pair(found, draws=deciding.draws, seed=deciding.seed)
        for key, found in groups.items()
    }
    differences = _through_opponents(groups, deciding)
    judges = {judge for _, _, judge in groups}
    rated = len(models) > 2 and len(judges) == 1
    errors = Counter(error.split(":")[0] for verdict in verdicts for error in verdict.errors)
    return ComparisonRecord(
        kind="verdicts",
        models=models,
        comparisons=tuple(compared.values()),
        differences=tuple(differences),
        ratings=judging.ratings(verdicts, seed=deciding.seed) if rated else (),
        agreement=judging.agreements(verdicts),
        errors=dict(errors.most_common()),
        requirement=_gate(models, compared, differences, deciding),
    )


def _gate(
    models: Sequence[str],
    compared: dict[Key, Comparison],
    differences: Sequence[PairedDifference],
    deciding: Deciding,
) -> Requirement | None:
    if deciding.require is None:
        return None
    better, worse = judging.parse_requirement(deciding.require, models)
    met: list[tuple[bool, str]] = []
    for judge in sorted({judge for _, _, judge in compared}):
        own = {(a, b): one for (a, b, name), one in compared.items() if name == judge}
        if (better, worse) in own or (worse, better) in own:
            met.append(judging.shown_better(own, better, worse, deciding.by))
    if not met:
        met = [
            _difference_shown(gap, better, worse)
            for gap in differences
            if {gap.a, gap.b} == {better, worse} and gap.kind == deciding.by
        ]
    if not met:
        raise DataError(
            f"--require {deciding.require!r}: these two were judged neither against each other nor against "
            "a common opponent"
        )
    why = "; ".join(text for _, text in met)
    return Requirement(text=deciding.require, shown=all(shown for shown, _ in met), why=why)


def _difference_shown(gap: PairedDifference, better: str, worse: str) -> tuple[bool, str]:
    sign = 1 if gap.a == better else -1
    low, high = sorted(sign * end for end in gap.interval)
    shown = low > 0
    rate = "win rate" if gap.kind == "win_rate" else "length-controlled win rate"
    against = f" against {gap.against}" if gap.against else ""
    return shown, (
        f"{better} > {worse} {'shown' if shown else 'not shown'}: {rate}{against} differs by "
        f"{sign * gap.difference:+.2f} points (95 % {low:+.2f} to {high:+.2f}, {gap.n} prompts)"
    )


def _through_opponents(groups: dict[Key, list[Verdict]], deciding: Deciding) -> list[PairedDifference]:
    """Return the paired differences of models that met the same opponent and never each other."""
    found: list[PairedDifference] = []
    for judge in sorted({judge for _, _, judge in groups}):
        met: dict[str, dict[str, list[Verdict]]] = {}
        for (a, b, name), verdicts in groups.items():
            if name == judge:
                met.setdefault(b, {})[a] = verdicts
                met.setdefault(a, {})[b] = [verdict.turned() for verdict in verdicts]
        for opponent, rivals in sorted(met.items()):
            strangers = [
                (a, b) for a, b in combinations(sorted(rivals), 2) if b not in met[a] and a not in met[b]
            ]
            if strangers:
                found += _differences(against(rivals, opponent), strangers, opponent, judge, deciding)
    return found


def against(rivals: dict[str, list[Verdict]], opponent: str) -> Annotations:
    """Return verdicts of several models against one opponent as annotations: one mean per prompt."""
    prompts = tuple(sorted({v.id for verdicts in rivals.values() for v in verdicts}))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    shape = len(rivals), len(prompts)
    share, delta, chars, counted = (np.zeros(shape) for _ in range(4))
    for row, verdicts in enumerate(rivals.values()):
        for verdict in verdicts:
            if verdict.share is not None:
                at = row, place[verdict.id]
                share[at] += verdict.share
                delta[at] += len(verdict.answer_b) - len(verdict.answer_a)
                chars[at] += len(verdict.answer_a)
                counted[at] += 1
    with np.errstate(invalid="ignore"):
        means = [table / counted for table in (share, delta, chars)]
    return Annotations(f"against {opponent}", tuple(rivals), prompts, *means, by_text=True)


def _differences(
    read: Annotations, pairs: Sequence[tuple[str, str]], opponent: str, judge: str, deciding: Deciding
) -> list[PairedDifference]:
    found: list[PairedDifference] = []
    rates: WinRates | None = None
    for a, b in pairs:
        both = np.isfinite(read.share[[read.models.index(a), read.models.index(b)]]).all(axis=0)
        if int(both.sum()) < 2:
            continue
        gaps = [paired_difference(read, a, b, seed=deciding.seed)]
        if int(both.sum()) >= judging.LENGTH_PAIRS:
            rates = rates or win_rates(read, draws=deciding.draws, seed=deciding.seed)
            gaps += _lc_difference(rates, a, b)
        found += [gap.model_copy(update={"against": opponent, "judge": judge}) for gap in gaps]
    return found


def _lc_difference(rates: WinRates, a: str, b: str) -> list[PairedDifference]:
    """Return the length-controlled difference, or nothing where one of the two has no such rate."""
    missing = [entry for entry in rates.models if entry.model in (a, b) and entry.lc_win_rate is None]
    return [] if missing else [paired_lc_difference(rates, a, b)]


def compare_stream(stream: Stream, deciding: Deciding) -> ComparisonRecord:
    """Return the record of a comparison that stopped when the answer was known."""
    requirement = None
    if deciding.require is not None:
        better, _ = judging.parse_requirement(deciding.require, (stream.a, stream.b))
        shown = stream.decided and (stream.win_rate > 50) == (better == stream.a)
        low, high = stream.interval
        why = (
            f"{deciding.require} {'shown' if shown else 'not shown'}: {stream.a} wins {stream.win_rate:.1f} "
            f"% (95 % {low:.1f} to {high:.1f} at any look, {stream.asked} of {stream.prompts} prompts)"
        )
        requirement = Requirement(text=deciding.require, shown=shown, why=why)
    return ComparisonRecord(
        kind="stream", models=(stream.a, stream.b), stream=stream, requirement=requirement
    )


def compare_annotations(
    files: Sequence[Path],
    deciding: Deciding,
    *,
    difficulty: Path | None = None,
    gamed: Path | None = None,
    prompts: Path | None = None,
) -> ComparisonRecord:
    """Compare models by ready-made annotations against one baseline, on the prompts they share.

    `prompts` numbers the prompts of files that carry no index: see `read_annotations`.

    Raises:
        DataError: a file is not readable, or the gate names a model that is in none of them.

    """
    read = merged([read_annotations(path, prompts) for path in files])
    table = None if difficulty is None else read_difficulty(difficulty, read)
    held = None if gamed is None else read_gamed(gamed, read, table)
    if gamed is not None and table is None:
        raise UsageError("--gamed needs --difficulty: the two tables belong together")
    rates = win_rates(read, difficulty=table, gamed=held, draws=deciding.draws, seed=deciding.seed)
    pairs = list(combinations(read.models, 2)) if len(read.models) <= MOST_DIFFERENCES else []
    wanted = None
    if deciding.require is not None:
        wanted = judging.parse_requirement(deciding.require, read.models)
        if wanted not in pairs and wanted[::-1] not in pairs:
            pairs.append(wanted)
    differences = [
        gap
        for a, b in pairs
        for gap in (paired_difference(read, a, b, seed=deciding.seed), *_lc_difference(rates, a, b))
    ]
    requirement = None
    if wanted is not None and deciding.require is not None:
        gaps = [g for g in differences if {g.a, g.b} == set(wanted) and g.kind == deciding.by]
        if not gaps:
            raise DataError(f"--require {deciding.require!r}: no length-controlled rate for one of the two")
        shown, why = _difference_shown(gaps[0], *wanted)
        requirement = Requirement(text=deciding.require, shown=shown, why=why)
    return ComparisonRecord(
        kind="annotations",
        models=read.models,
        rates=rates.models,
        differences=tuple(differences),
        requirement=requirement,
        sources=tuple(str(path) for path in files),
    )
