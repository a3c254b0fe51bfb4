"""The page says what the run's numbers say, asks nothing of the network, and runs nothing it shows."""

import base64
import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.reports.folders import PROMPTS, STEPS, make_run, metrics, samples
from tests.reports.reading import Page
from tether.errors import RunFolderError
from tether.records.results import Sample, read_lines, write_lines
from tether.reports.page import write_report

PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    '"><img src=x onerror=alert(1)>',
    "<svg/onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1)>click</a>",
    "[click](javascript:alert(1))",
    "![beacon](https://evil.example/beacon.png)",
    "<img src=https://evil.example/beacon.png>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><input name=q></form>",
    "<object data=https://evil.example></object>",
    "<embed src=https://evil.example>",
    "<math><mtext></mtext><script>alert(1)</script></math>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!-- --><script>alert(1)</script><!-- -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{ 7 * 7 }}{% for x in y %}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "' onmouseover='alert(1)",
    "` onmouseover=alert(1) x=`",
    "url(javascript:alert(1)) expression(alert(1))",
    "@import 'https://evil.example/x.css';",
    "\u202egnp.exe\u202c and \u2066hidden\u2069",
    "zero\u200bwidth\u200d and \ufeffmark",
    "tag \U000e0041\U000e0042 characters",
    "nul \x00 bell \x07 escape \x1b[31m",
    "line \u2028 paragraph \u2029 soft \u00ad hyphen",
    "lone \ud800 surrogate",
    "=HYPERLINK(\"https://evil.example\")",
    "\t\n  spaces   kept  \n\n",
    "é café ｆｕｌｌ 漢字 👩‍💻",
]  # fmt: skip
HIDDEN = re.compile("[\u00ad\u200b-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f\x00-\x08\x0b-\x1f\ud800]")


def test_the_verdict_says_the_numbers_of_the_run(whole_run: Path, whole_page: Page) -> None:
    rows = [Sample.model_validate(row) for row in read_lines(whole_run / "samples.jsonl")]
    before = np.mean([row.score_before for row in rows if row.score_before is not None])
    after = np.mean([row.score_after for row in rows if row.score_after is not None])
    verdict = whole_page.find("section", "verdict")[0].text.replace("\u00a0", " ")
    assert "Better than the start model" in verdict
    assert f"On {PROMPTS} held-out prompts the gold reward rose from {before:.2f} to {after:.2f}" in verdict
    assert "it cost 3.2 ± 0.2 nats of KL from the start model" in verdict
    interval = re.search(r"paired 95 % interval of the gain \+(\S+) to \+(\S+)\)", verdict)
    assert interval is not None
    assert float(interval[1]) < after - before < float(interval[2])


def test_headline_numbers_warnings_and_sections_are_there(whole_page: Page) -> None:
    text = whole_page.text.replace("\u00a0", " ")
    for expected in (
        "0.693 → 0.332", "50 % → 72 %", "204,000", "2 min 2 s", "the token budget was halved",
        "12 of 1,200 rows",
        "Before and after", "Why both rewards fell", "What β did", "identity.scored.weights", "9f2c61d0b7aa",
        "tether train config.yaml", "identical", "train.jsonl:3", "torch", "2.13.0",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_gain_whose_interval_holds_zero_is_not_distinguishable(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    run = make_run(tmp_path / "run", rows=samples(np.random.default_rng(3), gain=0.01))
    verdict = page_of(run).find("section", "verdict")[0].text
    assert "Not distinguishable from the start model" in verdict
    assert "not distinguishable from no change" in verdict and "includes 0" in verdict
    assert "Better" not in verdict


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("samples.jsonl", "No answers were kept"),
        ("preflight.json", "There is no preflight.json"),
        ("config.yaml", "There is no config.yaml here"),
        ("metrics.jsonl", "There were no held-out rows"),
        ("model", "Better than the start model"),
    ],
)
def test_a_missing_file_is_said_not_guessed(
    tmp_path: Path, page_of: Callable[[Path], Page], missing: str, said: str
) -> None:
    run = make_run(tmp_path / "run")
    gone = run / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert said in page_of(run).text


