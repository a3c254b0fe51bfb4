"""Parts of the page of a comparison: bars of intervals, tables, and pairs of answers to browse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from tether.analysis.stats import mean_interval
from tether.records.comparison import Comparison, ComparisonRecord, Estimate, Verdict
from tether.reports.tables import Table, count, number
from tether.reports.verbatim import Turn, compared, turns

PAIRS = 200
"""Most pairs of answers a page shows: the first of the file, and the most surprising."""
SURPRISING = 30
"""Pairs that count as surprising, most surprising first."""
PAIR_TEXT = 3_000_000
"""Most characters of HTML the pairs of a page take, so that it opens at once."""
FIRST = 8
"""Pairs shown before a reader asks for more."""
LENGTH_ROWS = ((60, 5), (24, 3))
"""From so many pairs on, the verdicts are shown by this many stretches of the difference in length."""


@dataclass(frozen=True)
class Bar:
    """A number with its interval, drawn: places are percent of the bar's width."""

    label: str
    value: str
    reach: str
    at: float
    low: float | None
    high: float | None
    middle: float
    """Where no difference lies."""
    strong: bool = False


@dataclass(frozen=True)
class JudgedPair:
    """Two answers as the page shows them, and what the judge said in both orders."""

    models: str
    """Number of the pair of models and judge, as the page's list of them has it."""
    a: str
    b: str
    judge: str
    prompt: list[Turn]
    answer_a: Markup
    answer_b: Markup
    chars_a: str
    chars_b: str
    share: str
    orders: str
    """What was said in which order of showing; empty where that is not known."""
    winner: str
    """a, b, even or none."""
    flips: bool
    surprise: str
    bits: float
    odd: bool
    late: bool
    errors: str


def share_bar(label: str, estimate: Estimate, *, strong: bool = False) -> Bar:
    """Return the bar of a share in percent; the middle is 50."""
    return Bar(
        label=label,
        value=f"{number(estimate.value, 1)} %",
        reach=_reach(estimate.low, estimate.high, 1),
        at=estimate.value,
        low=estimate.low,
        high=estimate.high,
        middle=50.0,
        strong=strong,
    )


def scaled_bar(
    label: str, value: float, low: float | None, high: float | None, widest: float, *, decimals: int = 1
) -> Bar:
    """Return the bar of a signed number; `widest` is the largest that has a place, 0 the middle."""

    def place(number: float) -> float:
        return 50 + 48 * number / widest

    return Bar(
        label=label,
        value=number(value, decimals, signed=True),
        reach=_reach(low, high, decimals),
        at=place(value),
        low=None if low is None else place(low),
        high=None if high is None else place(high),
        middle=50.0,
    )


def _reach(low: float | None, high: float | None, decimals: int) -> str:
    return "–" if low is None or high is None else f"{number(low, decimals)} to {number(high, decimals)}"


def pair_bars(one: Comparison, verdicts: Sequence[Verdict]) -> list[Bar]:
    """Return what is known of one pair: win rate, at equal length, by place, by difference in length."""
    bars = [share_bar(f"{one.a} wins", one.win_rate, strong=True)]
    if one.lc_win_rate is not None:
        bars.append(share_bar("at equal length", one.lc_win_rate))
    judged = [v for v in verdicts if v.share is not None]
    if all(v.orders == 2 for v in judged):
        bars += [
            _mean_bar(f"{one.a} shown first", [v.a_first for v in judged], judged),
            _mean_bar(f"{one.b} shown first", [v.b_first for v in judged], judged),
        ]
    return bars + _length_bars(judged)


def _mean_bar(label: str, shares: Sequence[float | None], verdicts: Sequence[Verdict]) -> Bar:
    values = 100 * np.array(shares, dtype=np.float64)
    found = mean_interval(values, clusters=[v.id for v in verdicts], bounds=(0, 100))
    known = found.n > 1
    estimate = Estimate(
        value=found.estimate,
        low=found.low if known else None,
        high=found.high if known else None,
        se=found.se if known else None,
    )
    return share_bar(label, estimate)


def _length_bars(verdicts: Sequence[Verdict]) -> list[Bar]:
    """Return the share A wins by how much longer its answers are, in stretches of equal count."""
    parts = next((parts for least, parts in LENGTH_ROWS if len(verdicts) >= least), 0)
    longer = np.array([len(v.answer_a) - len(v.answer_b) for v in verdicts])
    if parts == 0 or longer.min() == longer.max():
        return []
    groups = np.array_split(np.argsort(longer, kind="stable"), parts)
    bars: list[Bar] = []
    for group in groups:
        label = _longer(verdicts[0].model_a, int(longer[group].min()), int(longer[group].max()))
        part = [verdicts[i] for i in group]
        bars.append(_mean_bar(label, [v.share for v in part], part))
    return bars


def _longer(name: str, low: int, high: int) -> str:
    if high < 0:
        return f"{name} {number(-high, 0)} to {number(-low, 0)} characters shorter"
    return f"{name} {number(low, 0)} to {number(high, 0)} characters longer"


