"""`tether compare`: which of several models is better, by how much, and how surely; usable as a gate."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tether.cli.judge import NO_PRICES, PLAINLY, tell, titled
from tether.cli.output import console, print_json, print_table
from tether.cli.progress import counting
from tether.cli.stopping import stoppable
from tether.errors import NotBetter
from tether.judging.options import Answering, Asking, Deciding, Prices, Tables

if TYPE_CHECKING:
    from tether.records.comparison import Comparison, ComparisonRecord, Estimate, PairedDifference, Stream

Flag = Annotated[bool, Parameter(negative=())]
KEPT = "stopped; what was answered and asked so far is kept, the same command goes on from there"
LOST = "stopped; nothing was kept, --out DIR would have kept it"
DECIDING, ANSWERING, NO_TABLES = Deciding(), Answering(), Tables()


def compare(
    sources: list[Path],
    /,
    *,
    judge: str | None = None,
    prompts: Path | None = None,
    out: Path | None = None,
    page: Path | None = None,
    stream: Flag = False,
    tables: Annotated[Tables, Parameter(name="*")] = NO_TABLES,
    deciding: Annotated[Deciding, Parameter(name="*")] = DECIDING,
    answering: Annotated[Answering, Parameter(name="*")] = ANSWERING,
    prices: Annotated[Prices, Parameter(name="*")] = NO_PRICES,
    asking: Annotated[Asking, Parameter(name="*")] = PLAINLY,
    overwrite: Flag = False,
    json: Flag = False,
    quiet: Flag = False,
) -> int:
    """Compare models: by their folders or answers and a judge, by verdicts, or by annotations.

    Parameters
    ----------
    sources
        Models (folders, hub names), answers (JSONL, JSON), verdicts, or annotations (JSON, Parquet).
    judge
        length, random, world:NAME, local:MODEL, reward:MODEL, server:URL#MODEL or alpacaeval:FOLDER@URL.
    prompts
        What models answer (rows, or a text file); for annotations, the benchmark's list in order.
    out
        Folder for answers, verdicts, comparison.json and comparison.html; a restart goes on from it.
    page
        HTML page to write [comparison.html in --out].
    stream
        Stop asking the judge when the answer is known (two models; valid at any look).
    tables
        AlpacaEval 2's tables.
    deciding
        What decides.
    answering
        How models answer.
    prices
        What tokens cost.
    asking
        How to ask.
    overwrite
        Let --out lose verdicts on other models or by another judge.
    json
        Print one JSON document instead of tables.
    quiet
        No progress and no notes.

    """
    from tether import api

    silent = quiet or json
    with stoppable(KEPT if out else LOST), counting("pairs", quiet=silent) as progress:
        record = api.compare(
            *sources,
            judge=judge,
            prompts=prompts,
            out=out,
            page=page,
            stream=stream,
            tables=tables,
            deciding=deciding,
            answering=answering,
            prices=prices,
            asking=asking,
            overwrite=overwrite,
            told=None if silent else tell,
            progress=progress,
            generated=None if silent else _answered,
        )
    if json:
        print_json(record)
    elif not quiet:
        show(record)
    if record.requirement is not None and not record.requirement.shown:
        raise NotBetter(record.requirement.why)
    return 0


def _answered(model: str, done: int, total: int) -> None:
    if done == total:
        console(stderr=True).print(f"{model}: {total} answers")


def show(record: "ComparisonRecord") -> None:
    """Print the comparison as tables that fit 80 columns."""
    rates = [
        (
            entry.model,
            _percent(entry.win_rate, entry.win_rate_interval),
            _percent(entry.lc_win_rate, entry.lc_win_rate_interval),
        )
        for entry in record.rates
    ]
    if rates:
        kind = "own prompts" if record.rates[0].lc_kind == "own-prompts" else "AlpacaEval 2"
        print_table("against the baseline", ["model", "win rate %", f"LC % ({kind})"], rates)
    if record.stream is not None:
        _show_stream(record.stream)
    for one in record.comparisons:
        _show_pair(one)
    _show_differences(record.differences)
    if record.ratings:
        rows = [(r.model, f"{r.rating.value:+.2f}", _reach(r.rating)) for r in record.ratings]
        print_table("Bradley-Terry rating (logits)", ["model", "rating", "95 %"], rows)
    if record.agreement:
        rows = [(a.first, a.second, f"{a.same:.0f} %", a.alpha) for a in record.agreement]
        print_table("agreement", ["judge", "judge ", "same", "alpha"], rows)
    if record.requirement is not None and record.requirement.shown:
        console().print(record.requirement.why)
    if "page" in record.files:
        console().print(f"page: {record.files['page']}")


def _show_stream(one: "Stream") -> None:
    rows = [
        ("win rate of A", f"{one.win_rate:.1f} %", f"{_span(one.interval)} at any look"),
        ("evidence against equality", f"e = {_evidence(one.e_value)}", "20 decides"),
        ("prompts asked", str(one.asked), f"of {one.prompts}, {one.failed} without a verdict"),
    ]
    print_table(titled(one.a, one.b, one.judge), ["", "value", "95 %"], rows)
    console().print("A and B are told apart.\n" if one.decided else "Not decided with these prompts.\n")


def _show_pair(one: "Comparison") -> None:
    controlled = one.lc_win_rate
    ties = f", {one.ties} ties left out" if one.test == "votes" and one.ties else ""
    rows = [
        ("win rate of A", f"{one.win_rate.value:.1f} %", _reach(one.win_rate)),
        (
            "at equal length (own prompts)",
            "-" if controlled is None else f"{controlled.value:.1f} %",
            one.lc_note if controlled is None else _reach(controlled),
        ),
        ("won by being shown first", f"{one.order_bias.value:+.1f} points", _reach(one.order_bias)),
        ("winner changes with the order", f"{one.inconsistent:.1f} %", f"of {one.pairs} pairs"),
        ("mean length A, B", f"{one.mean_chars_a:.0f}, {one.mean_chars_b:.0f}", "characters"),
        ("evidence at any look", f"e = {_evidence(one.e_value)}", f"{_span(one.sequence)}{ties}"),
        ("without a verdict", str(one.failed), "in no rate"),
    ]
    print_table(titled(one.a, one.b, one.judge), ["", "value", "95 % or unit"], rows)
    if one.distinguishable:
        console().print("A and B are told apart.\n")
    else:
        more = "" if one.prompts_needed is None else f" About {one.prompts_needed} prompts would be needed."
        console().print(f"Not distinguishable with {one.prompts} prompts.{more}\n")


def _show_differences(differences: Iterable["PairedDifference"]) -> None:
    rows = [
        (
            f"{gap.a} - {gap.b}",
            "LC" if gap.kind == "lc_win_rate" else "win rate",
            f"{gap.difference:+.2f}",
            f"{gap.interval[0]:+.1f} to {gap.interval[1]:+.1f}",
            "told apart" if gap.distinguishable else "not told apart",
            "-" if gap.prompts_needed is None else str(gap.prompts_needed),
        )
        for gap in differences
    ]
    if rows:
        columns = ["models", "rate", "points", "95 %", "", "needs"]
        print_table("paired differences against the same opponent", columns, rows)


def _evidence(e_value: float) -> str:
    return "above a million" if e_value >= 1e6 else f"{e_value:.0f}" if e_value >= 100 else f"{e_value:.3g}"


def _percent(value: float | None, interval: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{value:.2f}" + ("" if interval is None else f" ({_span(interval)})")


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _reach(estimate: "Estimate") -> str:
    return "-" if estimate.low is None or estimate.high is None else _span((estimate.low, estimate.high))
