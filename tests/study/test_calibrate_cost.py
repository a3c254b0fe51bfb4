"""`tether calibrate` keeps its price: work is counted at every block of every model, no clock is trusted."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tests.tiny import gentle_model, save_model
from tests.training.conftest import rows
from tether import api
from tether.config.aliases import TRAIN_ALIASES
from tether.config.parse import build
from tether.config.train import TrainConfig
from tether.study import calibrate as calibrating
from tether.study.dialler import FEWEST, within
from tether.study.price import LIMIT
from tether.training.run import train

HELD_OUT = 120
OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "train_batch_size": 8,
    "kl_max_new_tokens": 6,
    "save_strategy": "no",
    "beta": 0.3,
}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Tokens through blocks so far, thrice where a gradient follows; it is the only clock there is."""
    done = [0.0]

    def count(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, LlamaDecoderLayer):
            tokens = given[0].shape[0] * given[0].shape[1]
            done[0] += tokens * (3 if torch.is_grad_enabled() else 1)

    monkeypatch.setattr(time, "perf_counter", lambda: done[0])
    monkeypatch.setattr(calibrating, "within", partial(within, clock=lambda: done[0]))
    handle = register_module_forward_pre_hook(count)
    yield done
    handle.remove()


@pytest.mark.parametrize(("halves", "epochs"), [(False, 1), (True, 4)])
def test_all_of_it_takes_at_most_one_and_a_half_training_runs(
    tmp_path: Path, work: list[float], halves: bool, epochs: int
) -> None:
    model = save_model(tmp_path / "model-in", gentle_model())
    for name, count, first in (("train", 240, 0), ("eval", HELD_OUT, 1000)):
        text = "".join(json.dumps(row) + "\n" for row in rows(count, first))
        (tmp_path / f"{name}.jsonl").write_text(text)
    files = {"data": str(tmp_path / "train.jsonl"), "eval_data": str(tmp_path / "eval.jsonl")}
    given: dict[str, Any] = {**OPTIONS, "num_train_epochs": epochs, "eval_data": files["eval_data"]}
    began = work[0]
    found = api.calibrate(model, files["data"], tmp_path / "cal", dials=[0.5, 1, 2], halves=halves, **given)
    spent = work[0] - began
    values = {**given, "model": str(model), "data": files["data"], "output_dir": str(tmp_path / "alone")}
    began = work[0]
    train(build(TrainConfig, {**values, "measure_prompts": 0}, aliases=TRAIN_ALIASES))
    alone = work[0] - began
    assert FEWEST < found.prompts < HELD_OUT, "some prompts beyond the fewest, not all: the price decided"
    assert spent <= LIMIT * alone
    assert LIMIT - 0.2 < found.cost <= LIMIT
    # Of halves it is an estimate: checks before training are left out, rows are not alike in length.
    assert found.cost == pytest.approx(spent / alone, rel=0.02 if halves else 1e-9)
