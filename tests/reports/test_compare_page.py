import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from tether.judging.annotated import annotated_verdicts
from tether.judging.compare import compare_annotations, compare_verdicts
from tether.judging.comparison import surprises
from tether.judging.options import Deciding
from tether.records.comparison import ComparisonRecord, Verdict
from tether.reports.compare_page import write_comparison
from tether.reports.compare_parts import FIRST, PAIRS, SURPRISING

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202eabc</article></main>"


def _verdicts(n: int = 40, models: tuple[str, ...] = ("x", "y"), **changes) -> list[Verdict]:
    found = []
    for i in range(n):
        for k, a in enumerate(models):
            for b in models[k + 1 :]:
                share = 0.8 if i % 4 else 0.3
                base = {
                    "id": f"p{i}", "prompt": f"prompt {i}", "model_a": a, "model_b": b,
                    "answer_a": f"the answer {i} of a " + "long " * (i % 5),
                    "answer_b": f"the answer {i} of b", "judge": "server:http://127.0.0.1:1/v1#m:v1",
                    "a_first": share + 0.15, "b_first": share - 0.15,
                }  # fmt: skip
                found.append(Verdict(**{**base, **changes}))
    return found


def _page(path: Path, verdicts: list[Verdict], **options) -> tuple[str, ComparisonRecord]:
    record = compare_verdicts(verdicts, Deciding(draws=100, **options))
    page = write_comparison(record, verdicts, surprises(verdicts), path / "page.html")
    return page.read_text(encoding="utf-8"), record


def test_the_page_asks_nothing_of_anyone_and_runs_only_its_own_script(tmp_path: Path) -> None:
    text, _ = _page(tmp_path, _verdicts())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[^"'#\s>]""", text.split("</style>")[1])
    assert not re.findall(r"\bfetch\(|XMLHttpRequest|import\(|\son[a-z]+=", text)


def test_answers_are_shown_as_they_are_and_run_nowhere(tmp_path: Path) -> None:
    text, _ = _page(tmp_path, _verdicts(answer_a=HOSTILE, prompt=HOSTILE, model_a='x"><b>', judge=HOSTILE))
    assert "<img" not in text and "alert(1)</script>" not in text
    assert text.count("</main>") == 1
    assert "U+202E" in text


def test_headline_numbers_and_filters_say_what_was_found(tmp_path: Path) -> None:
    verdicts = _verdicts()
    failed = [
        v.model_copy(update={"a_first": None, "errors": ("timeout after 5 attempts",)}) for v in verdicts[:4]
    ]
    text, record = _page(tmp_path, [*failed, *verdicts[4:]], require="x > y")
    assert "<h1>x is better than y</h1>" in text
    assert "Gate x &gt; y: passed" in text
    assert record.errors == {"timeout after 5 attempts": 4}
    for label in ("All 40", "x better 27", "y better 9", "No verdict 4", f"Most surprising {SURPRISING}"):
        assert label in text
    assert text.count('class="sample') == 40
    assert len(re.findall(r'class="sample[^"]* late"', text)) == 40 - FIRST
    assert "4 of 40 pairs (10\u00a0%) have no verdict" in text
    assert "timeout after 5 attempts" in text


def test_a_control_is_called_one_and_equals_are_not_told_apart(tmp_path: Path) -> None:
    text, _ = _page(tmp_path, _verdicts(judge="length"))
    assert "x beats y by the control length" in text
    assert "says nothing of quality" in text
    equal = [
        v.model_copy(update={"a_first": float(i % 2), "b_first": float(i % 2)})
        for i, v in enumerate(_verdicts())
    ]
    assert "<h1>x and y cannot be told apart</h1>" in _page(tmp_path, equal)[0]
    guess = _verdicts(a_first=0.9, b_first=0.2)
    assert "contradicts itself on 100" in _page(tmp_path, guess)[0]


def test_many_models_and_judges_have_a_rating_and_a_choice(tmp_path: Path) -> None:
    text, _ = _page(tmp_path, _verdicts(24, ("x", "y", "z")))
    assert "<h2>Rating</h2>" in text
    assert text.count("<option") == 4
    assert "x is better than every other model" in text
    two = [*_verdicts(24), *_verdicts(24, judge="random:0")]
    text, record = _page(tmp_path, two)
    assert "Krippendorff" in text and len(record.agreement) == 1
    assert "by 2 judges" in text


def test_the_most_surprising_are_there_however_late_they_stand(tmp_path: Path) -> None:
    verdicts = _verdicts(PAIRS + 60)
    verdicts[-1] = verdicts[-1].model_copy(update={"a_first": 0.0, "b_first": 0.0, "prompt": "the odd one"})
    text, _ = _page(tmp_path, verdicts)
    assert text.count('class="sample') == PAIRS
    assert "the odd one" in text
    assert f"{PAIRS} of {PAIRS + 60} pairs" in text


