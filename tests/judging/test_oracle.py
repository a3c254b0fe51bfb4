"""Compared with the package alpaca_eval itself, both sides given the same tables (make oracle)."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tether.judging.length_control import GamedRows, fit_length_control

pytestmark = pytest.mark.oracle

GLM = "alpaca_eval.metrics.glm_winrate"


def _rows(path: Path) -> dict[str, dict[str, np.ndarray]]:
    table = pq.read_table(path).to_pydict()
    columns = {name: np.array(values) for name, values in table.items()}
    return {
        str(model): {name: values[columns["model"] == model] for name, values in columns.items()}
        for model in np.unique(columns["model"])
    }


def _tables(models: dict[str, dict[str, np.ndarray]]) -> tuple[np.ndarray, GamedRows]:
    """A difficulty per prompt and the rows of two made-up gamed baselines; any values will do, if shared."""
    generator = np.random.default_rng(0)
    difficulty = generator.normal(-0.2, 1.0, size=805)
    lengths = next(m["chars_baseline"] for m in models.values() if len(m["index"]) == 805).astype(float)
    scaled, shares = [], []
    for factor in (1.45, 0.45):
        delta = lengths - lengths * factor * generator.uniform(0.8, 1.2, size=805)
        scaled.append(delta / delta.std(ddof=1))
        score = -0.9 * np.tanh(scaled[-1]) + 0.1 * difficulty + generator.normal(size=805)
        shares.append(1 / (1 + np.exp(-3 * score)))
    return difficulty, GamedRows(np.concatenate(scaled), np.tile(difficulty, 2), np.concatenate(shares))


def _package_lc(
    rows: dict[str, np.ndarray], table: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float]:
    # Not importorskip: an oracle that cannot be asked is a failure of this tier, not a pass.
    pandas, glm = importlib.import_module("pandas"), importlib.import_module(GLM)
    monkeypatch.setattr(glm, "hf_hub_download", lambda **_: str(table))
    frame = pandas.DataFrame(
        {
            "preference": rows["preference"],
            "output_1": ["x" * int(n) for n in rows["chars_baseline"]],
            "output_2": ["x" * int(n) for n in rows["chars_model"]],
            "generator_1": "baseline",
            "generator_2": "model",
            "annotator": "judge",
        },
        index=rows["index"],
    )
    frame.index.name = "index"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = glm.get_length_controlled_winrate(
            frame, save_weights_dir=None, is_warn_extreme_changes=False
        )
    return float(result["length_controlled_winrate"]), float(result["win_rate"])


def test_length_control_is_the_packages_within_a_twentieth_of_a_point_on_all_28_models(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = _rows(real_data / "alpacaeval-annotations.parquet")
    difficulty, gamed = _tables(models)
    table = tmp_path / "df_gamed.csv"
    pandas = importlib.import_module("pandas")
    pandas.DataFrame(
        {
            "model": ["verbose"] * 805 + ["concise"] * 805,
            "index": np.tile(np.arange(805), 2),
            "preference": gamed.share,
            "std_delta_len": gamed.scaled_delta,
            "instruction_difficulty": gamed.difficulty,
            "not_gamed_baseline": False,
        }
    ).to_csv(table, index=False)
    worst = 0.0
    for rows in models.values():
        theirs, raw = _package_lc(rows, table, monkeypatch)
        delta = (rows["chars_baseline"] - rows["chars_model"]).astype(float)
        share = rows["preference"] - 1
        ours = fit_length_control(delta, difficulty[rows["index"]], share, gamed)
        assert raw == pytest.approx(100 * share.mean(), abs=1e-8)
        worst = max(worst, abs(theirs - ours.lc_win_rate))
    assert len(models) == 28
    assert worst <= 0.05
