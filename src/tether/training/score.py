"""Scoring rows with a model: the one way a reference table is made."""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.config.hub import published_as
from tether.config.train import TrainConfig
from tether.policies.head import plain_model
from tether.policies.layout_check import LayoutChoice, choose_layout
from tether.policies.load import LoadedModel, load_model
from tether.policies.quantisation import Quantisation, quantisation_of
from tether.policies.reference import SCORING_VERSION, ReferenceIdentity, ReferenceTable
from tether.policies.sharding import shard
from tether.records.rows import Preference
from tether.tokens.collate import collate
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import EncodedGroup, Renderer
from tether.training.parallel import ALONE, Processes
from tether.training.prepare import check_ids
from tether.training.steps import Engine, update_logprobs

ROWS_PER_PASS = 256
"""Rows scored between two progress notes."""


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Name a tokenizer and its template by content: vocabulary, merges, normaliser, special tokens."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    template = json.dumps(tokenizer.chat_template, sort_keys=True, default=str)
    return {"tokenizer": _short(text + special), "template": _short(template)}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def embedding_rows(model: nn.Module) -> int:
    """Return how many token ids the model's input embedding knows."""
    return int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def device_of(name: str) -> torch.device:
    """Return the device a config names; `auto` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def default_budget(device: torch.device) -> int:
    """Return the token budget of a micro-batch where the user gave none (a CPU gains nothing by more)."""
    if device.type != "cuda":
        return 1536
    free, _ = torch.cuda.mem_get_info(device)
    return 16384 if free > 40 * 2**30 else 8192


def autocast_for(bf16: bool, device: torch.device) -> Callable[[], Any]:
    """Return the context a forward runs in: bf16 compute, or nothing."""
    if not bf16:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def uses_bf16(config: TrainConfig) -> bool:
    """Return whether compute is bf16: as asked, else on CUDA only."""
    return device_of(config.device).type == "cuda" if config.bf16 is None else config.bf16


def fill_table(
    table: ReferenceTable,
    engine: Engine,
    groups: Sequence[EncodedGroup],
    *,
    budget: int,
    keep_tokens: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Score every text the table does not have yet, with the engine's model in eval mode."""
    engine.model.eval()
    todo = [g for g in groups if table.missing([c.key for c in g.completions])]
    for start in range(0, len(todo), ROWS_PER_PASS):
        part = todo[start : start + ROWS_PER_PASS]
        # Neighbours of similar length waste less; the table does not care about order.
        part = sorted(part, key=lambda g: g.tokens)
        batch = collate(part)
        table.add(batch, update_logprobs(engine, batch, budget), keep_tokens=keep_tokens)
        if progress is not None:
            progress(min(start + ROWS_PER_PASS, len(todo)), len(todo))


def identity(
    kind: str,
    *,
    weights: str,
    adapter: str | None,
    tokenizer: PreTrainedTokenizerBase,
    stops: frozenset[int],
    config: TrainConfig,
    engine: Engine,
    without_prompt: bool,
    arithmetic: str = "",
) -> ReferenceIdentity:
    """Name a reference: what is scored, and how; `arithmetic` is the part a fresh adapter takes in it."""
    model: Any = engine.model
    device = next(model.parameters()).device
    published = published_as(str(plain_model(model).config._name_or_path))
    return ReferenceIdentity(
        kind,
        scored={
            "weights": weights,
            "adapter": adapter or "none",
            "quantisation": quantisation_of(model),
            **tokenizer_identity(tokenizer),
            "stop_ids": ",".join(map(str, sorted(stops))),
            "truncation": f"{config.truncation_mode} {config.max_length}",
            "turns": config.score_turns,
            "prompt": "without" if without_prompt else "with",
            "scoring_version": str(SCORING_VERSION),
        },
        computed={
            "dtype": "bf16 compute" if uses_bf16(config) else str(next(model.parameters()).dtype),
            "attention": str(getattr(model.config, "_attn_implementation", "unknown")),
            "layout": engine.layout,
            "device": device.type,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "machine": platform.machine(),
            **({"adapter": arithmetic} if arithmetic else {}),
            **({"published": published} if published else {}),
        },
    )


class Scorer(NamedTuple):
    """A model ready to score: its engine, the rows as its tokenizer sees them, its names, its texts."""

    engine: Engine
    groups: list[EncodedGroup]
    loaded: LoadedModel
    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]

    def identity(self, kind: str, config: TrainConfig, *, without_prompt: bool) -> ReferenceIdentity:
        """Name the model as a reference."""
        return identity(
            kind,
            weights=self.loaded.weights,
            adapter=self.loaded.adapter,
            tokenizer=self.tokenizer,
            stops=self.stops,
            config=config,
            engine=self.engine,
            without_prompt=without_prompt,
        )


def open_scorer(
    path: str | Path,
    config: TrainConfig,
    rows: Sequence[Preference],
    *,
    without_prompt: bool = False,
    processes: Processes = ALONE,
    sharded: bool = False,
    quantisation: Quantisation | None = None,
) -> Scorer:
    """Load any model with its own tokenizer, ready to score rows the policy already truncated.

    It is loaded as its folder has it, whatever the policy is stored as, unless `quantisation` is given.
    """
    device = device_of(config.device)
    dtype = torch.bfloat16 if uses_bf16(config) else torch.float32
    place = torch.device("cpu") if sharded else device
    loaded = load_model(
        path, dtype=dtype, device=place, attention=config.attn_implementation, quantisation=quantisation
    )
    if sharded:
        shard(loaded.model, device, processes.count)
    tokenizer = load_tokenizer(str(path))
    stops = stop_ids(tokenizer, str(path))
    renderer = Renderer(tokenizer, stops, without_prompt=without_prompt, score_turns=config.score_turns)
    groups = renderer.encode_all(rows)
    check_ids(groups, embedding_rows(loaded.model))
    autocast = autocast_for(uses_bf16(config), device)
    layout = layout_for(loaded.model, config.layout, groups, autocast)
    engine = Engine(
        loaded.model,
        config,
        layout.name,
        config.head_chunk,
        autocast,
        dtype,
        processes=processes,
    )
    return Scorer(engine, groups, loaded, tokenizer, stops)


def layout_for(
    model: Any, requested: str, groups: Sequence[EncodedGroup], autocast: Callable[[], Any]
) -> LayoutChoice:
    """Choose a layout for a run in `autocast`: compare it with `padded` on two short rows and the longest.

    Windows and position limits show on long texts only, so the longest is compared whole. The short ones show
    a sibling or a neighbour leaking in, which a few of their tokens do as well as all.
    """
    ordered = sorted(groups, key=lambda g: g.tokens)
    some = collate([*(g.shortened() for g in ordered[:2]), *ordered[2:][-1:]])
    return choose_layout(model, requested, some, autocast=autocast)


def score_rows(
    path: str, config: TrainConfig, rows: Sequence[Preference], *, without_prompt: bool = False
) -> tuple[Scorer, ReferenceTable]:
    """Return a model ready to score (see `open_scorer`) and what it gives these rows."""
    scorer = open_scorer(path, config, rows, without_prompt=without_prompt)
    table = ReferenceTable(scorer.identity("model", config, without_prompt=without_prompt), {})
    budget = config.max_tokens_per_microbatch or default_budget(device_of(config.device))
    fill_table(table, scorer.engine, scorer.groups, budget=budget)
    return scorer, table
