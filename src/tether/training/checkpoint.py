"""Checkpoints: safetensors for tensors, JSON for the rest, a digest per file, the marker last.

checkpoints/step-N/
    weights.safetensors    trainable parameters, by name
    optimizer.safetensors  AdamW's moments, `exp_avg.<name>` ...
    random.safetensors     random-number states
    reference.safetensors  weights of a moving reference, where the run has one
    state.json             step, schedule, counters, best metric, token budget
    complete.json          sha256 of every file above; written last, so a folder without it is none
checkpoints/start-adapter.safetensors
                           A and B at step 0 of an adapter whose base was split for it (PiSSA)
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tether.errors import CheckpointError, ResourceError
from tether.policies.adapters import trainable
from tether.policies.sharding import collected, like
from tether.records.results import file_digest, write_json

MARKER = "complete.json"
REFERENCE = "reference.safetensors"
START = "start-adapter.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    reference: Mapping[str, Tensor] | None = None,
    *,
    first: bool = True,
) -> Path:
    """Write `step-N` beside the older ones, whole or not at all; of several processes only the first writes.

    `reference` holds a moving one's weights.

    Raises:
        ResourceError: the disk is full or not writable; older checkpoints stay as they are.

    """
    final, temporary = folder / f"step-{step}", folder / f"step-{step}.tmp"
    weights = trainable(model)
    names = {id(parameter): name for name, parameter in weights.items()}
    if not first:
        collected(weights.items(), keep=False)
        collected(_moments(optimizer, names), keep=False)
        return final
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _save(temporary / "weights.safetensors", collected(weights.items(), keep=True))
        _save(temporary / "optimizer.safetensors", collected(_moments(optimizer, names), keep=True))
        _save(temporary / "random.safetensors", random_state())
        if reference is not None:
            _save(temporary / REFERENCE, collected(reference.items(), keep=True))
        write_json(temporary / "state.json", {"step": step, **state})
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / MARKER, {"files": digests})
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(
            f"{final}: could not be written ({disk_problem(error)}); {free / 2**20:.0f} MiB are free; "
            "older checkpoints are intact; free space and run the same command to resume"
        ) from error
    return final


def save_start(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter as it began, once: a resume splits its base with these very tensors."""
    if not (folder / START).is_file():
        _save(folder / f"{START}.tmp", tensors)
        (folder / f"{START}.tmp").replace(folder / START)


def read_start(folder: Path) -> dict[str, Tensor]:
    """Return the adapter as it began; nothing where it is missing or unreadable (it is then made again)."""
    try:
        return load_file(folder / START)
    except (OSError, SafetensorError):
        return {}


def disk_problem(error: BaseException) -> str:
    """Return what the system said; safetensors wraps it in an error of its own."""
    return str(getattr(error, "strerror", None) or error)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), path)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _moments(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Iterator[tuple[str, Tensor]]:
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            yield f"{key}.{names[id(parameter)]}", value if isinstance(value, Tensor) else torch.tensor(value)


def random_state() -> dict[str, Tensor]:
    """Return the states of every random-number generator training draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights, moments and random states back, exactly.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another dtype or shape.

    """
    load_weights(checkpoint.path, model)
    _restore_moments(checkpoint.path, model, optimizer)
    states = load_file(checkpoint.path / "random.safetensors")
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def reference_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's moving reference; none where it has no such file."""
    path = checkpoint.path / REFERENCE
    return load_file(path) if path.is_file() else {}


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        CheckpointError: names, dtypes or shapes differ.

    """
    saved = load_file(path / "weights.safetensors")
    wanted = trainable(model)
    _compare(path / "weights.safetensors", saved, wanted)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(like(parameter, saved[name]))


def _compare(path: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    odd = sorted(set(saved) ^ set(wanted))
    if odd:
        side = "missing" if odd[0] in wanted else "unexpected"
        raise CheckpointError(
            f"{path}: tensor {odd[0]!r} is {side} ({len(odd)} differ); it is of another model"
        )
    for name, tensor in wanted.items():
        if saved[name].shape != tensor.shape or saved[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: {name} is {saved[name].dtype} {list(saved[name].shape)}, "
                f"the model has {tensor.dtype} {list(tensor.shape)}"
            )


def _restore_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    saved = load_file(path / "optimizer.safetensors")
    for name, parameter in trainable(model).items():
        moments = {
            key.split(".", 1)[0]: value for key, value in saved.items() if key.split(".", 1)[1] == name
        }
        if moments:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if key == "step" else like(parameter, value)
                for key, value in moments.items()
            }


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a line for each newer one that is not."""
    damaged: list[str] = []
    for step, path in sorted(_steps(folder), reverse=True):
        problem = verify(path)
        if problem is None:
            return Checkpoint(path, step, json.loads((path / "state.json").read_text())), damaged
        damaged.append(problem)
    return None, damaged


def _steps(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdigit():
            yield int(number), path


def verify(path: Path) -> str | None:
    """Check every file of a checkpoint against its digest; return what is wrong, or None."""
    try:
        files: dict[str, str] = json.loads((path / MARKER).read_text())["files"]
        for name, digest in files.items():
            if file_digest(path / name) != digest:
                return f"{path / name}: damaged (its sha256 is not the one saved)"
        load_file(path / "random.safetensors")
    except FileNotFoundError as error:
        return f"{error.filename}: missing"
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"{path}: unreadable ({error})"
    return None


def rotate(folder: Path, limit: int | None, *, keep: int | None) -> None:
    """Delete old checkpoints beyond `limit`; the best (`keep`) and the newest whole one always stay."""
    if limit is None:
        return
    steps = sorted(_steps(folder), reverse=True)
    good = next((step for step, path in steps if verify(path) is None), None)
    kept = {step for step in (keep, good) if step is not None}
    for step, path in steps:
        if len(kept) < limit:
            kept.add(step)
        if step not in kept:
            shutil.rmtree(path)
