"""Model folders of the benchmark: random Llama-shaped models over a tokenizer that learnt the rows."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TOOL = Path(__file__).resolve().parents[1] / "tools" / "small_model.py"


@dataclass(frozen=True)
class Size:
    """Options of tools/small_model.py."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {
    "tiny": Size(32, 1, 2, 400),
    "1M": Size(128, 2, 2, 8000),
    "5M": Size(256, 4, 4, 8000),
    "20M": Size(384, 6, 6, 32000),
    "28M": Size(512, 8, 8, 8000),
    "0.4B": Size(1280, 20, 20, 32000),
    "0.9B": Size(2048, 16, 32, 32000),
}


def build(size: Size, corpus: Path, out: Path) -> Path:
    """Make the folder once; the tokenizer learns from `corpus`."""
    if not out.is_dir():
        options = {
            "data": corpus,
            "out": out,
            "vocab": size.vocabulary,
            "hidden": size.hidden,
            "layers": size.layers,
            "heads": size.heads,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, str(TOOL), *words], check=True, stdout=subprocess.DEVNULL)
    return out


def adapter(model: Path, out: Path, *, seed: int = 0) -> Path:
    """Write a LoRA adapter (rank 16, all linear layers, B = 0) that both programs start from."""
    if not out.is_dir():
        torch.manual_seed(seed)
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        get_peft_model(base, config).save_pretrained(out)
        AutoTokenizer.from_pretrained(model).save_pretrained(out)
    return out
