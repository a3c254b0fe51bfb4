"""`tether report RUN`: rebuild the page and the model card of a run from its folder."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tether.cli.output import console, print_json


def report(
    run: Annotated[Path, Parameter(help="Run folder: the --output-dir of a tether train run.")],
    /,
    *,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, Parameter(negative="", help="Print nothing but errors.")] = False,
) -> None:
    """Rebuild report.html, its pictures under report/, and the model card from what the run folder holds."""
    from tether.reports.card import write_card
    from tether.reports.contents import read_contents
    from tether.reports.page import write_report
    from tether.reports.verdict import as_document, verdict_of

    verdict = verdict_of(read_contents(run))
    page = write_report(run)
    card = write_card(run) if (run / "model").is_dir() else None
    if json:
        print_json({"page": str(page), "card": str(card) if card else None, **as_document(verdict)})
        return
    if quiet:
        return
    out = console()
    out.print(verdict.headline)
    for sentence in verdict.sentences:
        out.print(f"  {sentence}")
    out.print(f"page  {page}")
    out.print(f"card  {card}" if card else "card  none: the run has no model/ yet")
