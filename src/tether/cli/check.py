"""`tether check`: what a data file holds, what would be left out and why, before any model loads."""

import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tether.cli.output import console, print_json, print_table
from tether.data.checks import Loaded, load
from tether.data.formats import FORMATS
from tether.data.report import DataReport
from tether.records.results import Finding

WIDTH = 80


def check(
    data: list[str],
    /,
    *,
    eval_data: Annotated[list[str] | None, Parameter(negative="")] = None,
    task: Literal["any", "preference", "sft", "unpaired", "list"] = "any",
    ties: Literal["drop", "soft"] = "drop",
    model: str | None = None,
    max_length: int = 1024,
    truncation_mode: Literal["keep_start", "keep_end", "drop"] = "keep_start",
    score_turns: Literal["last", "all"] = "last",
    list_rows: int = 5,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int | None:
    """Inspect preference data before any model loads.

    Parameters
    ----------
    data
        Files, folders or patterns: JSONL, JSON, CSV, TSV (.gz too), Parquet.
    eval_data
        Held-out rows; rows and prompts they share with the training rows are listed.
    task
        What the rows are for: preference needs pairs, sft one answer, unpaired marked answers,
        list rankings; any keeps rows as they are.
    ties
        Pairs with equal scores: drop them, or keep them at probability one half (soft).
    model
        Model (folder or hub name) whose tokenizer also inspects the rows: lengths, truncation, control
        tokens.
    max_length
        Tokens of prompt and completion together that training would keep (with --model).
    truncation_mode
        Side that is kept beyond max_length, or drop (with --model).
    score_turns
        Which assistant turns of an answer training would score (with --model).
    list_rows
        Rows named per finding; --json names them all.
    as_json
        Print one JSON document instead of tables.
    quiet
        Print only what is left out or warned about.

    """
    loaded = load(data, eval_spec=eval_data, task=task, ties=ties)
    tokens = None
    if model is not None:
        tokens = _tokens(loaded, model, max_length, truncation_mode, score_turns)
    if as_json:
        print_json({**loaded.report.model_dump(mode="json"), "tokens": tokens})
    else:
        _print(loaded.report, tokens, list_rows, quiet)
    loaded.require_rows()
    return None


def _tokens(
    loaded: Loaded,
    model: str,
    max_length: int,
    mode: Literal["keep_start", "keep_end", "drop"],
    score_turns: Literal["last", "all"],
) -> dict[str, Any]:
    # Only with --model: the plain check must not pay for a tokenizer library.
    from tether.tokens.inspect import inspect_tokens

    rows = [*loaded.rows, *loaded.eval_rows]
    report = inspect_tokens(rows, model, max_length=max_length, truncation_mode=mode, score_turns=score_turns)
    return report.model_dump(mode="json")


def _print(report: DataReport, tokens: dict[str, Any] | None, list_rows: int, quiet: bool) -> None:
    if not quiet:
        _print_files(report)
        _print_lengths(report, tokens)
    findings = [*report.findings, *(Finding.model_validate(f) for f in (tokens or {}).get("findings", ()))]
    shown = [f for f in findings if not quiet or f.severity != "note"]
    for finding in shown:
        _print_finding(finding, list_rows)
    if not quiet and not shown:
        _line("Nothing odd was found.")


def _line(text: str = "") -> None:
    # Column names and row values come from the file: control characters must not reach the terminal.
    console().print("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def _print_files(report: DataReport) -> None:
    described = {format_.name: format_.description for format_ in FORMATS}
    for file in report.files:
        rows = f"{file.read:,} rows, {file.used:,} used"
        _line(f"{file.path}  ({file.split})" if report.eval_read else file.path)
        _wrapped(f"{rows}; format {file.format}: {described.get(file.format, 'no readable row')}", "  ")
        if file.ignored_columns:
            _wrapped(f"columns not used: {', '.join(file.ignored_columns)}", "  ")
    _line()


def _print_lengths(report: DataReport, tokens: dict[str, Any] | None) -> None:
    numbers = report.numbers
    parts = [key.removesuffix("_characters_mean") for key in numbers if key.endswith("_characters_mean")]
    rows: list[Sequence[object]] = [
        (
            f"{part}, characters",
            *(round(numbers[f"{part}_characters_{what}"]) for what in ("mean", "median", "max")),
        )
        for part in parts
    ]
    for part in ("prompt", "completion"):
        lengths = (tokens or {}).get(f"{part}_tokens")
        if lengths:
            rows.append((f"{part}, tokens", *(round(lengths[what]) for what in ("mean", "median", "max"))))
    if rows:
        print_table("", ("length", "mean", "median", "longest"), rows)
    if "chosen_longer_share" in numbers:
        _line(f"chosen is the longer answer in {100 * numbers['chosen_longer_share']:.1f} % of the pairs")
    _line()


def _print_finding(finding: Finding, list_rows: int) -> None:
    what = {"dropped": "left out", "warning": "warning", "note": "note"}[finding.severity]
    _wrapped(f"{what}: {finding.count:,} x {finding.kind}: {finding.text}", "")
    rows, details = finding.rows[:list_rows], finding.details[:list_rows]
    more = f" and {finding.count - len(rows):,} more (--json lists all)" if finding.count > len(rows) else ""
    if details:
        for row, detail in zip(rows, details, strict=True):
            _wrapped(f"{row}: {detail}", "  ")
        if more:
            _line(f"  {more.strip()}")
    elif rows:
        _wrapped(", ".join(rows) + more, "  ")


def _wrapped(text: str, indent: str) -> None:
    _line(
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    )
