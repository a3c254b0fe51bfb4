"""How tight? The settings not distinguishable from the best, and the tightest that is good enough.

The rule, fixed before any data: leave out settings with a degeneration flag; take the model confidence set of
the rest together with the start model; if the start model is in it, recommend none; else recommend, of those
in the set whose gain is distinguishable from 0, the largest beta within one standard error of their best
gain. It sees the judge's scores only.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tether.analysis.selection import (
    ConfidenceSet,
    Differences,
    model_confidence_set,
    seed_variances,
    simultaneous_differences,
    tightest_within_one_se,
)
from tether.records.findings import Answer, DialCost, Estimate, Regret, Setting, Tight
from tether.reports.tables import brief, count, with_error
from tether.study.board import POWER, Array, Board, Dialled, Index, standard_error, tightness
from tether.study.estimates import of_difference
from tether.study.words import among, interval_text, models, named, seeds_text

CLAIM = "Training at a strength tried here makes the model better than the start model."
MOST_PROMPTS = 1_000_000
"""Numbers of prompts beyond this are not worth a number."""


@dataclass(frozen=True)
class _Picked:
    """Rows of a board the rule looked at and what it found; indices below are into `rows`."""

    rows: list[int]
    """The start model (0), then every sound setting."""
    found: ConfidenceSet
    against_start: Differences
    """Of rows[1:] less the start."""
    chosen: int | None
    sure: int | None
    """The best of those in the set whose own gain is distinguishable from 0."""

    @property
    def looking(self) -> int:
        """Place of the best-looking setting; the start model does not count."""
        means = self.found.means
        return max(range(1, len(means)), key=lambda place: means[place])


def how_tight(board: Board, arm: str, *, alpha: float = 0.05, seed: int = 0) -> Tight:
    """Answer how tight for one arm of a board; `alpha` is the chance of a false `supported`."""
    mine = board.only(lambda setting: setting.arm == arm)
    rows = [0, *mine.rows(lambda _: True)]
    if len(rows) == 1:
        return _all_degenerate(mine, arm)
    picked = _pick(mine, rows, alpha, seed)
    chosen = picked.chosen
    answer = _answer(mine, arm, picked, alpha)
    return Tight(
        arm=arm,
        answer=answer,
        recommended=None if chosen is None else mine.name(rows[chosen]),
        best_looking=mine.name(rows[picked.looking]),
        set=tuple(mine.name(rows[place]) for place in picked.found.members),
        p_values={mine.name(row): p for row, p in zip(rows, picked.found.p_values, strict=True)},
        gains={
            mine.name(row): of_difference(picked.against_start, place, mine.n)
            for place, row in enumerate(rows[1:])
        },
        prompts_needed=None if answer.verdict == "supported" else _needed(mine, picked),
        smallest_visible=_visible(mine, picked),
        dial=None if chosen is None else dial_cost(mine, board.dialled, rows[chosen], seed=seed),
        regret=None if chosen is None else regret_of(mine, rows[chosen]),
    )


def _pick(board: Board, rows: list[int], alpha: float, seed: int) -> _Picked:
    gains = board.gains[rows]
    found = model_confidence_set(gains, alpha=alpha, draws=board.draws, seed=seed)
    places = list(range(1, len(rows)))
    against = simultaneous_differences(
        gains, places, [0] * len(places), level=1 - alpha, draws=board.draws, seed=seed
    )
    if 0 in found.members:
        return _Picked(rows, found, against, None, None)
    order = tightness([board.setting(row) for row in rows[1:]])
    good = {place for place in found.members if against.low[place - 1] > 0}
    chosen = tightest_within_one_se(found, [0.0, *order], good) if good else None
    sure = max(good, key=lambda place: found.means[place], default=None)
    return _Picked(rows, found, against, chosen, sure)


def _answer(board: Board, arm: str, picked: _Picked, alpha: float) -> Answer:
    found, chosen = picked.found, picked.chosen
    members = tuple(sorted(found.members))
    place = picked.looking if chosen is None else chosen
    estimate = of_difference(picked.against_start, place - 1, board.n)
    looking = board.name(picked.rows[picked.looking])
    others = [board.name(picked.rows[m]) for m in members if m != 0]
    if chosen is not None:
        verdict = "supported"
        sentence = _recommendation(board, picked, chosen, looking, estimate, others)
    elif members == (0,):
        verdict = "contradicted"
        sentence = (
            f"No {arm} setting tried here is as good as the start model: each is distinguishably worse. "
            f"The best of them, {looking}, lost {interval_text(estimate, lost=True)}."
        )
    else:
        verdict = "not distinguishable"
        sentence = (
            f"No recommendation for {arm}: the start model is not distinguishable from the best setting. "
            f"{named(looking, capital=True)} looks best with a gain of {interval_text(estimate)}."
        )
    notes = _notes(board, picked, chosen)
    return Answer(
        question="how tight",
        claim=CLAIM,
        verdict=verdict,
        sentence=sentence,
        notes=tuple(notes),
        n=board.n,
        seeds=len(board.seeds),
        interval=estimate,
    )


def _recommendation(
    board: Board, picked: _Picked, chosen: int, looking: str, estimate: Estimate, others: list[str]
) -> str:
    row = picked.rows[chosen]
    name = board.name(row)
    kl = with_error(float(board.kl[row].mean()), standard_error(board.kl[row]))
    subject = f"Use {name}" if board.several_seeds else f"{board.words.take} {name}"
    if chosen == picked.looking:
        best = "It looks best, and no tighter one is within one standard error of it."
    elif picked.sure == picked.looking:
        best = f"It is the tightest within one standard error of {looking}, which looks best."
    else:
        best = f"{named(looking, capital=True)} looks best, but its own gain is not distinguishable from 0."
    return f"{subject}: it gains {interval_text(estimate)} for {kl} nats of KL. {best} {among(others, name)}"


def _notes(board: Board, picked: _Picked, chosen: int | None) -> list[str]:
    notes: list[str] = []
    if not board.several_seeds:
        trained = board.words.trained or len(picked.rows) - 1
        notes.append(
            f"One seed ({board.seeds[0]}): this is about {models(trained)}, not about β. "
            f"Another seed may order the settings otherwise; {board.words.seeds}."
        )
    if chosen is None and 0 in picked.found.members:
        notes.append(_what_would_help(board, picked))
    end = _at_an_end(board, picked)
    if end:
        notes.append(end)
    flagged = [
        f"{setting.name} ({'; '.join(reasons)})"
        for setting, reasons in zip(board.settings, board.degenerate, strict=True)
        if reasons
    ]
    if flagged:
        notes.append(f"Left out as degenerate: {', '.join(flagged)}.")
    return notes


def _at_an_end(board: Board, picked: _Picked) -> str:
    """Say that the best-looking strength is the last tried on its side, or the last sound one."""
    betas = [board.setting(row).beta for row in picked.rows[1:]]
    tried = sorted({beta for beta in betas if beta is not None})
    best = betas[picked.looking - 1]
    if best is None or len(tried) < 2 or best not in (tried[0], tried[-1]):
        return ""
    if picked.found.means[picked.looking] <= 0:
        return ""
    loosest = best == tried[0]
    flagged = [s.beta for s, why in zip(board.settings, board.degenerate, strict=True) if why and s.beta]
    beyond = [beta for beta in flagged if (beta < best if loosest else beta > best)]
    side, nearer = ("loosest", "smaller") if loosest else ("tightest", "larger")
    if beyond:
        nearest = max(beyond) if loosest else min(beyond)
        return (
            f"β {best:g} is the {side} that is not degenerate: the best may lie between it and β "
            f"{nearest:g}, {board.words.strengths}."
        )
    return f"β {best:g} is the {side} tried: the best may lie at a {nearer} β, {board.words.strengths}."


def _what_would_help(board: Board, picked: _Picked) -> str:
    needed, visible = _needed(board, picked), _visible(board, picked)
    gain = picked.found.means[picked.looking]
    size = f"{count(board.n)} prompts and {seeds_text(len(board.seeds))}"
    shown = f"With {size} gains above {brief(visible)} would be seen"
    if gain <= 0:
        return f"{shown}; none looks better than the start. More pairs may help, more prompts will not."
    if needed is None:
        return (
            f"{shown}. The seeds differ too much for prompts to settle it: more seeds, or more pairs, would."
        )
    size = f"more than {count(MOST_PROMPTS)}" if needed > MOST_PROMPTS else f"about {count(needed)}"
    return (
        f"{shown}. Were {brief(gain)} the true gain, {size} prompts would be needed to see it (power 80 %); "
        f"at this number of prompts the gain would have to be {brief(visible / gain)} times as large, by "
        "more or cleaner pairs."
    )


def _needed(board: Board, picked: _Picked) -> int | None:
    """Prompts that tell the best-looking gain from 0 with power 80 %, the seeds as they are."""
    table = board.gains[picked.rows[picked.looking]]
    gain = float(table.mean())
    if gain <= 0:
        return None
    reach = picked.found.critical + float(stats.norm.ppf(POWER))
    error = float(picked.against_start.standard_errors[picked.looking - 1])
    lasting = float(seed_variances(board.gains[picked.rows])[0][picked.looking])
    left = (gain / reach) ** 2 - lasting
    by_prompt = (error**2 - lasting) * board.n
    return None if left <= 0 else math.ceil(min(by_prompt / left, 100 * MOST_PROMPTS))


def _visible(board: Board, picked: _Picked) -> float:
    """Gain of the best-looking setting that would be told from 0 with power 80 %."""
    found, place = picked.against_start, picked.looking - 1
    return float((picked.found.critical + stats.norm.ppf(POWER)) * found.standard_errors[place])


def _all_degenerate(board: Board, arm: str) -> Tight:
    reasons = "; ".join(
        f"{s.name}: {', '.join(r)}" for s, r in zip(board.settings, board.degenerate, strict=True)
    )
    sentence = f"No recommendation for {arm}: every setting is degenerate ({reasons})."
    answer = Answer(
        question="how tight",
        claim=CLAIM,
        verdict="not distinguishable",
        sentence=sentence,
        notes=("Try larger values of β.",),
        n=board.n,
        seeds=len(board.seeds),
    )
    return Tight(arm=arm, answer=answer)


def regret_of(board: Board, row: int) -> Regret | None:
    """Return what choosing this row cost in gold reward, where a world gives one; degenerate rows may win."""
    if board.gold is None:
        return None
    best = int(board.gold[1:].argmax()) + 1
    start, chosen, top = (float(board.gold[r]) for r in (0, row, best))
    gain = top - start
    return Regret(
        evaluator=board.gold_name,
        chosen=chosen,
        best=top,
        best_setting=board.name(best),
        start=start,
        regret=top - chosen,
        share=(top - chosen) / gain if gain > 0 else None,
    )


def dial_cost(board: Board, dialled: tuple[Dialled, ...], row: int, *, seed: int) -> DialCost | None:
    """Return what dialling one model instead of training the chosen one gives at the same KL.

    Of the models that were dialled the one nearest above the chosen beta is taken; its scores are
    interpolated linearly in KL between two measured dial values. Each resampling of prompts does it anew;
    what seeds add to the one dialled and to the mean of those trained is added where there are several.
    """
    if not dialled:
        return None
    own = board.setting(row)
    source = min({point.cell: point.setting for point in dialled}.items(), key=lambda c: _far(c[1], own))
    points = sorted((p for p in dialled if p.cell == source[0]), key=lambda p: float(p.kl.mean()))
    table = np.stack([p.scores for p in points]), np.stack([p.kl for p in points])
    target_kl, target = board.kl[row].mean(axis=0), board.scores[row].mean(axis=0)
    if not points or not table[1].mean(axis=1)[0] <= target_kl.mean() <= table[1].mean(axis=1)[-1]:
        return None
    generator = np.random.default_rng([seed, 3])
    index = generator.integers(0, board.n, size=(board.draws, board.n))
    draws = np.array([_dialled_gap(table, target, target_kl, rows) for rows in index])
    draws += _luck(board, row, source[1]) * generator.standard_normal(board.draws)
    whole = np.arange(board.n)
    gap = _dialled_gap(table, target, target_kl, whole)
    se = float(draws.std(ddof=1))
    low, high = (float(q) for q in np.quantile(draws, (0.025, 0.975)))
    kls = table[1].mean(axis=1)
    kl = float(target_kl.mean())
    return DialCost(
        source=source[0],
        dial=float(np.interp(kl, kls, [p.dial for p in points])),
        kl=kl,
        score=float(np.interp(kl, kls, table[0].mean(axis=1))),
        difference=Estimate(estimate=gap, low=low, high=high, se=se, n=board.n, level=0.95),
    )


def _luck(board: Board, row: int, dialled: Setting) -> float:
    """Return the sd that seeds give one dialled model less the mean of a row's models."""
    lasting, _ = seed_variances(board.scores)
    source = board.settings.index(dialled) + 1 if dialled in board.settings else row
    return float(np.sqrt(lasting[row] + lasting[source] * len(board.seeds)))


def _far(setting: Setting, own: Setting) -> tuple[bool, bool, float]:
    mine, other = own.beta or 1.0, setting.beta or 1.0
    return setting.arm != own.arm, other < mine, abs(math.log(other / mine))


def _dialled_gap(table: tuple[Array, Array], target: Array, target_kl: Array, rows: Index) -> float:
    scores, kl = table[0][:, rows].mean(axis=1), table[1][:, rows].mean(axis=1)
    return float(np.interp(target_kl[rows].mean(), kl, scores) - target[rows].mean())
