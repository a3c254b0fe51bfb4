"""The page of a study: one self-contained HTML file, no script, no outside request, verdicts first."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tether import __version__
from tether.records.findings import Answer, Findings
from tether.records.results import Finding, write_text
from tether.reports.figures import write_figures
from tether.reports.knob import knob_text
from tether.reports.page import render
from tether.reports.sections import Tile, data_table, findings_table
from tether.reports.study_examples import Asked, explorer
from tether.reports.study_figures import (
    comparison_figure,
    frontier_figures,
    knob_figures,
    learning_figures,
    main_arm,
    token_figures,
)
from tether.reports.study_tables import (
    comparison_table,
    distance_table,
    end_table,
    equal_kl_table,
    laws_table,
    measured_table,
    names_text,
    plain_text,
    range_text,
    rules_table,
    score_name,
    scorers_table,
    settings_table,
    shuffled_table,
)
from tether.reports.tables import Table, count, csv_text, decimals_for, flattened, number, percent, with_error
from tether.reports.token_pictures import Picture, numbers, shown_pictures, write_pictures

PLOTS = "plots"
ASKED = {
    "how tight": "How tight?",
    "reference needed": "Do you need a reference?",
    "which reference": "Which reference?",
}
GROUPS = ("model", "references", "config", "shared", "timing", "versions", "hardware")


@dataclass(frozen=True)
class Card:
    """One of the three answers as the page shows it."""

    question: str
    verdict: str
    sentence: str
    claim: str
    notes: tuple[str, ...]
    basis: str


@dataclass(frozen=True)
class RowsFound:
    """The study's rows: what became of them, the files, and what the preflight found."""

    lead: str
    files: Table | None
    found: Table | None


def write_study_page(
    folder: Path,
    findings: Findings,
    *,
    asked: Sequence[Asked] = (),
    asked_total: int = 0,
    pictures: Sequence[Picture] = (),
    config_text: str = "",
) -> Path:
    """Write `report.html` of a study folder, and its pictures and numbers under `plots/`; return the page."""
    unit = score_name(findings)
    front, knob = frontier_figures(findings), knob_figures(findings)
    learning, tokens = learning_figures(findings), token_figures(findings)
    needed = comparison_figure("reference_needed", "With and without a reference", findings.comparisons, unit)
    which = comparison_figure("which_reference", "Other references beside self", findings.references, unit)
    plots = folder / PLOTS
    plots.mkdir(exist_ok=True)
    write_figures(plots, [*front, *needed, *which, *knob, *learning, *tokens])
    write_pictures(plots, pictures)
    page = folder / "report.html"
    text = render(
        "study.html.jinja",
        title=f"{findings.study_id}: {headline(findings).lower()}",
        findings=findings,
        headline=headline(findings),
        word=_word(findings),
        cards=[_card(answer) for answer in findings.answers],
        tiles=tiles_of(findings),
        unit=unit,
        arm=main_arm(findings),
        plots=quote(Path(os.path.relpath(plots, page.parent)).as_posix()),
        front_figures=front,
        needed_figures=needed,
        which_figures=which,
        knob_figures=knob,
        learning_figures=learning,
        token_figures=tokens,
        settings=settings_table(findings),
        names=names_text(findings),
        measured=measured_table(findings),
        laws=laws_table(findings),
        comparisons=comparison_table(findings.comparisons),
        references=comparison_table(findings.references),
        equal_kl=equal_kl_table([*findings.comparisons, *findings.references]),
        shuffled=shuffled_table(findings),
        distances=distance_table(findings),
        ends=end_table(findings),
        rules=rules_table(findings),
        scorers=scorers_table(findings),
        dial=dial_text(findings),
        knob=knob_text(findings),
        asked=explorer(asked, unit),
        asked_total=asked_total,
        pictures=shown_pictures(pictures),
        rows=rows_found(findings),
        facts=[(name, flattened(findings.identity[name])) for name in GROUPS if findings.identity.get(name)],
        cells=cells_table(findings),
        config_text=config_text,
        folder=shlex.quote(folder.resolve().name),
    )
    write_text(page, text)
    return page


def write_example_page(path: Path, study_id: str, pictures: Sequence[Picture]) -> Path:
    """Write one held-out row token by token under every setting, its numbers beside it as CSV."""
    write_text(path.with_suffix(".csv"), csv_text(list(numbers(pictures))))
    write_text(
        path,
        render(
            "example.html.jinja",
            title=f"{study_id}: {pictures[0].row_id}",
            study_id=study_id,
            version=__version__,
            row_id=pictures[0].row_id,
            pictures=shown_pictures(pictures),
            numbers=quote(path.with_suffix(".csv").name),
        ),
    )
    return path