def test_nothing_measured_nothing_claimed(tmp_path: Path, page_of: Callable[[Path], Page]) -> None:
    run = make_run(tmp_path / "run", measurements=(), world=None, results={}, timing={}, data={}, events=())
    for name in ("samples.jsonl", "preflight.json", "config.yaml"):
        (run / name).unlink()
    write_lines(run / "metrics.jsonl", metrics(np.random.default_rng(0), evaluated=False))
    page = page_of(run)
    verdict = page.find("section", "verdict")[0].text
    assert "Whether it is better was not measured" in verdict
    assert "KL from the start model was not measured" in verdict
    notes = page.find("section", "notes")[0].text
    for expected in (
        "KL, entropy and lengths",
        "were not scored",
        "no held-out rows",
        "side by side",
        "preflight",
    ):
        assert expected in notes
    assert not page.find("article")
    assert "Training loss" in page.text and "Training rows only." in page.text


def test_a_run_that_only_began_has_a_page(tmp_path: Path, page_of: Callable[[Path], Page]) -> None:
    run = make_run(
        tmp_path / "run", status="planned", measurements=(), steps=0, results={}, reference={}, objective={},
        model={}, step0={}, layout={}, versions={}, hardware={}, data={}, config={},
    )  # fmt: skip
    for name in ("samples.jsonl", "preflight.json", "metrics.jsonl", "config.yaml"):
        (run / name).unlink()
    page = page_of(run)
    assert "Nothing was trained here" in page.text and "planned only" in page.text


def test_measurements_of_an_unfinished_run_come_from_its_metrics(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    run = make_run(tmp_path / "run", status="running")
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"measurements": []}))
    text = page_of(run).text.replace("\u00a0", " ")
    assert "it cost 3.2 ± 0.2 nats" in text and "has not finished" in text


