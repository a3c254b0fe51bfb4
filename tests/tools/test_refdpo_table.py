"""The published tables go through the same statistics as any study's scores."""

import numpy as np
import pytest

from tools.refdpo_table import COLUMNS, PROMPTS, SFT, differences, how_tight, scores


def test_scores_have_exactly_the_published_means_and_the_stated_errors() -> None:
    rates = [7.57, 16.25, 12.36]
    table = scores(rates, 0.5)
    assert table.mean(axis=1) == pytest.approx(rates)
    p = np.array(rates) / 100
    assert table.std(axis=1, ddof=1) == pytest.approx(88 * np.sqrt(p * (1 - p)))
    assert np.corrcoef(table)[0, 1] == pytest.approx(0.5)
    assert table.shape == (3, PROMPTS)


def test_the_table_is_the_papers() -> None:
    assert COLUMNS["mistral-7b", "self"][0.01] == 16.25 and COLUMNS["tulu-2-7b", "self"][0.02] == 10.46
    assert COLUMNS["mistral-7b", "Mistral-v0.2"][1] == 20.25 and SFT["mistral-7b"] == 7.57
    assert sum(len(column) for column in COLUMNS.values()) == 36


def test_what_survives_is_what_the_log_says() -> None:
    rows = {name: (inside, outside) for name, inside, outside in how_tight(0.5)}
    assert rows["mistral-7b, self"] == ("0.1 0.02 0.01", "SFT 0.05 0.005")
    assert rows["qwen2-1.5b, self"][1] == "none"  # an inverted U of noise would look like this
    found = {name: (low, high) for name, _, low, high in differences(0.5)}
    assert found["DPO - posterior"][0] > 0
    assert found["mistral-7b: Llama-3-70B - self"][0] < 0 < found["mistral-7b: Llama-3-70B - self"][1]
    alone = {name: low for name, _, low, _ in differences(0.0)}
    assert alone["DPO - posterior"] < 0  # it survives only because models share prompts
