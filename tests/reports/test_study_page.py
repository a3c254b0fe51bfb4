"""The study's page says what the findings say, asks nothing of the network, and runs nothing it shows."""

import base64
import csv
import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.reports.folders import preflight, record
from tests.reports.reading import Page
from tests.reports.test_chromium import CHROMIUM, opened
from tests.reports.test_page import PAYLOADS
from tests.study.fixtures import Shape, make_study
from tether.errors import RunFolderError
from tether.records.findings import Estimate, Findings, read_findings
from tether.records.results import write_json, write_lines
from tether.records.study import cell_folder, read_study
from tether.reports.knob import knob_text
from tether.reports.study_figures import frontier_figures
from tether.reports.study_page import dial_text
from tether.reports.study_tables import laws_table
from tether.reports.tables import number
from tether.reports.token_pictures import SHADES, Picture, coloured
from tether.study.report import write_example, write_study_report
from tether.study.tables import Tokens, read_table

INVISIBLE = re.compile(
    "[\\u00ad\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\U000e0000-\\U000e007f\\x00-\\x08\\x0b-\\x1f]"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a judged study with its report."""
    folder = tmp_path_factory.mktemp("study")
    made = make_study(
        folder, betas=(1.0, 0.1, 0.01), references=("self", "none", "model:strong"), shape=Shape(prompts=110)
    )
    write_json(folder / "study.json", made.model_copy(update={"judge": "gold_reward"}))
    (folder / "study.yaml").write_text("beta: [1.0, 0.1, 0.01]\n", encoding="utf-8")
    for cell in made.cells:
        home = cell_folder(folder, cell.cell_id)
        write_json(home / "run.json", record([], reference={"kind": cell.factors.reference, "rows": 40}))
        write_json(home / "preflight.json", preflight())
    write_study_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    return Page((study / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(study: Path) -> Findings:
    return read_findings(study)


def test_verdicts_come_first_and_say_what_the_findings_say(page: Page, found: Findings) -> None:
    text = page.text.replace("\u00a0", " ")
    assert found.recommended is not None
    assert page.find("h1")[0].text == f"Use {found.recommended.name}"
    cards = page.find("article", "answer")
    assert len(cards) == len(found.answers) == 3
    for card, answer in zip(cards, found.answers, strict=True):
        told = " ".join(card.text.replace("\u00a0", " ").split())
        assert answer.verdict in told and answer.sentence in told and answer.claim in told
        assert all(note in told for note in answer.notes)
    assert found.tight[0].dial is not None and dial_text(found).startswith("The same KL without retraining:")
    assert dial_text(found).replace("\u00a0", " ") in text
    assert text.index(found.answers[0].sentence) < text.index("What was gained and what it cost")
    for section in (
        "Do you need a reference?", "Which reference?", "What the knob did", "How it learnt",
        "Token by token", "The same prompt, every strength", "Everything measured", "What exactly was run",
        "The rows", "How to repeat it",
        "tether study study.yaml", "beta: [1.0, 0.1, 0.01]",
    ):  # fmt: skip
        assert section in text, section


def test_every_setting_stands_in_the_table_with_its_numbers(page: Page, found: Findings) -> None:
    rows = [" ".join(row.text.replace("\u00a0", " ").split()) for row in page.find("tr")]
    for setting in found.settings:
        own = [row for row in rows if row.startswith(setting.setting.name)]
        assert setting.gain is not None
        assert any(f"{setting.gain.estimate:.2f}" in row for row in own), setting.setting.name


def test_every_picture_is_a_file_in_three_forms_and_its_numbers_are_the_findings(
    study: Path, page: Page, found: Findings
) -> None:
    files = sorted(path.name for path in (study / "plots").iterdir())
    names = {name.rpartition(".")[0] for name in files}
    assert {"frontier", "beta_curve", "kl_by_beta", "token_types", "largest_falls", "end_token"} <= names
    assert {"by_position_chosen", "by_position_rejected", "tokens_1", "tokens_6"} <= names
    assert files == sorted(f"{name}.{kind}" for name in names for kind in ("svg", "png", "csv"))
    for name in names:
        ElementTree.fromstring((study / "plots" / f"{name}.svg").read_text())
        assert (study / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (study / "plots" / "beta_curve.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["series"] == "DPO"]
    told = {float(row["beta"]): float(row["y"]) for row in rows}
    for setting in found.settings:
        if setting.setting.arm == "DPO" and setting.gain is not None and setting.setting.beta:
            assert told[setting.setting.beta] == setting.gain.estimate
    linked = {a.attributes["href"] for a in page.find("a")}
    assert linked == {f"plots/{name}" for name in files}


def test_a_law_says_nothing_beyond_the_kl_that_was_measured(found: Findings) -> None:
    law = next(law for law in found.laws if law.arm == "DPO")
    reach = max(p.kl for p in found.frontier if p.arm == "DPO")

    def told(peak: float | None, low: float) -> str:
        changed = law.model_copy(update={"peak_kl": peak, "beta_hat_interval": (low, 1.0)})
        table = laws_table(found.model_copy(update={"laws": (changed,)}))
        assert table is not None
        return table.rows[0][3]

    assert told(10 * reach, 0.1) == f"beyond {number(reach, 1)}"
    assert told(reach / 2, 0.1) == number(reach / 2, 1)
    assert told(reach / 2, -0.1).endswith("(or never)") and told(None, -0.1) == "never turns"
    drawn = frontier_figures(found)[0].rows
    assert max(row["x"] for row in drawn if row.get("dashed") and row["series"] == "DPO") <= reach * 1.001


def test_the_end_token_is_told_per_objective(page: Page, found: Findings) -> None:
    cells = [cell.text for cell in page.find("td")]
    ends = [t.end for t in found.tokens if t.setting.startswith("posterior")]
    chosen = sum(float(e["chosen"] or 0) for e in ends) / len(ends)
    place = max(i for i, text in enumerate(cells) if text == "posterior")
    assert cells[place + 1] == f"{chosen:.2f}".replace("-", "−")


def test_what_the_preflight_found_and_what_each_reference_is_stands_on_the_page(
    page: Page, found: Findings
) -> None:
    text = page.text.replace("\u00a0", " ")
    assert "Of 1,200 rows read, 988 were trained on, 200 held out and 12 left out." in text
    rows = [[cell for cell in row.text.split("\n") if cell] for row in page.find("tr")]
    identical = next(" ".join(row) for row in rows if any("identical" in cell for cell in row))
    assert "12" in identical and "train.jsonl:3, train.jsonl:4, train.jsonl:5 and 9 more" in identical
    assert "ab" * 8 in text and "models/replies-base" in text and "references" in text.lower()
    warned = [notice for notice in found.notices if notice.startswith("Data, length difference, 988 rows")]
    assert len(warned) == 1
    assert list(found.identity["references"]) == ["self", "none", "model:strong"]
    assert found.identity["references"]["model:strong"]["kind"] == "model:strong"


def test_every_cell_is_one_row_of_a_table_with_its_state_and_seconds(study: Path, found: Findings) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    cells = found.identity["cells"]
    assert cells
    for name, cell in cells.items():
        assert html.count(f"<tr><td>{name}</td><td>{cell['state']}</td>") == 1
        assert f"{name}.attempts" not in html


def test_token_pictures_are_drawn_with_their_numbers(study: Path) -> None:
    with (study / "plots" / "tokens_1.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["row_id"] for row in rows} == {"eval.jsonl:1"} and {row["role"] for row in rows} == {"chosen"}
    drawn = ElementTree.fromstring((study / "plots" / "tokens_1.svg").read_text())
    pieces = [e for e in drawn.iter() if e.tag.endswith("text")]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    assert len(settings) == 3 and len(pieces) == 1 + 2 * len(settings) + len(rows)
    coloured_ones = sum(abs(float(row["log_ratio"])) >= 0.5 for row in rows)
    assert sum(e.tag.endswith("rect") for e in drawn.iter()) == 1 + coloured_ones > 1


def test_any_held_out_row_has_a_page_of_every_setting(study: Path, found: Findings) -> None:
    page = Page(write_example(study, "eval.jsonl:17").read_text(encoding="utf-8"))
    measured = [s.setting.name for s in found.settings if s.cells]
    strips = page.find("div", "strip")
    assert len(strips) == 2 * len(measured)  # chosen and rejected
    assert all(name in page.text for name in measured) and "Where is order 16?" in page.text
    tokens = read_table(
        Tokens, cell_folder(study, found.settings[0].cells[0]) / "measures" / "tokens.parquet"
    )
    own = [i for i, row in enumerate(tokens.row_id) if row == "eval.jsonl:17" and tokens.role[i] == "chosen"]
    values = (tokens.policy_logp - tokens.start_logp)[own]
    shown = [e.attributes["data-v"] for e in page.find("span", "tok") if "data-v" in e.attributes]
    assert shown[: len(own)] == [number(float(value), 2, signed=True) for value in values]
    with (study / "examples" / "eval.jsonl_17.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(shown)
    with pytest.raises(RunFolderError, match=r"eval\.jsonl:999: no such row is held out.*lists all 110"):
        write_example(study, "eval.jsonl:999")


def test_the_page_allows_no_script_and_no_request(study: Path, page: Page) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    policy = next(
        m.attributes["content"]
        for m in page.find("meta")
        if m.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not page.find("script") and not re.search(r"<[^>]* (?:on\w+|style)=", html)
    assert not [e for e in page.elements if "src" in e.attributes]


def test_tokens_are_coloured_by_their_log_ratio_with_the_number_on_hover() -> None:
    values = (-9.0, -3.0, -1.0, 0.0, 1.0, 3.0, 9.0)
    row = tuple((f"t{i}", value) for i, value in enumerate(values))
    (setting, html, total), *_ = coloured(Picture("p", "chosen", (("β 1", row),)))
    tokens = Page(f"<body>{html}</body>").find("span", "tok")
    assert [t.attributes["class"].split()[1:] for t in tokens] == [
        ["f3"], ["f2"], ["f1"], [], ["r1"], ["r2"], ["r3"]
    ]  # fmt: skip
    assert [t.attributes["data-v"] for t in tokens] == [
        "−9.00", "−3.00", "−1.00", "0.00", "+1.00", "+3.00", "+9.00"
    ]  # fmt: skip
    assert (setting, total) == ("β 1", "0.0")
    assert [limit for limit, _ in SHADES] == sorted(limit for limit, _ in SHADES)


def test_the_knob_is_told_with_this_studys_numbers(found: Findings) -> None:
    text = " ".join(knob_text(found))
    own = {s.setting.beta: s for s in found.settings if s.setting.arm == "DPO"}
    assert "larger is tighter" in text and "100 times as many nats at β 0.01 as at β 1" in text
    for beta in (1.0, 0.01):
        chosen, rejected = own[beta].numbers["chosen_log_ratio"], own[beta].numbers["rejected_log_ratio"]
        assert chosen is not None and rejected is not None
        assert f"{chosen - rejected:.3g} nats" in text
    backwards = [
        s.model_copy(update={"kl": {1.0: 5.0, 0.1: 2.0, 0.01: 1.0}[s.setting.beta or 1.0]})
        for s in found.settings
    ]
    told = " ".join(knob_text(found.model_copy(update={"settings": tuple(backwards)})))
    assert "KL fell towards smaller β" in told
    flat = [s.model_copy(update={"kl": 1.0, "kl_se": 0.1}) for s in found.settings]
    assert "hardly mattered" in " ".join(knob_text(found.model_copy(update={"settings": tuple(flat)})))


def test_the_knob_calls_nothing_an_inverted_u_that_was_not_compared(found: Findings) -> None:
    gains = {1.0: 0.1, 0.1: 1.0, 0.01: 3.0}

    def told(*, flagged: bool, worse: bool) -> str:
        settings = [
            s.model_copy(
                update={
                    "gain": Estimate(estimate=gains[s.setting.beta or 1.0], n=40, level=0.95),
                    "in_set": s.setting.beta == 0.1,
                    "degenerate": ("end rate",) if s.setting.beta == 0.01 and flagged else (),
                }
            )
            for s in found.settings
            if worse or s.setting.beta != 1.0
        ]
        best = next(s.setting.name for s in settings if s.setting.arm == "DPO" and s.in_set)
        tight = found.tight[0].model_copy(update={"best_looking": best})
        return knob_text(
            found.model_copy(update={"settings": tuple(settings), "tight": (tight, *found.tight[1:])})
        )[-1]

    assert "inverted U" in told(flagged=False, worse=True)
    text = told(flagged=True, worse=True)  # β 0.01 has the highest score, and no place in the comparison
    assert "inverted U" not in text and "β 0.01" not in text
    assert "held too tight" in text and "there is no sound setting" in text


def test_without_a_judge_the_page_says_so_and_still_shows_what_was_measured(tmp_path: Path) -> None:
    made = make_study(tmp_path, betas=(1.0, 0.1), shape=Shape(prompts=20))
    for world in ("sentiment", None):
        write_json(tmp_path / "study.json", made.model_copy(update={"world": world}))
        page = Page(write_study_report(tmp_path).read_text(encoding="utf-8"))
        assert page.find("h1")[0].text == "Needs a judge"
        # A world's true reward is drawn, whoever judges; without it there is nothing to draw.
        assert ("there is no frontier" in page.text) == (world is None)
        assert "Token by token" in page.text and read_findings(tmp_path).recommended is None


def test_a_study_that_is_half_done_is_told_as_such(tmp_path: Path) -> None:
    make_study(tmp_path, betas=(1.0, 0.1), failed=("sigmoid-beta0.1-seed0",), shape=Shape(prompts=20))
    made = read_study(tmp_path)
    write_json(tmp_path / "study.json", made.model_copy(update={"status": "running", "judge": "gold_reward"}))
    text = Page(write_study_report(tmp_path).read_text(encoding="utf-8")).text
    assert "This study is running" in text and "sigmoid-beta0.1-seed0 failed after 2 attempts" in text


def hostile(folder: Path) -> Path:
    """Write a study whose every text wants to run."""
    made = make_study(folder, betas=(1.0, 0.1), shape=Shape(prompts=len(PAYLOADS)))
    rows = [f"eval.jsonl:{i + 1}" for i in range(len(PAYLOADS))]
    write_lines(
        folder / "shared" / "prompts.jsonl",
        [{"row_id": row, "prompt": text} for row, text in zip(rows, PAYLOADS, strict=True)],
    )
    vocabulary = {str(i): PAYLOADS[i] for i in range(11)}
    (folder / "shared" / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "study.yaml").write_text(PAYLOADS[1], encoding="utf-8")
    write_json(
        folder / "study.json",
        made.model_copy(
            update={"judge": "gold_reward", "study_id": PAYLOADS[0], "hardware": {"x": PAYLOADS[4]}}
        ),
    )
    return folder


def test_nothing_a_page_shows_can_run(tmp_path: Path) -> None:
    html = write_study_report(hostile(tmp_path)).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.find("script") and not page.find("iframe") and not page.find("object")
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
    assert not INVISIBLE.search(html)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_opened_in_chromium_the_page_is_silent(study: Path, tmp_path: Path) -> None:
    console, requests, built = opened(study / "report.html", tmp_path / "browser")
    assert console == [] and requests == []
    assert built.count("<svg") >= 12 and "Use DPO" in built
    console, requests, _ = opened(write_study_report(hostile(tmp_path / "bad")), tmp_path / "browser2")
    assert console == [] and requests == []
