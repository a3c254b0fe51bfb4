"""Which machine and which versions a run used."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch


def versions() -> dict[str, str]:
    """Return the versions that can move a number."""
    names = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the machine: processor, threads, accelerator."""
    result: dict[str, Any] = {
        "device": str(device),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        result["accelerator"] = torch.cuda.get_device_name(device)
    return result


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, MiB: of the accelerator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with open("/proc/self/status", encoding="ascii") as stream:
        line = next(line for line in stream if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
