import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.cli.winrate import fit_difficulty_table, rates
from tether.errors import UsageError


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
