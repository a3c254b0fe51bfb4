"""docs/results.md: every claim in every world, the curves behind them, ways of choosing, what it took."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.claims import CLAIMS, Row, Table, mean
from studies.objectives import objectives
from studies.pictures import write_pictures
from studies.regrets import choosing, prose
from tether.records.results import read_lines, write_text


def write_page(path: Path, plans: Sequence[Mapping[str, Any]], out: Path, *, command: str) -> None:
    """Write the page, and its pictures into a folder of its name beside it."""
    write_text(path, page(plans, out, path.with_suffix(""), command=command))


def page(plans: Sequence[Mapping[str, Any]], out: Path, pictures: Path, *, command: str) -> str:
    """Return the page's text; pictures of worlds that were run are written."""
    parts = [prose("preface").format(command=command)]
    there: dict[str, Table] = {}
    for plan in plans:
        found = {name: read_table(out / name, plan["studies"]) for name in plan["worlds"]}
        own = {name: table for name, table in found.items() if table is not None}
        if own:
            parts.append(_claims(plan, own))
            there |= own
    parts.append(objectives(there))
    parts.append(choosing(plans, there))
    parts.append(_varied(there))
    for name, table in there.items():
        parts.append(_curves(name, table, write_pictures(pictures, name, table)))
    parts += [_cost(there), prose("honest")]
    return "\n".join(part for part in parts if part)


def _claims(plan: Mapping[str, Any], there: Mapping[str, Table]) -> str:
    seeds = len(plan["seeds"])
    lines = [f"## {', '.join(there)}\n", f"{seeds} seed{'s' if seeds > 1 else ''} each.\n"]
    lines.append(f"| claim | {' | '.join(there)} |\n|---|{'---|' * len(there)}")
    for claim in plan["claims"]:
        cells = [_told(claim["id"], table, seeds) for table in there.values()]
        lines.append(f"| {claim['says']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _varied(there: Mapping[str, Table]) -> str:
    """Say whether the best beta stays where the learning rate and the number of pairs change."""
    lines: list[str] = []
    for name, table in there.items():
        if "varied" not in {row["study"] for row in table.rows}:
            continue
        arms: dict[tuple[float, float], dict[float, Row]] = {}
        for row in table.rows:
            if row["study"] in ("tight", "varied") and row.get("seed") == 0:
                arms.setdefault((row["learning_rate"], row["data_fraction"]), {})[row["beta"]] = row
        for (rate, share), rows in sorted(arms.items()):
            told = ", ".join(f"{b:g}: {rows[b]['reward']:.2f}" for b in sorted(rows, reverse=True))
            best = max(rows, key=lambda b: rows[b]["reward"])
            lines.append(f"| {name} | {rate:g} | {share:g} | {best:g} | {told} |")
    if not lines:
        return ""
    return (
        "## Another learning rate, fewer pairs (first seed)\n\n"
        "| world | learning rate | share of the pairs | best beta | reward by beta |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


def read_table(place: Path, studies: Collection[str]) -> Table | None:
    """Read a world's rows; None where nothing was run."""
    rows = [row for study in studies for row in read_lines(place / study / "rows.jsonl")]
    chosen = [row for study in studies for row in read_lines(place / study / "choices.jsonl")]
    optimum = read_lines(place / "tight" / "shared" / "optimum.jsonl")
    return Table(tuple(rows), tuple(chosen), tuple(optimum)) if rows else None


def _told(claim: str, table: Table, seeds: int) -> str:
    """Say what became of a claim, and on how many seeds where some are missing."""
    try:
        found = CLAIMS[claim](table)
    except (KeyError, ValueError, StopIteration, ZeroDivisionError):
        return "not run"
    fewer = f"{found.seeds} of {seeds} seeds" if found.seeds < seeds else ""
    return "; ".join(
        part for part in (f"**{found.verdict}** {found.number}".rstrip(), found.words, fewer) if part
    )


def _curves(name: str, table: Table, pictures: Sequence[tuple[str, str]]) -> str:
    start = table.start()
    lines = [
        f"### {name}\n",
        f"Start model: reward {start['reward']:.2f}, {start['tokens']:.1f} tokens.{_references(table)}\n",
        *(f"![{name}: {told}](results/{file})\n" for file, told in pictures),
        "| study | arm | beta | reward | KL | tokens | fluent | policy accuracy | degenerate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    arms: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        if "seed" in row and row["study"] != "varied":
            arms.setdefault((row["study"], row["loss_type"], row["reference"], row["beta"]), []).append(row)
    for (study, loss, reference, beta), rows in sorted(arms.items(), key=lambda i: str(i[0])):
        means = {k: _average(rows, k) for k in ("reward", "kl", "tokens", "fluent", "policy_accuracy")}
        broken = sum(bool(row["degenerate"]) for row in rows)
        shown = [f"{means[k]:.2f}" if means[k] is not None else "-" for k in means]
        strength = "-" if beta is None else f"{beta:g}"
        lines.append(
            f"| {study} | {loss}, {reference} | {strength} | {' | '.join(shown)} | {broken} of {len(rows)} |"
        )
    return "\n".join(lines) + "\n"


def _references(table: Table) -> str:
    """Say how strong the other references are: the premise of the third question."""
    found: dict[str, Row] = {}
    for row in table.rows:
        found |= row.get("stronger", {})
    told = [
        f"{name} {row['reward']:.2f} (KL from start {row['kl']:.1f}, to start {row['kl_back']:.1f})"
        for name, row in found.items()
    ]
    return f" Other references, reward: {', '.join(told)}." if told else ""


def _average(rows: Sequence[Row], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return mean(known) if known else None


def _cost(there: Mapping[str, Table]) -> str:
    lines: list[str] = []
    for name, table in there.items():
        spent = {row["study"]: row["processor_seconds"] for row in table.rows if "processor_seconds" in row}
        cells = {study: sum(r["study"] == study and "seed" in r for r in table.rows) for study in spent}
        told = ", ".join(f"{study} {s:.0f} ({cells[study]} cells)" for study, s in spent.items())
        lines.append(f"| {name} | {sum(spent.values()):.0f} | {told} |")
    return (
        "## What it took\n\nProcessor seconds, all of a study's work counted: world, references, cells, "
        "halves, measuring; of a study that was stopped, only what came after.\n\n"
        "| world | all | by study |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )
