"""Write the stored trajectories again: `python -m tests.training.make_golden`.

Only for a change that is meant to move them; the commit says why.
"""

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.tiny import gentle_model, tiny_tokenizer
from tests.training.conftest import rows
from tether.config.train import TrainConfig
from tether.records.results import read_lines
from tether.training.policy import IN_MEMORY, InMemory
from tether.training.run import Given, train

FOLDER = Path(__file__).parent / "golden"

CASES: dict[str, dict[str, Any]] = {
    "sigmoid-full": {},
    "ipo-lora": {"loss_type": "ipo", "use_peft": True, "lora_r": 4, "learning_rate": 1e-2},
    "sft": {"loss_type": "sft"},
}
STORED = ("loss", "grad_norm", "learning_rate", "logps/chosen", "rewards/margins", "num_tokens")


def trajectory(name: str, output_dir: Path) -> list[dict[str, float]]:
    """Train 20 updates of 4 pairs on a tiny Llama in memory; return the stored metrics of each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = gentle_model()
    config = TrainConfig.model_validate(
        {
            "model_name_or_path": IN_MEMORY,
            "dataset_name": "(rows in memory)",
            "output_dir": str(output_dir),
            "learning_rate": 1e-3,
            "warmup_steps": 3,
            "weight_decay": 0.1,
            "max_grad_norm": 0.3,
            "train_batch_size": 4,
            "max_steps": 20,
            "max_tokens_per_microbatch": 200,
            "layout": "padded",
            "logging_steps": 1,
            "measure_prompts": 0,
            "seed": 7,
            "device": "cpu",
            **CASES[name],
        }
    )
    train(config, given=Given(InMemory(model, tiny_tokenizer(chat=False)), rows(24)))
    lines = read_lines(output_dir / "metrics.jsonl")
    return [{key: line[key] for key in STORED if key in line} for line in lines if line["phase"] == "train"]


def machine() -> str:
    """Name what decides the order of fp32 sums: machine type and vector width."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    """Write every trajectory, with the build it was made on."""
    FOLDER.mkdir(exist_ok=True)
    build = {"torch": torch.__version__, "machine": machine()}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            document = {**build, "steps": trajectory(name, Path(folder) / "run")}
        (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