def test_text_of_data_and_models_is_shown_and_never_run(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    rows = [
        Sample(
            prompt=({"role": text, "content": text},),
            before=text,
            after=text + "!",
            score_before=0.0,
            score_after=1.0,
        )
        for text in PAYLOADS
    ]
    run = make_run(tmp_path / "run", rows=rows, run_id=PAYLOADS[0], hardware={"device": PAYLOADS[3]})
    (run / "config.yaml").write_text(PAYLOADS[1], encoding="utf-8")
    page = page_of(run)
    body = page.elements
    assert not [
        e for e in body if e.tag in ("script", "iframe", "object", "embed", "img", "form", "base", "math")
    ]
    assert len(page.find("style")) == 1 and len(page.find("link")) == 1
    for element in body:
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"], element
        for name in ("href", "src"):
            assert element.attributes.get(name, "#").startswith(("#", "report/", "data:,")), element
    shown = page.find("article")
    assert len(shown) == len(PAYLOADS)
    for text, article in zip(PAYLOADS, shown, strict=True):
        expected = HIDDEN.sub(lambda match: f"U+{ord(match[0]):04X}", text)
        assert article.text.count(expected) >= 3, text


def test_hidden_characters_reach_no_page(tmp_path: Path, undrawn: None) -> None:
    rows = [Sample(prompt="a\u202eb", before="c\u200bd", after="e\ufeff\x00\ud800f")]
    html = (
        write_report(make_run(tmp_path / "run", rows=rows, tether_version="1\u202e2"))
        .read_bytes()
        .decode("utf-8")
    )
    assert not set(html) & set("\u202e\u200b\ufeff\x00")
    assert "U+202E" in html and "U+D800" in html


def test_the_page_asks_nothing_of_the_network_and_holds_its_style_under_a_hash(
    whole_run: Path, whole_page: Page
) -> None:
    html = (whole_run / "report.html").read_text(encoding="utf-8")
    policy = next(e for e in whole_page.find("meta") if "http-equiv" in e.attributes).attributes["content"]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not whole_page.find("script")
    links = [
        e.attributes[name] for e in whole_page.elements for name in ("href", "src") if name in e.attributes
    ]
    assert all(link == "data:," or link.startswith("report/") for link in links)
    assert "url(http" not in html and "@import" not in html


def test_pictures_follow_the_theme_and_do_not_share_ids(whole_page: Page) -> None:
    drawings = whole_page.find("svg")
    assert len(drawings) == 10
    assert all(drawing.attributes["aria-label"] for drawing in drawings)
    ids = [e.attributes["id"] for e in whole_page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in whole_page.elements:
        for name in ("fill", "stroke"):
            colour = element.attributes.get(name, "none")
            assert colour in ("none", "transparent") or colour.startswith("var(--chart-"), (
                element.tag,
                name,
                colour,
            )


def test_every_picture_is_on_disk_with_its_numbers(whole_run: Path, whole_page: Page) -> None:
    folder = whole_run / "report"
    for link in (e.attributes["href"] for e in whole_page.find("a")):
        assert (whole_run / link).stat().st_size > 0, link
    assert len(list(folder.glob("*.svg"))) == len(list(folder.glob("*.png"))) == 10
    for drawing in folder.glob("*.svg"):
        ElementTree.parse(drawing)
    with (folder / "kl.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["x"]) == STEPS and float(rows[-1]["y"]) == 3.2


def test_a_page_elsewhere_still_links_to_its_pictures(tmp_path: Path, undrawn: None) -> None:
    run = make_run(tmp_path / "a run" / "inner")
    page = write_report(run, tmp_path / "page.html")
    links = [e.attributes["href"] for e in Page(page.read_text(encoding="utf-8")).find("a")]
    assert page == tmp_path / "page.html" and not (run / "report.html").exists()
    assert links and all((tmp_path / unquote(link)).is_file() for link in links)


def test_a_run_with_many_long_answers_stays_small_and_says_what_it_left_out(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    long = "<&> " * 5000
    rows = [Sample(prompt=f"{n} {long}", before=long, after=long + "x") for n in range(400)]
    run = make_run(tmp_path / "run", rows=rows)
    page = page_of(run)
    assert (run / "report.html").stat().st_size < 2_000_000
    assert "of 400; all of them are in samples.jsonl" in page.text
    assert "14,000 more characters in samples.jsonl" in page.text


def test_answers_on_the_way_are_under_their_pair(whole_page: Page) -> None:
    folded = whole_page.find("details", "between")
    assert len(folded) == PROMPTS
    assert "On the way: 5 answers, updates 20 to 100" in folded[0].text
    assert folded[0].text.index("Update 40") < folded[0].text.index("Update 60")


def test_of_many_updates_on_the_way_a_few_are_shown_evenly(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    run = make_run(tmp_path / "run")
    for step in range(100, 4100, 100):
        write_lines(run / "samples" / f"step-{step}.jsonl", [read_answer(run)] * PROMPTS)
    page = page_of(run)
    folded = page.find("details", "between")[0].text.replace("\u00a0", " ")
    assert re.findall(r"Update ([\d,]+)", folded) == [
        "20", "200", "800", "1,400", "2,100", "2,700", "3,300", "3,900",
    ]  # fmt: skip
    assert "8 of 44 measured updates" in page.text.replace("\u00a0", " ")
    # One answer of the last steps is long: it is cut with the name of its file.
    assert "500 more characters in samples/step-3900.jsonl" in page.text


def read_answer(run: Path) -> dict[str, Any]:
    answer = next(read_lines(run / "samples" / "step-0.jsonl"))
    return answer | {"completion": "x" * 2000}


def test_a_page_written_twice_is_the_same_page(tmp_path: Path, undrawn: None) -> None:
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"step": 1,\n'),
        ("metrics.jsonl", "[1, 2]\n"),
        ("samples.jsonl", '{"prompt": 3}\n'),
        ("preflight.json", "not json"),
        ("run.json", "{}"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(RunFolderError, match=name):
        write_report(run)


def test_values_that_are_not_numbers_are_counted_not_drawn(
    tmp_path: Path, page_of: Callable[[Path], Page]
) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 121, "phase": "train", "loss": NaN, "rewards/chosen": Infinity}\n')
    assert "2 logged values are NaN or infinite" in page_of(run).text
