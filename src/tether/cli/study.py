"""`tether study`: many runs that share what can be shared, measured alike; `add` and `report` beside it."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from tether.cli.options import help_lines, with_options
from tether.cli.output import print_json, print_table
from tether.config.parse import read_yaml
from tether.config.study import FACTORS, STUDY_ALIASES, StudyConfig, StudyOptions, build_study, split_commas
from tether.errors import RunFolderError, UsageError

GROUPS = [
    "Grid", "Measured", "Study", "Model", "Data", "Objective", "LoRA", "Optimiser", "Speed", "Watching",
    "Measuring", "Run",
]  # fmt: skip

COMMAS = frozenset({*FACTORS, "dial", "cross_fit"})

app = App(name="study", help="Many runs over a grid, sharing what can be shared, measured alike.")


@app.default
@with_options(StudyOptions, GROUPS, STUDY_ALIASES)
def study(
    config: Annotated[
        Path | None, Parameter(help="YAML file of the options below; given options win.")
    ] = None,
    /,
    *,
    plan: Annotated[
        bool, Parameter(help="Print cells, what is shared, time, memory and disk, and stop.", negative="")
    ] = False,
    json: Annotated[bool, Parameter(help="Print the study's record as JSON.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress and no notes.", negative="")] = False,
    **options: Any,
) -> int:
    """Run a study, or go on with it: finished cells stay, failed ones are tried once more.

    Factors take lists with commas: --beta 1,0.3,0.1 --loss-type sigmoid,ipo --reference self,none --seed 0,1.
    Any other option of tether train is the same in every cell.
    """
    values = read_yaml(config) if config is not None else _known(options.get("output_dir"))
    if not values and not {"model_name_or_path", "dataset_name"} & set(options):
        raise UsageError(_nothing_to_run(options.get("output_dir")))
    # Commas part the values of a factor; a path with a comma in it can stand in a YAML file.
    options = {k: ",".join(v) if isinstance(v, list) and k in COMMAS else v for k, v in options.items()}
    settings = build_study(values, options, source=str(config or "options"))
    if plan:
        from tether import api

        planned = api.study_plan(settings)
        print_json(planned) if json else show_plan(planned)
        return 0
    return _run(settings, json=json, quiet=quiet)


@app.command
def add(
    folder: Path,
    /,
    *,
    loss_type: str | None = None,
    reference: str | None = None,
    beta: str | None = None,
    learning_rate: str | None = None,
    seed: str | None = None,
    data_fraction: str | None = None,
    labels: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Add cells to a study and run them: the values given, with all values of the other factors.

    Parameters
    ----------
    folder
        Study folder.
    loss_type
        Further objectives, with commas.
    reference
        Further references.
    beta
        Further betas.
    learning_rate
        Further learning rates.
    seed
        Further seeds.
    data_fraction
        Further shares of the training prompts.
    labels
        shuffled: a control.
    json
        Print the study's record as JSON.
    quiet
        No progress and no notes.

    """
    given = (loss_type, reference, beta, learning_rate, seed, data_fraction, labels)
    more = {k: split_commas(v) for k, v in zip(FACTORS, given, strict=True) if v is not None}
    values = _known(folder)
    if not values:
        raise RunFolderError(_nothing_to_run(folder))
    if not more:
        raise UsageError("study add: name what to add, such as --beta 0.05 or --seed 3,4")
    settings = build_study({**values, "add": [*values.get("add", []), more]}, source=str(folder))
    return _run(settings, json=json, quiet=quiet)


