"""docs/data.md lists every format, finding and JSON field there is."""

from pathlib import Path

from tether.data.fields import EXTRA_COLUMNS
from tether.data.formats import FORMATS
from tether.data.report import KINDS, DataReport, FileReport
from tether.data.sources import READERS
from tether.records.results import Finding

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_formats_findings_and_fields_are_documented() -> None:
    names = [*(f.name for f in FORMATS), *KINDS, *EXTRA_COLUMNS, *READERS]
    fields = [*DataReport.model_fields, *FileReport.model_fields, *Finding.model_fields]
    assert [name for name in [*names, *fields] if f"`{name}`" not in TEXT] == []


def test_formats_stand_in_the_order_of_recognition() -> None:
    places = [TEXT.index(f"| `{format_.name}` |") for format_ in FORMATS]
    assert places == sorted(places)
