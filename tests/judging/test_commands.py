import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.cli.compare import compare
from tether.cli.winrate import fit_difficulty_table, rates
from tether.errors import DataError, NotBetter, UsageError


def _answers(path: Path, name: str, lengths: list[int]) -> Path:
    rows = [
        {"id": str(i), "prompt": f"prompt {i}", "completion": "x" * n, "sample": 0, "model": name}
        for i, n in enumerate(lengths)
    ]
    (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path / f"{name}.jsonl"


def _annotations(path: Path, n: int = 60) -> Path:
    generator = np.random.default_rng(0)
    table = {
        "model": ["good"] * n + ["bad"] * n,
        "index": list(range(n)) * 2,
        "preference": list(1 + (generator.random(n) < 0.8)) + list(1 + (generator.random(n) < 0.2)),
        "chars_model": generator.integers(100, 900, size=2 * n).tolist(),
        "chars_baseline": generator.integers(100, 900, size=n).tolist() * 2,
    }
    pq.write_table(
        pa.table({k: [float(x) if k == "preference" else x for x in v] for k, v in table.items()}),
        path / "a.parquet",
    )
    return path / "a.parquet"


def test_answers_are_judged_compared_and_gated(tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(0)
    long = _answers(tmp_path, "long", generator.integers(60, 90, size=40).tolist())
    short = _answers(tmp_path, "short", generator.integers(10, 70, size=40).tolist())
    verdicts, cache = tmp_path / "v.jsonl", tmp_path / "c.jsonl"
    assert (
        compare(
            [long, short],
            judge="length",
            verdicts=verdicts,
            cache=cache,
            draws=200,
            require="long > short",
            json=True,
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    (found,) = document["comparisons"]
    assert found["win_rate"]["value"] > 80
    assert document["requirement"]["shown"]
    with pytest.raises(NotBetter, match="short > long not shown"):
        compare([verdicts], require="short > long", draws=200)
    assert "told apart" in capsys.readouterr().out
    assert compare([verdicts], draws=200, json=True) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"] == document["comparisons"]


def test_more_than_two_models_get_a_rating(tmp_path: Path, capsys) -> None:
    files = [
        _answers(tmp_path, name, [n + i % 3 for i in range(30)])
        for name, n in (("a", 10), ("b", 11), ("c", 12))
    ]
    compare(files, judge="length", draws=100, json=True)
    document = json.loads(capsys.readouterr().out)
    assert [r["model"] for r in document["ratings"]] == ["c", "b", "a"]
    assert len(document["comparisons"]) == 3
    compare(files, judge="random", draws=100)
    assert "Bradley-Terry" in capsys.readouterr().out


def test_a_world_judges_by_its_known_reward(tmp_path: Path, capsys) -> None:
    files = [_answers(tmp_path, "a", [5] * 4), _answers(tmp_path, "b", [6] * 4)]
    compare(files, judge="world:sentiment", draws=100, json=True)
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert found["judge"].startswith("world:sentiment")
    assert found["inconsistent"] == 0


def test_annotations_are_compared_on_the_same_prompts_and_gated(tmp_path: Path, capsys) -> None:
    path = _annotations(tmp_path)
    assert compare([path], require="good > bad", draws=200) == 0
    assert "good > bad shown" in capsys.readouterr().out
    with pytest.raises(NotBetter) as error:
        compare([path], require="bad > good", by="lc_win_rate", draws=200)
    assert error.value.exit_code == 5


def test_streaming_stops_when_the_answer_is_known(tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(0)
    long = _answers(tmp_path, "long", generator.integers(60, 90, size=200).tolist())
    short = _answers(tmp_path, "short", generator.integers(10, 70, size=200).tolist())
    compare([long, short], judge="length", stream=True, require="long > short", json=True)
    found = json.loads(capsys.readouterr().out)["stream"]
    assert found["decided"] and found["asked"] < 60
    assert found["interval"][0] > 50
    with pytest.raises(NotBetter, match="not shown"):
        compare([long, short], judge="length", stream=True, require="short > long")
    with pytest.raises(NotBetter, match="200 of 200"):
        compare([long, short], judge="random", stream=True, require="long > short")
    with pytest.raises(UsageError, match="--stream"):
        compare([_annotations(tmp_path)], stream=True)


def test_what_cannot_be_compared_is_refused_with_the_next_step(tmp_path: Path) -> None:
    answers = _answers(tmp_path, "a", [3, 4])
    with pytest.raises(UsageError, match="tether generate"):
        compare([tmp_path], judge="length")
    with pytest.raises(UsageError, match="--judge"):
        compare([answers, _answers(tmp_path, "b", [3, 4])])
    with pytest.raises(UsageError, match="different kinds"):
        compare([answers, _annotations(tmp_path)])
    with pytest.raises(UsageError, match="server:http"):
        compare([answers, answers], judge="server:http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="length, random"):
        compare([answers, answers], judge="oracle")
    with pytest.raises(DataError, match="no such file"):
        compare([tmp_path / "absent.jsonl"])


def test_winrate_prints_the_documented_fields(tmp_path: Path, capsys) -> None:
    path = _annotations(tmp_path)
    rates(path, draws=200, json=True)
    document = json.loads(capsys.readouterr().out)
    entry = document["models"]["good"]
    assert {
        "win_rate",
        "win_rate_interval",
        "lc_win_rate",
        "lc_win_rate_interval",
        "lc_kind",
        "n",
        "missing",
    } <= set(entry)
    assert entry["lc_kind"] == document["lc_kind"] == "own-prompts"
    rates(path, draws=200)
    assert "own prompts" in capsys.readouterr().out
    with pytest.raises(UsageError, match="at least 100"):
        rates(path, draws=5)


def test_a_rebuilt_table_is_read_back_for_length_control(tmp_path: Path, capsys) -> None:
    path = _annotations(tmp_path)
    published = tmp_path / "published.csv"
    published.write_text(
        "model,win_rate,length_controlled_winrate,np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\n"
        "good,80,78,-0.9,0.5,1.4\nbad,20,22,-1.1,0.6,-1.3\n"
    )
    table, gamed = tmp_path / "d.csv", tmp_path / "g.csv"
    fit_difficulty_table(path, published=published, output=table, gamed_output=gamed)
    capsys.readouterr()
    rates(path, difficulty=table, gamed=gamed, draws=100, json=True)
    entry = json.loads(capsys.readouterr().out)["models"]["good"]
    assert entry["lc_kind"] == "alpacaeval-2"
    assert entry["lc_note"] == ""
    assert entry["lc_win_rate"] == pytest.approx(78, abs=8)
    rates(path, gamed=gamed, draws=100, json=True)
    assert json.loads(capsys.readouterr().out)["lc_kind"] == "alpacaeval-2"