def headline(findings: Findings) -> str:
    """Return the first answer in a few words."""
    if findings.recommended is not None:
        return f"Use {findings.recommended.name}"
    if findings.judge is None or not findings.answers or findings.answers[0].verdict == "needs a judge":
        return "Needs a judge"
    if findings.answers[0].verdict == "contradicted":
        return "Stay with the start model"
    return "No recommendation"


def _word(findings: Findings) -> str:
    if findings.recommended is not None:
        return "better"
    contradicted = bool(findings.answers) and findings.answers[0].verdict == "contradicted"
    return "worse" if contradicted else "open"


def _card(answer: Answer) -> Card:
    seeds = "1 seed" if answer.seeds == 1 else f"{answer.seeds} seeds"
    basis = f"{count(answer.n)} prompts, {seeds}"
    if answer.interval is not None and answer.interval.low is not None:
        basis += f", {number(round(100 * answer.interval.level, 1))} % interval"
    return Card(ASKED[answer.question], answer.verdict, answer.sentence, answer.claim, answer.notes, basis)


def tiles_of(findings: Findings) -> list[Tile]:
    """Return the headline numbers."""
    tiles: list[Tile] = []
    if findings.recommended is not None and findings.interval is not None:
        gain = findings.interval
        tiles.append(
            Tile(
                f"Gain in {score_name(findings)}",
                plain_text(gain),
                f"{range_text(gain)}, over the start model",
            )
        )
        tiles.append(
            Tile(
                "KL spent, nats", with_error(findings.kl, findings.kl_se), "per answer, ± one standard error"
            )
        )
    if findings.best_looking is not None and findings.best_looking != findings.recommended:
        tiles.append(Tile("Best-looking", findings.best_looking.name, "highest mean; chosen by no rule"))
    tiles.append(Tile("Prompts", count(findings.n), "answered by every compared model"))
    cells = sum(len(s.cells) for s in findings.settings)
    tiles.append(Tile("Models", count(cells), f"{count(len(findings.settings))} settings"))
    regret = findings.tight[0].regret if findings.tight else None
    # The rule saw the gold score where that is the judge: its regret says nothing then.
    if regret is not None and findings.judge != findings.gold:
        share = "of the best gain" if regret.share is not None else "nothing gained"
        value = percent(regret.share) if regret.share is not None else number(regret.regret, 2)
        note = f"{share}, in {regret.evaluator.replace('_', ' ')}"
        tiles.append(Tile("Regret", value, note))
    return tiles


def rows_found(findings: Findings) -> RowsFound | None:
    """Return what became of the rows; None where no cell recorded it."""
    data = findings.identity.get("data")
    if not data:
        return None
    lead = ""
    if data["left_out"] is not None:
        lead = (
            f"Of {count(data['read'])} rows read, {count(data['used'])} were trained on, "
            f"{count(data['held_out'] or 0)} held out and {count(data['left_out'])} left out."
        )
    return RowsFound(
        lead,
        data_table(data["files"]),
        findings_table([Finding.model_validate(found) for found in data["findings"]]),
    )


def cells_table(findings: Findings) -> Table | None:
    """Return one row per cell: how it ended, and the seconds of each stage; None where there are none."""
    cells = findings.identity.get("cells", {})
    if not cells:
        return None
    stages = tuple(dict.fromkeys(stage for cell in cells.values() for stage in cell["seconds"]))
    rows = tuple(
        (
            *(name, cell["state"], count(cell["attempts"])),
            *(number(cell["seconds"].get(stage), 1) for stage in stages),
        )
        for name, cell in cells.items()
    )
    columns = ("cell", "state", "attempts", *(f"{stage}, seconds" for stage in stages))
    return Table(columns, rows, frozenset(range(2, len(columns))))


def dial_text(findings: Findings) -> str:
    """Say what the same KL would give by the dial instead of retraining."""
    cost = findings.tight[0].dial if findings.tight else None
    if cost is None:
        return ""
    source = next((s.setting.name for s in findings.settings if cost.source in s.cells), cost.source)
    return (
        f"The same KL without retraining: {source} dialled to {number(cost.dial, 2)} spends "
        f"{number(cost.kl, 2)} nats and scores {number(cost.score, decimals_for(cost.difference.se))}, "
        f"{plain_text(cost.difference, signed=True)} beside the retrained model "
        f"({range_text(cost.difference)}). It costs a second forward pass per token, for as long as it is "
        "used."
    )
