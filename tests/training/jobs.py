"""What the processes of test_parallel do; a module of its own because they import it by name."""

import os
import signal
import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.tiny import tiny_batch
from tether.config.train import TrainConfig
from tether.errors import GuardStop, Interrupted, ResourceError, SaidElsewhere
from tether.generation.measure import measure
from tether.policies.adapters import add_lora, trainable
from tether.policies.layout_check import choose_layout
from tether.policies.load import load_model
from tether.policies.reference import ReferenceIdentity, ReferenceTable, Score
from tether.policies.sharding import shard, whole, within
from tether.training import loop as loop_module
from tether.training import steps as steps_module
from tether.training.parallel import joined
from tether.training.policy import checkpoint_blocks
from tether.training.run import Given, train
from tether.training.signals import StopRequest
from tether.training.steps import Engine, update_gradient, update_logprobs

RANK = int(os.environ.get("RANK", "0"))


def run(options: dict[str, Any]) -> dict[str, Any]:
    """Train; return the run record."""
    return train(TrainConfig.model_validate(options)).model_dump(mode="json")


def run_counting(options: dict[str, Any]) -> dict[str, int]:
    """Train; return how many groups and micro-batches went through this process with a gradient."""
    seen = {"groups": 0, "micro": 0}
    plain = steps_module.forward_backward

    def counting(model: Any, part: Any, **arguments: Any) -> Any:
        seen["groups"] += len(part)
        seen["micro"] += 1
        return plain(model, part, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps_module, "forward_backward", counting)
        train(TrainConfig.model_validate(options))
    return seen


def run_until(options: dict[str, Any], *, step: int, rank: int) -> tuple[str, int]:
    """Train until one process alone is told to stop; return how it ended."""
    plain = loop_module._one_update

    def stopping(loop: Any) -> Any:
        if loop.step == step - 1 and rank == RANK:
            stop: StopRequest = loop.stop
            stop(signal.SIGTERM, None)
        return plain(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "_one_update", stopping)
        try:
            train(TrainConfig.model_validate(options))
        except (Interrupted, SaidElsewhere) as error:
            return type(error).__name__, error.exit_code
    return "finished", 0


def run_with_failure(
    options: dict[str, Any], *, rank: int | None, memory: bool = False
) -> tuple[str, str, int]:
    """Train until this rank (None: every one) meets a guard, or runs out of memory, in its second update."""
    plain = loop_module._one_update

    def failing(loop: Any) -> Any:
        if loop.step == 1 and rank in (None, RANK):
            raise GuardStop("step 2: broken on purpose")
        return plain(loop)

    def starving(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        if not memory:
            patch.setattr(loop_module, "_one_update", failing)
        elif rank in (None, RANK):
            patch.setattr(loop_module, "update_gradient", starving)
        try:
            train(TrainConfig.model_validate(options))
        except (GuardStop, ResourceError, SaidElsewhere) as error:
            return type(error).__name__, str(error), error.exit_code
    return "finished", "", 0


def run_with_own_rows(options: dict[str, Any], *, rows: list[list[dict[str, str]]]) -> None:
    """Train each process on rows of its own."""
    config = TrainConfig.model_validate({**options, "dataset_name": "(rows in memory)"})
    train(config, given=Given(rows=rows[RANK]))


def gradient(
    folder: str, shapes: list[tuple[int, list[int]]], *, parallel: str, budget: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the gradient of one update of made-up rows, whole, and its loss."""
    with joined(torch.device("cpu")) as processes:
        loaded: Any = load_model(folder).model
        config = TrainConfig.model_validate(options)
        if config.gradient_checkpointing:
            checkpoint_blocks(loaded)
        if config.use_peft:
            loaded = with_some_effect(add_lora(loaded, config, seed=1))
        if processes.count > 1 and parallel == "fsdp":
            shard(loaded, torch.device("cpu"), processes.count)
        engine = Engine(loaded.train(), config, "packed", 512, nullcontext, processes=processes)
        batch = tiny_batch(shapes)
        table = ReferenceTable(
            ReferenceIdentity("self", {}), {key: Score(-50.0 - i, 1) for i, key in enumerate(batch.keys)}
        )
        scored = update_gradient(engine, batch, table, budget)
        found = trainable(loaded)
        held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in found.values())
        gradients = {n: whole(p.grad).tolist() for n, p in found.items() if p.grad is not None}
        return {"loss": scored.loss, "gradients": gradients, "held": held}


def with_some_effect(model: Any) -> Any:
    """Give a fresh adapter an effect: its second matrix is zero, and so would be half of its gradient."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return model


def measured(folder: str, *, parallel: str, stops: int) -> dict[str, Any]:
    """Measure KL to another model on this process's own prompts; samples end at very different lengths."""
    with joined(torch.device("cpu")) as processes:
        policy, start = load_model(folder).model, load_model(folder).model
        with torch.no_grad():
            for parameter in start.parameters():
                parameter.mul_(1.05)
        sharded = processes.count > 1 and parallel == "fsdp"
        if sharded:
            shard(policy, torch.device("cpu"), processes.count)
            shard(start, torch.device("cpu"), processes.count)
        prompts = [f"prompt {i}" for i in range(8)]
        mine = list(range(processes.rank, len(prompts), processes.count))

        def measuring() -> Any:
            return measure(
                policy,
                start=start,
                prompts=[prompts[i] for i in mine],
                prompt_ids=[[5 + i] * (1 + 3 * i) for i in mine],
                tokenizer=None,
                decode=lambda ids: " ".join(map(str, ids)),
                stop_ids=frozenset(range(stops)),
                step=0,
                max_new_tokens=40,
                batch_size=3,
                most=processes.most if sharded else int,
            )

        with torch.no_grad():
            _, rows = within(policy, lambda: within(start, measuring))
        return {mine[row["prompt"]]: {**row, "prompt": None} for row in rows}


def fail_or_hang(*, failing: int) -> None:
    """Fail in one process while the other waits for something that never comes."""
    with joined(torch.device("cpu")):
        if failing == RANK:
            raise GuardStop("broken on purpose")
        time.sleep(300)


def families(folders: list[str], *, layout: str) -> list[tuple[str, str, list[float]]]:
    """Return per model the layout its shards chose, why, and the sums of some rows."""
    found: list[tuple[str, str, list[float]]] = []
    with joined(torch.device("cpu")) as processes:
        for folder in folders:
            model = load_model(folder).model
            if processes.count > 1:
                shard(model, torch.device("cpu"), processes.count)
            batch = tiny_batch([(4, [3, 6]), (9, [2, 2]), (2, [7, 1])])
            choice = choose_layout(model, layout, batch)
            config = TrainConfig(model_name_or_path=folder, dataset_name="-", output_dir="-")
            engine = Engine(model, config, choice.name, 512, nullcontext, processes=processes)
            sums = update_logprobs(engine, batch, 64).sums
            found.append((choice.name, choice.reason or "", sums.tolist()))
    return found
