"""A model that can answer: folder -> weights, tokenizer, end tokens; two of them for a dial."""

from dataclasses import dataclass
from typing import Any

import torch

from tether.config.hub import model_folder, pinned
from tether.errors import ModelError, UsageError
from tether.generation.measure import same_vocabulary
from tether.generation.streams import Dial, Source
from tether.policies.load import base_folder, is_adapter, load_model
from tether.records.rows import canonical_json
from tether.tokens.load import load_tokenizer, stop_ids

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Speaker:
    """A model that can answer: weights, tokenizer, the ids that end its text, and its names."""

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    path: str
    hashes: dict[str, str | None]
    """weights and adapter."""
    trained_on: str = "none"
    """How the base was stored while the adapter was trained."""


@dataclass(frozen=True)
class Machine:
    """Where and how precisely models are run."""

    device: torch.device
    dtype: str
    """A key of `DTYPES`."""
    attention: str | None = None


def machine(device: str, dtype: str, attention: str | None = None) -> Machine:
    """Return the machine the options name; dtype auto is bfloat16 on CUDA, else float32.

    Raises:
        UsageError: a device that is not there.

    """
    place = _device(device)
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" else "float32"
    return Machine(place, dtype, attention)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: {name!r} is not auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device: {name} is not there ({torch.cuda.device_count()} CUDA devices); use --device cpu"
        )
    return device


def open_speaker(path: str, where: Machine) -> Speaker:
    """Load a model or adapter with its tokenizer (an adapter without one has its base's).

    A name of the hub is pinned to the commit it stands for now.

    Raises:
        ModelError: weights or tokenizer are refused.

    """
    path = pinned(path, weights=True)
    tokenizer = load_tokenizer(_tokenizer_of(path))
    loaded = load_model(path, dtype=DTYPES[where.dtype], device=where.device, attention=where.attention)
    settings: Any = loaded.model.generation_config
    stops = stop_ids(tokenizer, settings.to_dict() if settings is not None else None)
    hashes = {"weights": loaded.weights, "adapter": loaded.adapter}
    return Speaker(loaded.model, tokenizer, stops, path, hashes, loaded.trained_on)


def _tokenizer_of(path: str) -> str:
    folder = model_folder(path)
    own = not is_adapter(folder) or (folder / "tokenizer.json").is_file()
    return str(folder if own else base_folder(folder))


def open_reference(path: str, speaker: Speaker, where: Machine) -> Speaker:
    """Load the model a dial turns to.

    Raises:
        ModelError: it is refused, or its tokenizer maps tokens to other ids than the speaker's.

    """
    reference = open_speaker(path, where)
    if not same_vocabulary(speaker.tokenizer, reference.tokenizer):
        raise ModelError(
            f"{reference.path}: its tokenizer maps tokens to other ids than that of {speaker.path}; "
            "a dial mixes next-token distributions, so it needs one vocabulary"
        )
    return reference


def who_answers(speaker: Speaker, reference: Speaker | None = None, dial: float | None = None) -> str:
    """Name whoever answers, by weights: the model, or what a dial makes of two. Its noise is its own.

    Who is the same has one name: a dial at 1 is the model and at 0 the reference, and policy and reference
    may change places where the dial does.
    """
    shares = {canonical_json(speaker.hashes): 1.0}
    if reference is not None and dial is not None:
        shares = {canonical_json(speaker.hashes): dial}
        other = canonical_json(reference.hashes)
        shares[other] = shares.get(other, 0.0) + 1 - dial
    parts = sorted((name, f"{share:.9g}") for name, share in shares.items() if share)
    return parts[0][0] if len(parts) == 1 else canonical_json(parts)


def dial_between(reference: Speaker | None, value: float | None) -> Dial | None:
    """Return the dial of this value, or None without a reference."""
    return None if reference is None or value is None else Dial(value, Source(reference.model))
