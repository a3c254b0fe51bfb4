"""Merging an adapter into its base, and saying what the rounding cost."""

from pathlib import Path
from typing import Any

import torch

from tether.config.hub import model_folder
from tether.errors import ModelError, RunFolderError
from tether.policies.load import is_adapter, load_model
from tether.policies.logprobs import sequence_logprobs
from tether.records.results import Record
from tether.records.rows import Completion, Origin, Preference
from tether.tokens.collate import collate
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import Renderer
from tether.training.export import save_model

PROBES = (
    ("What should I cook tonight?", "A simple soup: onions, carrots, beans and good bread beside it."),
    ("My parcel is late.", "I am sorry about that. Could you send me the order number, please?"),
    (
        "Explain rain to a child.",
        "Water rises from the sea as tiny drops, makes clouds, and falls down again.",
    ),
)


class MergeRecord(Record):
    """What merging changed, in nats per token over fixed probe texts."""

    out: str
    dtype: str
    probe_tokens: int
    error_mean: float
    """Mean |log p merged - log p adapter| per token."""
    error_max: float
    adapter_effect: float
    """Mean |log p adapter - log p base| per token: what the error must be small against."""
    trained_on: str
    """How the base was stored while the adapter was trained. Other than `none` it learnt beside rounding, so
    the merged model, made of the base in full, is not quite the one that was trained."""


def merge_adapter(run: str | Path, out: Path, *, dtype: str = "float32") -> MergeRecord:
    """Merge the adapter of a run folder (or adapter folder, or of the hub) and save a whole model.

    Raises:
        ModelError: there is no adapter.
        RunFolderError: `out` is not empty.

    """
    folder = model_folder(run, weights=True)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not is_adapter(folder):
        raise ModelError(f"{folder}: no adapter here; a fully tuned model needs no merging")
    if out.exists() and any(out.iterdir()):
        raise RunFolderError(f"{out}: not empty; choose another --out")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"dtype {dtype!r}: use float32, bfloat16 or float16")
    loaded = load_model(folder, dtype=getattr(torch, dtype))
    tokenizer = load_tokenizer(str(folder))
    model: Any = loaded.model
    renderer = Renderer(tokenizer, stop_ids(tokenizer, str(folder)))
    batch = collate(
        [renderer.encode(_probe(i, tokenizer.chat_template is not None)) for i in range(len(PROBES))]
    )
    with torch.no_grad():
        tuned = _tokens(model, batch)
        with model.disable_adapter():
            base = _tokens(model, batch)
        merged_model = model.merge_and_unload(safe_merge=True)
        merged = _tokens(merged_model, batch)
    save_model(merged_model, tokenizer, out, base_weights=loaded.weights)
    return MergeRecord(
        out=str(out),
        dtype=dtype,
        probe_tokens=int(tuned.numel()),
        error_mean=float((merged - tuned).abs().mean()),
        error_max=float((merged - tuned).abs().max()),
        adapter_effect=float((tuned - base).abs().mean()),
        trained_on=loaded.trained_on,
    )


def _tokens(model: Any, batch: Any) -> torch.Tensor:
    tokens = sequence_logprobs(model, batch).tokens
    assert tokens is not None
    return tokens


def _probe(index: int, chat: bool) -> Preference:
    prompt, answer = PROBES[index]
    if chat:
        return Preference(
            Origin("probe", index),
            ({"role": "user", "content": prompt},),
            (Completion("completion", ({"role": "assistant", "content": answer},)),),
        )
    return Preference(Origin("probe", index), prompt, (Completion("completion", " " + answer),))
