"""Pages and cards rebuilt from a run folder."""

from pathlib import Path

from tether.reports.card import write_card
from tether.reports.page import write_report


def report(run: str | Path, *, page: Path | None = None) -> Path:
    """Rebuild the page (elsewhere with `page`) and the model card of a run folder; return the page's path."""
    page = write_report(Path(run), page)
    if (Path(run) / "model").is_dir():
        write_card(Path(run))
    return page
