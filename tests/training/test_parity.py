"""The same rows, order and learning rate through TRL 1.16 and through tether give the same losses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import save_model, tiny_model
from tether.config.train import TrainConfig
from tether.data.checks import load
from tether.training.run import train
from tether.training.track import Silent

pytestmark = [pytest.mark.parity, pytest.mark.data]
UPDATES, PAIRS = 20, 5


@pytest.fixture
def real_rows(real_data: Path, tmp_path: Path) -> Path:
    """Write 100 HH rows with explicit prompts, in file order, short enough that nothing is cut."""
    loaded = load(str(real_data / "hh-harmless.jsonl.gz"), task="preference")
    rows = [
        r for r in loaded.rows if len(str(r.prompt)) + sum(len(str(c.content)) for c in r.completions) < 500
    ]
    rows = rows[:100]
    path = tmp_path / "hh.jsonl"
    lines = [
        {"prompt": r.prompt, "chosen": r.completions[0].content, "rejected": r.completions[1].content}
        for r in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save a small random model that a learning rate of 1e-4 can move."""
    model = tiny_model(
        "llama", hidden_size=128, intermediate_size=256, num_hidden_layers=2, max_position_embeddings=4096
    )
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data.mul_(0.5)
    return save_model(tmp_path / "model", model)


class Captured:
    """Losses per update, and the gradient the first optimizer step saw."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradient: dict[str, torch.Tensor] = {}


def capture_first_gradient(monkeypatch: pytest.MonkeyPatch, model_of: Any, into: Captured) -> None:
    original = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not into.gradient:
            into.gradient = {
                name.replace("base_model.model.", "").replace(".default", ""): p.grad.detach().clone()
                for name, p in model_of().named_parameters()
                if p.grad is not None
            }
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


def run_trl(
    folder: Path, rows: Path, loss_type: str, out: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> Captured:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    captured = Captured()
    adapter = (folder / "adapter_config.json").is_file()
    base = (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        if adapter
        else folder
    )
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    data = Dataset.from_list([json.loads(line) for line in rows.read_text().splitlines()])
    arguments = DPOConfig(
        output_dir=str(out),
        loss_type=[loss_type],
        beta=0.1,
        label_smoothing=0.1 if loss_type == "robust" else 0.0,
        learning_rate=1e-4,
        lr_scheduler_type="linear",
        per_device_train_batch_size=PAIRS,
        max_steps=UPDATES,
        max_length=None,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        report_to="none",
        save_strategy="no",
        **more,
    )
    trainer = DPOTrainer(
        model, args=arguments, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(base)
    )
    capture_first_gradient(monkeypatch, lambda: trainer.model, captured)
    trainer.train()
    monkeypatch.undo()
    captured.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return captured


class Losses(Silent):
    """Remembers the loss of each update."""

    def __init__(self, into: Captured) -> None:
        self.into = into

    def step(self, step: int, total: int, loss: float) -> None:
        self.into.losses.append(loss)


def run_tether(
    folder: Path, rows: Path, loss_type: str, out: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> Captured:
    from tether.training import run as run_module

    captured = Captured()
    held: dict[str, Any] = {}
    original = run_module.load_policy

    def remember(*args: Any, **named: Any) -> Any:
        held["policy"] = original(*args, **named)
        return held["policy"]

    monkeypatch.setattr(run_module, "load_policy", remember)
    capture_first_gradient(monkeypatch, lambda: held["policy"].model, captured)
    config = TrainConfig.model_validate(
        {
            "model_name_or_path": str(folder),
            "dataset_name": str(rows),
            "output_dir": str(out),
            "loss_type": loss_type,
            "label_smoothing": 0.1 if loss_type == "robust" else 0.0,
            "learning_rate": 1e-4,
            "train_batch_size": PAIRS,
            "max_steps": UPDATES,
            "max_length": None,
            "train_sampling_strategy": "sequential",
            "measure_prompts": 0,
            "save_strategy": "no",
            **more,
        }
    )
    train(config, watcher=Losses(captured))
    monkeypatch.undo()
    return captured


def compare(ours: Captured, theirs: Captured) -> None:
    assert len(ours.losses) == len(theirs.losses) == UPDATES
    assert abs(ours.losses[0] - ours.losses[-1]) >= 0.05 or max(ours.losses) - min(ours.losses) >= 0.05
    assert set(ours.gradient) == set(theirs.gradient)
    distance = sum(
        float((ours.gradient[n] - theirs.gradient[n]).double().square().sum()) for n in ours.gradient
    )
    size = sum(float(g.double().square().sum()) for g in theirs.gradient.values())
    assert (distance / size) ** 0.5 <= 1e-5
    assert abs(ours.losses[0] - theirs.losses[0]) <= 1e-5
    assert abs(ours.losses[-1] - theirs.losses[-1]) <= 1e-4


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "ipo", "apo_zero"])
def test_full_tuning_follows_trl(
    loss_type: str,
    layout: str,
    folder: Path,
    real_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = run_trl(folder, real_rows, loss_type, tmp_path / "trl", monkeypatch)
    ours = run_tether(folder, real_rows, loss_type, tmp_path / "ours", monkeypatch, layout=layout)
    compare(ours, theirs)


def test_a_moving_reference_follows_trl(
    folder: Path, real_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = {"ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 6}
    theirs = run_trl(
        folder, real_rows, "sigmoid", tmp_path / "trl", monkeypatch, sync_ref_model=True, **moves
    )
    ours = run_tether(
        folder, real_rows, "sigmoid", tmp_path / "ours", monkeypatch, reference="moving", **moves
    )
    compare(ours, theirs)


def test_lora_follows_trl(
    folder: Path, real_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)  # an adapter that was tuned before
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "adapter")
    theirs = run_trl(tmp_path / "adapter", real_rows, "sigmoid", tmp_path / "trl", monkeypatch)
    ours = run_tether(tmp_path / "adapter", real_rows, "sigmoid", tmp_path / "ours", monkeypatch)
    compare(ours, theirs)
