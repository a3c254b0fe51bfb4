"""Which machine and which versions a run used."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
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


@dataclass(frozen=True)
class Memory:
    """Memory before a run, in bytes: what this process holds, and what is free for it in all."""

    process: float
    """Resident bytes of the process; 0 on an accelerator, whose memory holds tensors alone."""
    available: float
    """Bytes a run may use, those the process holds already among them."""

    @property
    def free(self) -> float:
        """Bytes beyond those the process holds."""
        return self.available - self.process


def memory_of(device: torch.device) -> Memory:
    """Return the memory at hand on a device."""
    if device.type == "cuda":
        return Memory(0, torch.cuda.mem_get_info(device)[0])
    held = _kib("/proc/self/status", "VmRSS") * 1024
    return Memory(held, held + min(_kib("/proc/meminfo", "MemAvailable") * 1024, _left_to_group()))


def _left_to_group() -> float:
    """Return the bytes this process's control group may still take; infinity without a limit."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return float(int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        return float("inf")  # no control group, or one whose limit is "max"


def _kib(path: str, name: str) -> int:
    with open(path, encoding="ascii") as stream:
        return int(next(line for line in stream if line.startswith(name)).split()[1])


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, MiB: of the accelerator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _kib("/proc/self/status", "VmHWM") / 1024
