"""`tether report` rebuilds both documents, and reports start without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reports.folders import make_run
from tether.cli.report import report
from tether.errors import RunFolderError


@pytest.mark.usefixtures("undrawn")
def test_the_command_writes_page_and_card_and_prints_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    report(run)
    printed = capsys.readouterr().out
    assert (run / "report.html").is_file() and (run / "model" / "README.md").is_file()
    assert "Better than the start model" in printed and "report.html" in printed


@pytest.mark.usefixtures("undrawn")
def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", measurements=())
    (run / "model" / "config.json").unlink()
    (run / "model").rmdir()
    report(run, json=True)
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {
        "page",
        "card",
        "verdict",
        "sentences",
        "score",
        "kl_start",
        "kl_start_se",
        "held_out",
    }
    assert document["card"] is None and document["kl_start"] is None


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run\.json"):
        report(tmp_path)


def test_reports_import_no_torch() -> None:
    program = (
        "import sys, tether.reports.page, tether.reports.card, tether.cli.report; "
        "print([m for m in ('torch', 'transformers', 'peft', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