@pytest.mark.parametrize("turn", [False, True])
def test_bars_are_of_the_pair_as_it_is_named(tmp_path: Path, turn: bool) -> None:
    verdicts = _verdicts()
    if turn:
        verdicts = [verdicts[0], *(v.turned() for v in verdicts[1:])]
    text, record = _page(tmp_path, verdicts)
    cells = r"<td>([xy] [^<]*)</td>.*?<td class=\"n\">([\d.]+) %</td>"
    rows = dict(re.findall(cells, text, re.DOTALL))
    assert rows["x wins"] == f"{record.comparisons[0].win_rate.value:.1f}"
    both = [[v.a_first for v in _verdicts()], [v.b_first for v in _verdicts()]]
    for name, shares in zip(("x shown first", "y shown first"), both, strict=True):
        assert float(rows[name]) == pytest.approx(100 * sum(shares) / len(shares), abs=0.06)


def _annotated(path: Path, models: tuple[str, ...] = ("m1", "m2"), n: int = 30) -> list[Path]:
    files = []
    for k, model in enumerate(models):
        rows = [
            {
                "instruction": f"prompt {i}",
                "output_1": f"the baseline says {i} and no more",
                "generator_1": "base",
                "output_2": f"the baseline says {i} and {model} says more" + " so" * (i % 4),
                "generator_2": model,
                "annotator": "judge-of-paper",
                "preference": None if i == 5 else 2.0 - (i % (3 + k) == 0),
            }
            for i in range(n)
        ]
        files.append(path / f"{model}.json")
        files[-1].write_text(json.dumps(rows), encoding="utf-8")
    return files


def _annotation_page(path: Path, files: list[Path]) -> str:
    record = compare_annotations(files, Deciding(draws=100))
    verdicts = annotated_verdicts(files)
    page = write_comparison(record, verdicts, surprises(verdicts), path / "page.html")
    return " ".join(page.read_text(encoding="utf-8").split())


def test_annotations_with_texts_have_the_same_browser_and_claim_no_order(tmp_path: Path) -> None:
    text = _annotation_page(tmp_path, _annotated(tmp_path))
    assert text.count('class="sample') == 60
    for label in ("All 60", "First-named better 40", "Second-named better 18", "No verdict 2"):
        assert label in text, label
    assert "the file does not say which answer was shown first" in text
    assert not re.search(r"\d %[^<]*shown (first|second)", text)
    assert '<option value="1">m2 and base, judge-of-paper</option>' in text
    # Both models' answers to a prompt stand together.
    order = re.findall(r'data-models="(\d)"', text)
    assert order == ["0", "1"] * 30


def test_the_headline_of_annotations_says_who_is_told_apart(tmp_path: Path) -> None:
    files = _annotated(tmp_path)
    assert "<h1>m2 leads, not told apart from m1</h1>" in _annotation_page(tmp_path, files)
    assert "<h1>m1 has the highest win rate</h1>" in _annotation_page(tmp_path, files[:1])
    rows = [{**row, "preference": 1.0, "generator_2": "bad"} for row in json.loads(files[0].read_text())]
    rows = [{**row, "output_2": row["output_2"] + "!" * (i % 3)} for i, row in enumerate(rows)]
    (tmp_path / "bad.json").write_text(json.dumps(rows))
    text = _annotation_page(tmp_path, [files[1], tmp_path / "bad.json"])
    assert "<h1>m2 beats the baseline more often than every other</h1>" in text


def test_annotations_without_texts_say_so_in_a_line(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    columns = {
        "model": ["m"] * 30,
        "index": list(range(30)),
        "preference": [1.0 + i % 2 for i in range(30)],
        "chars_model": [100 + i for i in range(30)],
        "chars_baseline": [120] * 30,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    text = _annotation_page(tmp_path, [tmp_path / "a.parquet"])
    assert 'class="sample' not in text and "<script>" not in text
    assert "There are none to show: Parquet annotations hold numbers alone." in text
    assert "There are none to show" not in _page(tmp_path, _verdicts())[0]


def test_a_persons_vote_has_one_order(tmp_path: Path) -> None:
    votes = _verdicts(orders=1, a_first=1.0, b_first=None) + _verdicts(4, orders=1, a_first=None, b_first=0.0)
    text, _ = _page(tmp_path, votes)
    assert "x 100 %: shown first" in text.replace("\u00a0", " ")
    assert "x 0 %: shown second" in text.replace("\u00a0", " ")
