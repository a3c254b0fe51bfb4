"""The page of a comparison: one self-contained HTML file with a browser of the answers."""

from collections.abc import Sequence
from pathlib import Path

import tether
from tether.records.comparison import ComparisonRecord, Verdict
from tether.records.results import write_text
from tether.reports.compare_parts import (
    agreement_table,
    difference_bars,
    judged_pairs,
    pair_bars,
    rate_table,
    rating_bars,
)
from tether.reports.compare_words import said, tiles, warnings
from tether.reports.page import render
from tether.reports.tables import count

NAMED = 4
"""Most models that the top of a page names."""


def write_comparison(
    record: ComparisonRecord,
    verdicts: Sequence[Verdict],
    surprises: Sequence[float | None],
    page: Path,
) -> Path:
    """Write the page of a comparison; `surprises` are bits per verdict, None without one.

    The page works without its script; with it, keys move between the answers and sort them.
    """
    groups = list(dict.fromkeys((v.model_a, v.model_b, v.judge) for v in verdicts))
    known = [(one.a, one.b, one.judge) for one in record.comparisons]
    groups = known + [g for g in groups if g not in known and (g[1], g[0], g[2]) not in known]
    spoken, annotated = said(record), record.kind == "annotations"
    text = render(
        "compare.html.jinja",
        styles=["compare.css"],
        script="compare.js" if verdicts else "",
        title=spoken.headline,
        record=record,
        said=spoken,
        tiles=tiles(record),
        warnings=warnings(record),
        bars=[
            (f"{one.a} and {one.b}", one.judge, pair_bars(one, _of(verdicts, one.a, one.b, one.judge)))
            for one in record.comparisons
        ],
        ratings=rating_bars(record),
        differences=difference_bars(record),
        rates=rate_table(record),
        agreement=agreement_table(record),
        pairs=judged_pairs(verdicts, surprises, groups, ordered=not annotated),
        annotated=annotated,
        groups=groups,
        names=_names(record, groups),
        total=len(verdicts),
        facts=_facts(record),
        version=tether.__version__,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    return page


def _names(record: ComparisonRecord, groups: Sequence[tuple[str, str, str]]) -> Sequence[str]:
    if len(groups) == 1:
        return groups[0][:2]
    return record.models if len(record.models) <= NAMED else [f"{len(record.models)} models"]


def _facts(record: ComparisonRecord) -> list[tuple[str, str]]:
    facts = [("compared", ", ".join(record.sources))]
    facts += [(name, path) for name, path in record.files.items() if name != "page"]
    for one in record.comparisons:
        pair = f"{one.a} and {one.b}, {one.judge}"
        facts.append(
            (pair, f"{count(one.prompts)} prompts, {count(one.pairs)} pairs, {count(one.failed)} without")
        )
    facts += [
        (f"without a verdict: {reason}", f"{count(n)} questions") for reason, n in record.errors.items()
    ]
    return facts


def _of(verdicts: Sequence[Verdict], a: str, b: str, judge: str) -> list[Verdict]:
    """Return one pair's verdicts, turned where they were judged the other way round."""
    found = [v.turned() if (v.model_a, v.model_b) == (b, a) else v for v in verdicts if v.judge == judge]
    return [v for v in found if (v.model_a, v.model_b) == (a, b)]
