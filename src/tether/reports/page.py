"""The report page: one self-contained HTML file, no script, no outside request, light and dark."""

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from tether.records.results import write_text
from tether.reports.contents import mapping, read_contents, words
from tether.reports.explain import beta_text, movement_of, movement_table, movement_text
from tether.reports.figures import learning_figures, result_figures, write_figures
from tether.reports.notices import notices_of
from tether.reports.sections import (
    data_table,
    fact_groups,
    findings_table,
    measurement_table,
    model_name,
    on_the_way,
    shown_samples,
    subtitle,
    tiles_of,
)
from tether.reports.tables import (
    count,
    duration,
    flattened,
    number,
    percent,
    plain,
)
from tether.reports.templating import environment
from tether.reports.verbatim import visible_controls
from tether.reports.verdict import verdict_of

UNITS = re.compile(r"(?<=\d) (?=[%±])|(?<=[±β]) (?=\d)")


def write_report(run: Path, page: Path | None = None) -> Path:
    """Write `report.html` of a run folder, and its pictures and numbers under `report/`; return the page.

    `page` puts the page elsewhere; its links to the pictures follow.

    Raises:
        RunFolderError: there is no run here, or one of its files cannot be read.

    """
    contents = read_contents(run)
    verdict = verdict_of(contents)
    result, learning = result_figures(contents, verdict), learning_figures(contents)
    pictures = run / "report"
    pictures.mkdir(exist_ok=True)
    write_figures(pictures, [*result, *learning])
    moved, between = movement_of(contents), on_the_way(contents.answers)
    page = run / "report.html" if page is None else page
    text = render(
        "report.html.jinja",
        title=f"{model_name(contents)}: {verdict.headline.lower()}",
        contents=contents,
        record=contents.record,
        name=model_name(contents),
        subtitle=subtitle(contents),
        verdict=verdict,
        tiles=tiles_of(contents, verdict),
        notices=notices_of(contents),
        samples=shown_samples(contents.samples, between),
        between=[count(step) for step in between],
        measured_steps=len(contents.answers),
        sample_total=len(contents.samples),
        pictures=quote(Path(os.path.relpath(pictures, page.parent)).as_posix()),
        result_figures=result,
        learning_figures=learning,
        measured=measurement_table(contents),
        moved=moved,
        movement=movement_table(moved) if moved else None,
        movement_text=movement_text(moved, verdict.kl is not None) if moved else [],
        beta=beta_text(contents, moved),
        data=data_table(contents.files),
        rows=contents.rows,
        numbers=flattened(mapping(contents.preflight.get("numbers"))),
        findings=findings_table(contents.findings),
        facts=fact_groups(contents),
        timing=[(words(stage), duration(seconds)) for stage, seconds in contents.record.timing.items()],
        command="tether train config.yaml --output-dir again",
        folder=shlex.quote(run.resolve().name),
    )
    write_text(page, text)
    return page


def render(template: str, *, styles: Sequence[str] = (), script: str = "", **values: Any) -> str:
    """Fill a page template: everything escaped, controls visible, style sheet and script inside by hash.

    `styles` are further style sheets, `script` the page's one script, by file name among the templates.
    """
    filled = environment(_shown, FILTERS)
    loader = filled.loader
    assert loader is not None
    style = "".join(loader.get_source(filled, name)[0] for name in ("page.css", *styles))
    code = loader.get_source(filled, script)[0] if script else ""
    allowed = f" script-src '{_digest(code)}';" if code else ""
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}';{allowed} img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return filled.get_template(template).render(
        style=Markup(style), script=Markup(code), policy=Markup(policy), **values
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def tied(text: str) -> str:
    """Keep a number and its unit, error or β on one line (no-break spaces)."""
    return UNITS.sub("\u00a0", text)


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "count": count,
    "percent": percent,
    "plain": plain,
    "words": words,
    "tied": tied,
}
"""What a page's template may do to a value."""


def _shown(value: Any) -> Any:
    """Make hidden characters of every plain text visible; text that is already safe HTML stays."""
    return visible_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