def difference_bars(record: ComparisonRecord) -> list[Bar]:
    """Return the paired differences through a common opponent, in points."""
    gaps = record.differences
    if not gaps:
        return []
    widest = max(max(abs(end) for end in gap.interval) for gap in gaps) or 1.0
    bars: list[Bar] = []
    for gap in gaps:
        rate = " (at equal length)" if gap.kind == "lc_win_rate" else ""
        against = f" against {gap.against}" if gap.against else ""
        bars.append(scaled_bar(f"{gap.a} − {gap.b}{against}{rate}", gap.difference, *gap.interval, widest))
    return bars


def rating_bars(record: ComparisonRecord) -> list[Bar]:
    """Return the Bradley-Terry ratings, in logits."""
    ends = [
        abs(end)
        for r in record.ratings
        for end in (r.rating.low, r.rating.high, r.rating.value)
        if end is not None
    ]
    widest = max(ends, default=1.0) or 1.0
    return [
        scaled_bar(r.model, r.rating.value, r.rating.low, r.rating.high, widest, decimals=2)
        for r in record.ratings
    ]


def rate_table(record: ComparisonRecord) -> Table | None:
    """Return the models of annotations with both rates."""
    if not record.rates:
        return None
    rows = tuple(
        (
            entry.model + (" (made to game the judge)" if entry.apart else ""),
            *_rate(entry.win_rate, entry.win_rate_interval),
            *_rate(entry.lc_win_rate, entry.lc_win_rate_interval),
            count(entry.n),
            count(entry.missing),
            number(entry.mean_chars, 0),
        )
        for entry in sorted(record.rates, key=lambda entry: (entry.apart, -(entry.win_rate or 0.0)))
    )
    columns = ("model", "win rate %", "95 %", "at equal length %", "95 %", "prompts", "missing", "characters")
    return Table(columns, rows, frozenset({1, 3, 5, 6, 7}))


def _rate(value: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    return number(value, 1), "–" if interval is None else _reach(*interval, 1)


def agreement_table(record: ComparisonRecord) -> Table | None:
    """Return how far the judges agree."""
    rows = tuple(
        (one.first, one.second, count(one.pairs), f"{number(one.same, 0)} %", number(one.alpha, 2))
        for one in record.agreement
    )
    columns = ("judge", "judge", "pairs", "same winner", "Krippendorff's α")
    return Table(columns, rows, frozenset({2, 3, 4})) if rows else None


def judged_pairs(
    verdicts: Sequence[Verdict],
    surprises: Sequence[float | None],
    groups: Sequence[tuple[str, str, str]],
    *,
    ordered: bool = True,
) -> list[JudgedPair]:
    """Return the first pairs of the file and the most surprising ones, in the file's order.

    `ordered` says that the verdicts know which answer was shown first; ready-made annotations do not.
    """
    by_surprise = sorted(
        (i for i, bits in enumerate(surprises) if bits is not None), key=lambda i: -(surprises[i] or 0.0)
    )
    odd = set(by_surprise[:SURPRISING])
    chosen = set(range(min(PAIRS - len(odd), len(verdicts)))) | odd
    chosen |= set(list(i for i in range(len(verdicts)) if i not in chosen)[: PAIRS - len(chosen)])
    shown: list[JudgedPair] = []
    spent = 0
    for place in sorted(chosen):
        verdict, late = verdicts[place], len(shown) >= FIRST
        orders = _orders(verdict) if ordered else ""
        pair = _judged_pair(verdict, surprises[place], place in odd, groups, late=late, orders=orders)
        spent += len(pair.answer_a) + len(pair.answer_b) + sum(len(turn.text) for turn in pair.prompt)
        if spent > PAIR_TEXT and shown:
            break
        shown.append(pair)
    return shown


def _judged_pair(
    verdict: Verdict,
    bits: float | None,
    odd: bool,
    groups: Sequence[tuple[str, str, str]],
    *,
    late: bool,
    orders: str,
) -> JudgedPair:
    a, b = compared(verdict.answer_a, verdict.answer_b)
    share = verdict.share
    winner = "none" if share is None else "even" if share == 0.5 else "a" if share > 0.5 else "b"
    key = verdict.model_a, verdict.model_b, verdict.judge
    turned = verdict.model_b, verdict.model_a, verdict.judge
    return JudgedPair(
        models=str(groups.index(key) if key in groups else groups.index(turned)),
        a=verdict.model_a,
        b=verdict.model_b,
        judge=verdict.judge,
        prompt=turns(verdict.prompt),
        answer_a=a,
        answer_b=b,
        chars_a=count(len(verdict.answer_a)),
        chars_b=count(len(verdict.answer_b)),
        share=_percent(share),
        orders=orders,
        winner=winner,
        flips=verdict.inconsistent,
        surprise="" if bits is None else f"{number(bits, 1)} bits",
        bits=bits or 0.0,
        odd=odd,
        late=late,
        errors="; ".join(verdict.errors),
    )


def _orders(verdict: Verdict) -> str:
    if verdict.orders == 1:
        if verdict.share is None:
            return ""
        return "shown first" if verdict.a_first is not None else "shown second"
    return f"{_percent(verdict.a_first)} shown first, {_percent(verdict.b_first)} shown second"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 0)} %"
