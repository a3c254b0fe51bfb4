"""`tether compare` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import save_model, tiny_model
from tether.cli.compare import compare
from tether.errors import DataError, NotBetter, RunFolderError, UsageError
from tether.judging.options import Answering, Deciding, Tables


def _answers(path: Path, name: str, lengths: list[int]) -> Path:
    rows = [
        {"id": str(i), "prompt": f"prompt {i}", "completion": "x" * n, "sample": 0, "model": name}
        for i, n in enumerate(lengths)
    ]
    (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path / f"{name}.jsonl"


def _long_and_short(path: Path, n: int) -> tuple[Path, Path]:
    generator = np.random.default_rng(0)
    return (
        _answers(path, "long", generator.integers(60, 90, size=n).tolist()),
        _answers(path, "short", generator.integers(10, 70, size=n).tolist()),
    )


def _annotations(path: Path, models: tuple[str, ...] = ("good", "bad"), name: str = "a", n: int = 60) -> Path:
    generator = np.random.default_rng(0)
    rates = {"good": 0.8, "bad": 0.2}
    table = {
        "model": [model for model in models for _ in range(n)],
        "index": list(range(n)) * len(models),
        "preference": [
            float(1 + (u < rates[model])) for model in models for u in generator.random(n).tolist()
        ],
        "chars_model": generator.integers(100, 900, size=n * len(models)).tolist(),
        "chars_baseline": generator.integers(100, 900, size=n).tolist() * len(models),
    }
    pq.write_table(pa.table(table), path / f"{name}.parquet")
    return path / f"{name}.parquet"


def _json(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_answers_are_judged_compared_and_gated(tmp_path: Path, capsys) -> None:
    long, short = _long_and_short(tmp_path, 40)
    out = tmp_path / "cmp"
    gate = Deciding(draws=200, require="long > short")
    assert compare([long, short], judge="length", out=out, deciding=gate, json=True) == 0
    document = _json(capsys)
    (found,) = document["comparisons"]
    assert found["win_rate"]["value"] > 80
    assert document["requirement"]["shown"]
    assert document == json.loads((out / "comparison.json").read_text())
    assert {"verdicts.jsonl", "verdicts.cache.jsonl", "comparison.html"} <= {p.name for p in out.iterdir()}
    verdicts = out / "verdicts.jsonl"
    with pytest.raises(NotBetter, match="short > long not shown") as error:
        compare([verdicts], deciding=Deciding(draws=200, require="short > long"))
    assert error.value.exit_code == 5
    assert "told apart" in capsys.readouterr().out
    assert compare([verdicts], deciding=Deciding(draws=200), json=True) == 0
    assert _json(capsys)["comparisons"] == document["comparisons"]


def test_a_gate_at_equal_length_is_another_question(tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(0)
    long = _answers(tmp_path, "long", generator.integers(20, 220, size=120).tolist())
    short = _answers(tmp_path, "short", generator.integers(10, 150, size=120).tolist())
    compare([long, short], judge="length", deciding=Deciding(draws=200, require="long > short"), quiet=True)
    with pytest.raises(NotBetter, match="at equal length wins"):
        gate = Deciding(by="lc_win_rate", draws=200, require="long > short")
        compare([long, short], judge="length", deciding=gate, quiet=True)


def test_model_folders_answer_the_prompts_first_and_a_restart_does_nothing_again(
    tmp_path: Path, capsys
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        save_model(tmp_path / name, tiny_model(seed=seed), chat=True)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"question {i}?\n" for i in range(6)))
    folders = [tmp_path / "one", tmp_path / "two"]
    options = {
        "judge": "length",
        "prompts": prompts,
        "out": tmp_path / "cmp",
        "answering": Answering(max_new_tokens=5, num_samples=2),
        "deciding": Deciding(draws=100),
    }
    compare(folders, **options, json=True)
    first = _json(capsys)
    assert first["models"] == [str(folder) for folder in folders]
    (found,) = first["comparisons"]
    assert (found["prompts"], found["pairs"]) == (6, 12)
    answers = tmp_path / "cmp" / "answers" / "one.jsonl"
    assert len(answers.read_text().splitlines()) == 12
    kept = [answers, tmp_path / "cmp" / "verdicts.cache.jsonl"]
    before = [path.read_bytes() for path in kept]
    compare(folders, **options, json=True)
    assert _json(capsys)["comparisons"] == first["comparisons"]
    assert [path.read_bytes() for path in kept] == before
    mixed = [tmp_path / "one", _answers(tmp_path, "other", [3] * 4)]
    with pytest.raises(DataError, match="no prompt in common"):
        compare(mixed, **(options | {"out": tmp_path / "mixed"}), quiet=True)


def test_more_than_two_models_get_a_rating(tmp_path: Path, capsys) -> None:
    files = [
        _answers(tmp_path, name, [n + i % 3 for i in range(30)])
        for name, n in (("a", 10), ("b", 11), ("c", 12))
    ]
    compare(files, judge="length", deciding=Deciding(draws=100), json=True)
    document = _json(capsys)
    assert [r["model"] for r in document["ratings"]] == ["c", "b", "a"]
    assert len(document["comparisons"]) == 3
    compare(files, judge="random", deciding=Deciding(draws=100))
    assert "Bradley-Terry" in capsys.readouterr().out


def test_a_world_judges_by_its_known_reward(tmp_path: Path, capsys) -> None:
    files = [_answers(tmp_path, "a", [5] * 4), _answers(tmp_path, "b", [6] * 4)]
    compare(files, judge="world:sentiment", deciding=Deciding(draws=100), json=True)
    (found,) = _json(capsys)["comparisons"]
    assert found["judge"].startswith("world:sentiment")
    assert found["inconsistent"] == 0


def test_annotations_are_compared_on_the_same_prompts_and_gated(tmp_path: Path, capsys) -> None:
    path = _annotations(tmp_path)
    assert compare([path], deciding=Deciding(draws=200, require="good > bad")) == 0
    assert "good > bad shown" in capsys.readouterr().out
    with pytest.raises(NotBetter) as error:
        gate = Deciding(by="lc_win_rate", draws=200, require="bad > good")
        compare([path], deciding=gate, page=tmp_path / "p.html")
    assert error.value.exit_code == 5
    assert "own prompts" in capsys.readouterr().out or (tmp_path / "p.html").is_file()


def test_several_files_of_annotations_are_one(tmp_path: Path, capsys) -> None:
    both = _annotations(tmp_path)
    table = pq.read_table(both)
    parts = []
    for model in ("good", "bad"):
        rows = table.filter(pa.compute.equal(table["model"], model))
        pq.write_table(rows.take(list(reversed(range(60)))), tmp_path / f"{model}.parquet")
        parts.append(tmp_path / f"{model}.parquet")
    compare([both], deciding=Deciding(draws=200), json=True)
    together = _json(capsys)
    compare(parts, deciding=Deciding(draws=200), json=True)
    apart = _json(capsys)
    assert together["differences"] == apart["differences"]
    assert together["rates"] == apart["rates"]
    with pytest.raises(DataError, match="good is in another"):
        compare([both, parts[0]])


def test_streaming_stops_when_the_answer_is_known(tmp_path: Path, capsys) -> None:
    long, short = _long_and_short(tmp_path, 200)
    gate = Deciding(require="long > short")
    out = tmp_path / "cmp"
    compare([long, short], judge="length", stream=True, deciding=gate, out=out, json=True)
    found = _json(capsys)["stream"]
    assert found["decided"] and found["asked"] < 60
    assert found["interval"][0] > 50
    assert len((out / "verdicts.jsonl").read_text().splitlines()) == found["asked"]
    assert "is better" in (out / "comparison.html").read_text()
    with pytest.raises(NotBetter, match="not shown"):
        gate = Deciding(require="short > long")
        compare([long, short], judge="length", stream=True, deciding=gate, quiet=True)
    with pytest.raises(NotBetter, match="200 of 200"):
        gate = Deciding(require="long > short")
        compare([long, short], judge="random", stream=True, deciding=gate, quiet=True)


def test_what_cannot_be_compared_is_refused_with_the_next_step(tmp_path: Path) -> None:
    answers = _answers(tmp_path, "a", [3, 4])
    other = _answers(tmp_path, "b", [3, 4])
    with pytest.raises(UsageError, match="--prompts"):
        compare([tmp_path, answers], judge="length")
    with pytest.raises(UsageError, match="--judge"):
        compare([answers, other])
    with pytest.raises(UsageError, match="different kinds"):
        compare([answers, _annotations(tmp_path)])
    with pytest.raises(UsageError, match="server:http"):
        compare([answers, other], judge="server:http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="length, random"):
        compare([answers, other], judge="oracle")
    with pytest.raises(UsageError, match="judged already"):
        compare([_annotations(tmp_path)], stream=True)
    with pytest.raises(UsageError, match="two are needed"):
        compare([answers], judge="length")
    with pytest.raises(UsageError, match="exactly two"):
        compare([answers, other, _answers(tmp_path, "c", [1, 2])], judge="length", stream=True)
    with pytest.raises(UsageError, match="annotations against one baseline"):
        compare([answers, other], judge="length", tables=Tables(difficulty=answers))
    with pytest.raises(DataError, match="no such file"):
        compare([tmp_path / "absent.jsonl"])
    compare([answers, other], judge="length", out=tmp_path / "cmp", quiet=True)
    with pytest.raises(RunFolderError, match="by length"):
        compare([answers, other], judge="random", out=tmp_path / "cmp", quiet=True)


def test_annotations_with_texts_are_numbered_by_the_prompts_file_and_shown(tmp_path: Path, capsys) -> None:
    texts = [f"question {i}" for i in range(40)]
    rows = [
        {
            "instruction": text, "output_1": "b" * (50 + 7 * (i % 9)), "output_2": "m" * (40 + 5 * (i % 13)),
            "generator_1": "base", "generator_2": "m", "preference": 1.0 + (i % 3 > 0),
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(rows[::-1]))
    (tmp_path / "prompts.json").write_text(json.dumps([{"instruction": text} for text in texts]))
    table = [f"{i},{(i % 5) / 5}" for i in range(40)]
    (tmp_path / "d.csv").write_text("\n".join(["index,instruction_difficulty", *table]) + "\n")
    tables, deciding = Tables(difficulty=tmp_path / "d.csv"), Deciding(draws=100)
    with pytest.raises(DataError, match="name --prompts FILE"):
        compare([tmp_path / "m.json"], tables=tables, deciding=deciding)
    compare(
        [tmp_path / "m.json"], tables=tables, deciding=deciding, prompts=tmp_path / "prompts.json",
        page=tmp_path / "page.html", json=True,
    )  # fmt: skip
    (rate,) = _json(capsys)["rates"]
    assert (rate["lc_kind"], rate["n"], rate["missing"]) == ("alpacaeval-2", 40, 0)
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="sample') == 40 and "question 39" in page


def test_prompts_that_nothing_would_read_are_refused(tmp_path: Path) -> None:
    long, short = _long_and_short(tmp_path, 4)
    with pytest.raises(UsageError, match="--prompts is what model folders answer"):
        compare([long, short], judge="length", prompts=tmp_path / "p.jsonl")
