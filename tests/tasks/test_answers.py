"""What DPO learnt is the models' own log-ratio; the best of N is the best of N."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tasks.conftest import write_rows
from tests.tiny import gentle_model, save_model
from tether.config.parse import build
from tether.config.task import TaskConfig
from tether.generation.completions import Row
from tether.tasks.answers import implicit_rewards, read_answers, samples, write_answers, write_best


def row(prompt: str, completion: str, sample: int = 0, ended: bool = True) -> Row:
    return Row(
        id=prompt,
        prompt=prompt,
        completion=completion,
        ended=ended,
        stopped_by="stop_token" if ended else "limit",
        tokens=3,
        seed=0,
        sample=sample,
        model="m",
    )


ROWS = [
    row("The quick", " brown fox", 0),
    row("The quick", " lazy dog jumps", 1),
    row("Can you", " help me", 0, ended=False),
]


def logprob(folder: Path, one: Row) -> float:
    """Sum of log-probs by one plain forward per text, end token counted where the answer ended."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(str(one.prompt), add_special_tokens=True)["input_ids"]
    said = tokenizer(one.completion, add_special_tokens=False)["input_ids"]
    ids = [*prompt, *said, *([tokenizer.eos_token_id] if one.ended else [])]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))


def test_the_learnt_reward_is_beta_times_the_log_ratio(tmp_path: Path) -> None:
    policy, start = (
        save_model(tmp_path / name, gentle_model(seed=seed)) for name, seed in (("a", 1), ("b", 2))
    )
    found = implicit_rewards(ROWS, str(policy), str(start), 0.3)
    expected = [0.3 * (logprob(policy, one) - logprob(start, one)) for one in ROWS]
    # fp32 sums of a few tokens, each within 1e-5.
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(abs(value) for value in expected) > 1e-2
    assert implicit_rewards(ROWS, str(start), str(start), 0.3) == [0.0] * 3


def test_the_best_of_n_is_the_highest_and_the_first_of_equals(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    rows = [row("a", "1", 0), row("a", "2", 1), row("a", "3", 2), row("b", "4", 0), row("b", "5", 1)]
    write_best(tmp_path, "best-of-3", 0.5, rows, [0.1, 0.9, 0.9, -1.0, -2.0])
    found = read_answers(tmp_path, "best-of-3", 0.5)
    assert {name: one.completion for name, one in found.items()} == {"a": "2", "b": "4"}


def test_the_start_models_own_answer_is_its_first_sample(tmp_path: Path, model_folder: Path) -> None:
    prompts = write_rows(
        tmp_path / "prompts.jsonl", [{"id": f"p{i}", "prompt": f"Can you {i}"} for i in range(3)]
    )
    values = {"task": "dialogue", "title": "x", "world": "dialogue", "max_new_tokens": 5}
    config = build(TaskConfig, values, source="test")
    for name, temperature, count in (("one", 1.0, 1), ("many", 1.0, 4), ("many", 0.0, 4)):
        write_answers(config, str(model_folder), name, prompts, tmp_path, temperature, samples=count)
    assert len(samples(tmp_path, "many", 1.0)) == 12
    assert len(samples(tmp_path, "many", 0.0)) == 3
    one, many = (read_answers(tmp_path, name, 1.0) for name in ("one", "many"))
    assert {k: v.completion for k, v in one.items()} == {k: v.completion for k, v in many.items()}
