"""Pages for the tests of this folder: drawn where pictures matter, without pictures where they do not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reports.folders import make_run
from tests.reports.reading import Page
from tether.reports import plots
from tether.reports.page import write_report

PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3"><path d="M0,0"/></svg>'


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything in it, its page and pictures written."""
    run = make_run(tmp_path_factory.mktemp("runs") / "whole")
    write_report(run)
    return run


@pytest.fixture(scope="session")
def whole_page(whole_run: Path) -> Page:
    return Page((whole_run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace drawing by a dot: the words of a page do not depend on pictures, which take a second."""

    def svg(document: object) -> str:
        return PICTURE

    def png(document: object, scale: float) -> bytes:
        return b"png"

    monkeypatch.setattr(plots.vl_convert, "vegalite_to_svg", svg)
    monkeypatch.setattr(plots.vl_convert, "vegalite_to_png", png)


@pytest.fixture
def page_of(undrawn: None) -> Callable[[Path], Page]:
    """Return a function that writes a run's page without pictures and reads it."""
    return lambda run: Page(write_report(run).read_text(encoding="utf-8"))