@app.command
def report(
    folder: Path,
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write findings.json and the page of a study again, from its folder.

    Parameters
    ----------
    folder
        Study folder.
    json
        Print findings.json.
    quiet
        Print nothing.

    """
    from tether.records.findings import read_findings
    from tether.records.study import read_study
    from tether.study.report import write_study_report

    write_study_report(folder)
    if json:
        print_json(read_findings(folder))
    elif not quiet:
        show(read_study(folder), folder)
    return 0


@app.command
def example(
    folder: Path,
    row: str,
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a page of one held-out row: every token coloured by its log-ratio, under every setting.

    Parameters
    ----------
    folder
        Study folder.
    row
        Row id, as in shared/completions.jsonl.
    json
        Print the page's path as JSON.
    quiet
        Print nothing.

    """
    from tether.study.report import write_example

    page = write_example(folder, row)
    if json:
        print_json({"page": str(page)})
    elif not quiet:
        print_table("", ["", ""], [["page", str(page)]])
    return 0


def _run(settings: StudyConfig, *, json: bool, quiet: bool) -> int:
    from tether.cli.study_progress import StudyTerminal

    terminal = StudyTerminal(quiet=quiet or json)
    terminal.stage("reading rows and options")
    try:
        from tether import api

        record = api.study_config(settings, watcher=terminal)
    finally:
        terminal.close()
    if json:
        print_json(record)
    elif not quiet:
        show(record, Path(settings.output_dir))
    return 0 if any(cell.state == "finished" for cell in record.cells) else 1


def _known(folder: object) -> dict[str, Any]:
    """Return the options of the study in a folder, so that the folder alone is enough to go on."""
    from tether.records.study import STUDY, read_study

    home = Path(str(folder or ""))
    path = home / "study.yaml"
    values = read_yaml(path) if path.is_file() else {}
    if not values and (home / STUDY).is_file():
        values = read_study(home).config
    return {**values, "output_dir": str(home)} if values else {}


def _nothing_to_run(folder: object) -> str:
    """Say why there is no study to go on with, and what to do."""
    if not folder:
        return "study: give --model, --data and --output-dir; --output-dir alone goes on with the study there"
    path = Path(str(folder)) / "study.yaml"
    why = f"{path.name} is empty" if path.is_file() else f"there is no {path.name}"
    return f"{folder}: no study here to go on with ({why}): start it with --model and --data, or a YAML file"


def show(record: Any, folder: Path, *, page: Path | None = None) -> None:
    """Print one row per cell: state, KL, scores, held-out loss and accuracies."""
    from tether.records.findings import FINDINGS, read_findings
    from tether.records.study import SHARED, cell_folder, measures
    from tether.reports.study_page import dial_text
    from tether.study.collect import cell_labels

    names = list(record.evaluators)
    labels = cell_labels(record)
    models = [("start", "", folder / SHARED / "start")]
    models += [(labels[c.cell_id], c.state, cell_folder(folder, c.cell_id)) for c in record.cells]
    rows: list[list[object]] = []
    for label, state, home in models:
        found = measures(home)
        if found is None:
            rows.append([label, state, "", "", "", *[""] * len(names)])
            continue
        scores = [_pm(found.scores.get(name), found.scores_se.get(name)) for name in names]
        accuracy = "" if found.policy_accuracy is None else f"{found.policy_accuracy:.2f}"
        flag = "degenerate" if found.degenerate else ""
        rows.append([label, flag, _pm(found.kl, found.kl_se), accuracy, f"{found.tokens:.0f}", *scores])
    print_table("", ["cell", "", "KL", "p-acc", "tokens", *names], rows)
    for cell in record.cells:
        if cell.error:
            print_table("", ["failed", ""], [[labels[cell.cell_id], cell.error]])
    if (folder / FINDINGS).is_file():
        found = read_findings(folder)
        told: list[list[object]] = []
        for answer in found.answers:
            told.append([f"{answer.question}?", _said(answer)])
            if answer.question == "how tight":
                told.extend(["", text] for text in (dial_text(found), *answer.notes) if text)
        told.append(["page", str(page or folder / "report.html")])
        print_table("", ["", ""], told)


def _said(answer: Any) -> str:
    """Return an answer with its verdict once, and what it rests on."""
    said = answer.sentence.lower().startswith(answer.verdict)
    sentence = answer.sentence if said else f"{answer.verdict}: {answer.sentence}"
    counted = ((answer.n, "prompt"), (answer.seeds, "seed"))
    prompts, seeds = (f"{n} {word}" if n == 1 else f"{n} {word}s" for n, word in counted)
    return f"{sentence} ({prompts}, {seeds})"


def show_plan(plan: Any) -> None:
    """Print a plan as a table."""
    rows: list[list[object]] = []
    for name, value in plan.model_dump().items():
        if name == "names":
            continue
        label = name.replace("_mib", ", MiB").replace("_", " ")
        shown = (
            ", ".join(f"{k}: {v}" for k, v in value.items()) or "none" if isinstance(value, dict) else value
        )
        rows.append([label, f"{shown:.4g}" if isinstance(shown, float) else str(shown)])
    for name in plan.names:
        rows.append(["cell", name])
    print_table("", ["", "planned"], rows)


def _pm(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" + (f" +- {error:.2g}" if error is not None else "")


def help_page() -> str:
    """Return `tether study --help`."""
    head = [
        "Usage: tether study [STUDY.yaml] --model M --data D --output-dir O [OPTIONS]",
        "       tether study add O --beta 0.05      more cells",
        "       tether study report O               the table and the page again",
        "       tether study example O ROW          one held-out row, token by token",
        "",
        "Run a grid of trainings that share what can be shared, measured alike. Factors",
        "take lists with commas; any other option of tether train is the same in every",
        "cell. The same command again goes on where it stopped.",
        "",
        "  --plan                         Print cells, sharing, time, memory, disk; stop.",
        "  --json                         Print the study's record as JSON.",
        "  --quiet                        No progress and no notes.",
    ]
    tail = ["", "Other options of tether train: see tether train --help.", ""]
    return "\n".join([*head, *help_lines(StudyOptions, GROUPS[:3]), *tail])
