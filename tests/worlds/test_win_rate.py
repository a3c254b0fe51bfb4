"""Win rates of answers that `tether generate` wrote, both models with one seed, beside the exact value."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tether.config.generate import GenerateConfig
from tether.generation import choice, sample
from tether.generation.sample import generate
from tether.judging.comparison import compare_pair
from tether.records.comparison import Verdict
from tether.records.results import read_lines
from tether.worlds import Enumerable

Pairs = list[tuple[str, str, float]]
"""(prompt, id, share of A) of every pair of listed answers."""


@pytest.fixture(scope="module")
def folders(tiny_base: tuple[Any, Any], policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, model in (("base", tiny_base[0]), ("policy", policy)):
        model.save_pretrained(root / name)
        tiny_base[1].save_pretrained(root / name)
    return root


def judged(tiny: Enumerable, folders: Path, out: Path, samples: int) -> Pairs:
    """Answer the world's prompts with both models, as a user would, and judge by the true reward."""
    prompts = out / "prompts.jsonl"
    messages = [[{"role": "user", "content": text}] for text in tiny.language.prompts]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in messages))
    rows: dict[str, list[Any]] = {}
    for name in ("policy", "base"):
        generate(
            GenerateConfig(
                model=str(folders / name),
                prompts=str(prompts),
                out=str(out / f"{name}.jsonl"),
                num_samples=samples,
                max_new_tokens=tiny.max_new_tokens,
                batch_size=512,
                device="cpu",
            )
        )
        rows[name] = list(read_lines(out / f"{name}.jsonl"))
    found: Pairs = []
    for a, b in zip(rows["policy"], rows["base"], strict=True):
        assert (a["id"], a["sample"]) == (b["id"], b["sample"])
        if not (listed(tiny, a) and listed(tiny, b)):  # the exact value is of answers that are listed
            continue
        prompt = a["prompt"][-1]["content"]
        gap = tiny.reward(prompt, a["completion"]) - tiny.reward(prompt, b["completion"])
        found.append((prompt, f"{a['id']}-{a['sample']}", 0.5 if abs(gap) < 1e-9 else float(gap > 0)))
    return found


def listed(tiny: Enumerable, row: dict[str, Any]) -> bool:
    return bool(row["ended"]) and set(row["completion"].split()) <= set(tiny.language.words)


def rate(pairs: Pairs) -> tuple[float, float]:
    """The mean over prompts of the share of wins, and its standard error."""
    by_prompt: dict[str, list[float]] = {}
    for prompt, _, share in pairs:
        by_prompt.setdefault(prompt, []).append(share)
    means = [float(np.mean(shares)) for shares in by_prompt.values()]
    variance = sum(np.var(shares, ddof=1) / len(shares) for shares in by_prompt.values()) / len(means) ** 2
    return float(np.mean(means)), float(np.sqrt(variance))


@pytest.fixture
def common_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before every model had noise of its own."""
    monkeypatch.setattr(
        sample, "sample_seeds", lambda seed, keys, n, *, who: choice.sample_seeds(seed, keys, n)
    )


def exact(tiny: Enumerable, tables: tuple[Any, Any]) -> float:
    return tiny.exact(*tables).win_rate


def test_the_win_rate_of_answers_with_one_seed_is_the_exact_one(
    tiny: Enumerable, tables: tuple[Any, Any], folders: Path, tmp_path: Path
) -> None:
    value, error = rate(judged(tiny, folders, tmp_path, 2000))
    assert error < 0.01 and abs(value - exact(tiny, tables)) < 3 * error


def test_with_common_noise_it_would_be_another_number(
    tiny: Enumerable, tables: tuple[Any, Any], folders: Path, tmp_path: Path, common_noise: None
) -> None:
    pairs = judged(tiny, folders, tmp_path, 2000)
    value, error = rate(pairs)
    assert abs(value - exact(tiny, tables)) > 3 * error
    assert np.mean([share == 0.5 for _, _, share in pairs]) > 0.5  # like models say the same and tie


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_interval_covers_the_exact_win_rate(
    tiny: Enumerable, tables: tuple[Any, Any], folders: Path, tmp_path: Path
) -> None:
    """Comparisons of 200 prompts each: 95 % intervals hold the exact value in 95 %, within 3 errors."""
    by_prompt: dict[str, Pairs] = {}
    for pair in judged(tiny, folders, tmp_path, 20_000):
        by_prompt.setdefault(pair[0], []).append(pair)
    mixed = [pair for together in zip(*by_prompt.values(), strict=False) for pair in together]
    truth, size = 100 * exact(tiny, tables), 200
    starts = range(0, len(mixed) - size + 1, size)
    assert len(starts) >= 100
    covered = [holds(mixed[start : start + size], truth) for start in starts]
    assert abs(np.mean(covered) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / len(starts))


def holds(pairs: Sequence[tuple[str, str, float]], truth: float) -> bool:
    verdicts = [
        Verdict(
            id=name, prompt=prompt, model_a="policy", model_b="base", answer_a="a", answer_b="b",
            judge="truth", a_first=share, b_first=share,
        )
        for prompt, name, share in pairs
    ]  # fmt: skip
    found = compare_pair(verdicts, draws=500, seed=0).win_rate
    assert found.low is not None and found.high is not None
    return found.low <= truth <= found.high
