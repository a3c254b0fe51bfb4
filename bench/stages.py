"""A micro-benchmark per stage of an update, in this process: where tether's own time goes.

Each stage is run alone, on the first update of a workload, and its best time is taken, so that stages can be
compared over versions; the sum is not quite the time of a run, whose caches are colder.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tether.config.train import TrainConfig
from tether.data.checks import load
from tether.objectives.metrics import pair_metrics
from tether.policies.attention import PackedMask, packed_attention
from tether.policies.head import Parts, take_apart, token_logprobs
from tether.policies.layouts import lay_out
from tether.policies.logprobs import whole_groups
from tether.policies.packed import PackedPlan
from tether.policies.reference import ReferenceIdentity, ReferenceTable
from tether.records.tensors import GroupBatch
from tether.tokens.collate import collate, plan_microbatches
from tether.tokens.load import load_tokenizer, stop_ids
from tether.tokens.render import EncodedGroup, Renderer
from tether.training.optim import make_optimizer
from tether.training.score import autocast_for, default_budget
from tether.training.steps import Engine, update_gradient, update_logprobs
from tether.training.track import Sums

LEAST_SECONDS = 0.6
LEAST_TIMES = 3

Stages = dict[str, float]
"""Stage -> milliseconds per update."""


def stages(model: Path, rows: Path, *, device: str = "cpu", bf16: bool = False, pairs: int = 8) -> Stages:
    """Return the best time of each stage over one update of `pairs` rows."""
    config = TrainConfig.model_validate(
        {
            "model_name_or_path": str(model),
            "dataset_name": str(rows),
            "output_dir": "unused",
            "device": device,
        }
    )
    place = torch.device(device)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(place)
    engine = Engine(
        loaded, config, "packed", config.head_chunk, autocast_for(bf16, place) if bf16 else nullcontext
    )
    tokenizer = load_tokenizer(str(model))
    preferences = load(str(rows), task="preference").rows
    renderer = Renderer(tokenizer, stop_ids(tokenizer, str(model)))
    groups = [renderer.encode(row) for row in preferences[:pairs]]
    share = len(groups) / len(preferences)
    result: Stages = {
        "read and check rows": share * _best(lambda: load(str(rows), task="preference")),
        "tokenise": _best(lambda: [renderer.encode(row) for row in preferences[:pairs]]),
        "collate": _best(lambda: collate(groups)),
    }
    return result | _model_stages(engine, config, groups, place)


def _model_stages(
    engine: Engine, config: TrainConfig, groups: Sequence[EncodedGroup], device: torch.device
) -> Stages:
    batch = collate(groups)
    budget = default_budget(device)
    parts = [batch.select(some) for some in plan_microbatches(batch, budget, "packed")]
    table = ReferenceTable(ReferenceIdentity("self", {}), {})
    table.add(batch, update_logprobs(engine, batch, budget))
    taken = take_apart(engine.model)
    optimizer = make_optimizer(engine.model, config)
    scored = update_gradient(engine, batch, table, budget)
    parameters = list(engine.model.parameters())
    attention = sum(_attention(engine.model, part, device) for part in parts)
    head = sum(_head(taken, part, config.head_chunk, device) for part in parts)
    # Which of the two a GPU runs faster is what this pair of lines is for; the CPU has the first only.
    other: Stages = {}
    if device.type == "cuda":
        one_call = replace(engine, layout="varlen")
        other["gradient, varlen"] = _best(lambda: update_gradient(one_call, batch, table, budget))
    return {
        "layout": _best(lambda: [lay_out(part, "packed", device) for part in parts]),
        "reference, per update": _best(lambda: update_logprobs(engine, batch, budget)),
        "gradient, whole": _best(lambda: update_gradient(engine, batch, table, budget)),
        **other,
        "gradient: attention": attention,
        "gradient: head": head,
        "clip": _best(lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)),
        "optimizer": _best(optimizer.step),
        "metrics": _best(lambda: Sums().add_vectors(pair_metrics(scored.inputs, config))),
    }


def _attention(model: Any, part: GroupBatch, device: torch.device) -> float:
    """Return the time of all layers' attention, forward and backward."""
    plan = lay_out(part, "packed", device).plan
    assert isinstance(plan, PackedPlan)
    masks = tuple(
        None
        if bucket.causal
        else torch.zeros(bucket.rows, 1, bucket.queries, bucket.keys, device=device).masked_fill(
            ~bucket.mask(lambda query, key: key <= query), float("-inf")
        )
        for bucket in plan.buckets
    )
    settings = model.config
    heads, tokens = settings.num_attention_heads, len(plan.output_index)
    shape = (1, heads, tokens, settings.hidden_size // heads)
    query, key, value = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))

    def once() -> None:
        answer, _ = packed_attention(model, query, key, value, PackedMask(plan, masks))
        answer.sum().backward()

    return settings.num_hidden_layers * _best(once)


def _head(taken: Parts, part: GroupBatch, chunk: int, device: torch.device) -> float:
    """Return the time of the head, forward and backward, chunk by chunk."""
    weight: Any = taken.head.weight
    hidden = torch.randn(len(part.completion_ids), weight.shape[1], device=device)
    ids = part.completion_ids.to(device)

    def once() -> None:
        for some in whole_groups(part, chunk):
            piece = hidden[some.tokens].requires_grad_()
            token_logprobs(taken, piece, ids[some.tokens]).sum().backward()

    return _best(once)


def _best(function: Callable[[], object]) -> float:
    """Return the least time of a call, milliseconds."""
    best, began, times = float("inf"), time.perf_counter(), 0
    while times < LEAST_TIMES or time.perf_counter() - began < LEAST_SECONDS:
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best, times = min(best, time.perf_counter() - start), times + 1
    return 1000 * best


def as_table(parts: Stages) -> str:
    """Return stages as text."""
    update = parts["reference, per update"] + parts["gradient, whole"]
    lines = ["Stages of one update, tether, milliseconds (share of reference + gradient)"]
    return "\n".join([*lines, *(f"  {k:<24} {v:>9.2f}  {v / update:>6.1%}" for k, v in parts.items())])
