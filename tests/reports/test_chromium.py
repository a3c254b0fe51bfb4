"""Opened in headless Chromium the page writes nothing to the console and asks for nothing."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.reports.browser import CHROMIUM
from tests.reports.folders import make_run, samples
from tests.reports.test_page import PAYLOADS
from tether.records.results import Sample
from tether.reports.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]


def opened(page: Path, folder: Path) -> tuple[list[str], list[str], str]:
    """Return console lines, addresses the page itself asked for, and the page as the browser built it."""
    folder.mkdir()
    log = folder / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--log-net-log={log}",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    asked = [
        event["params"]["url"]
        for event in json.loads(log.read_text(encoding="utf-8"))["events"]
        # what the browser asks for by itself has no origin
        if "url" in event.get("params", {})
        and event["params"].get("initiator", "not an origin") != "not an origin"
    ]
    return console, asked, done.stdout.decode("utf-8", "replace")


def test_this_check_sees_console_lines_and_requests(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><img src="https://example.com/x.png"><script>console.error("seen")</script>'
    )
    console, asked, _ = opened(page, tmp_path / "browser")
    assert any("seen" in line for line in console) and asked == ["https://example.com/x.png"]


def test_the_page_is_silent(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", rows=samples(np.random.default_rng(7))))
    console, asked, built = opened(page, tmp_path / "browser")
    assert console == [] and asked == []
    assert "Better than the start model" in built and built.count("<svg") == 10


def test_a_page_full_of_hostile_text_is_silent(tmp_path: Path) -> None:
    rows = [
        Sample(prompt=text, before=text, after=text[::-1], score_before=0.0, score_after=1.0)
        for text in PAYLOADS
    ]
    run = make_run(tmp_path / "run", rows=rows, run_id=PAYLOADS[1], hardware={"device": PAYLOADS[3]})
    console, asked, built = opened(write_report(run), tmp_path / "browser")
    assert console == [] and asked == []
    assert "<script" not in built and built.count("<article") == len(PAYLOADS)
