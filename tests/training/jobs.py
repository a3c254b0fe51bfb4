"""What the processes of test_parallel do; a module of its own because they import it by name."""

import os
import signal
from typing import Any

import pytest

from tether.config.train import TrainConfig
from tether.errors import GuardStop, Interrupted, SaidElsewhere
from tether.training import loop as loop_module
from tether.training import steps as steps_module
from tether.training.run import Given, train
from tether.training.signals import StopRequest

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


def run_with_failure(options: dict[str, Any], *, rank: int | None) -> tuple[str, str, int]:
    """Train with a guard that stops this rank (None: every one) in its second update."""
    plain = loop_module._one_update

    def failing(loop: Any) -> Any:
        if loop.step == 1 and rank in (None, RANK):
            raise GuardStop("step 2: broken on purpose")
        return plain(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "_one_update", failing)
        try:
            train(TrainConfig.model_validate(options))
        except (GuardStop, SaidElsewhere) as error:
            return type(error).__name__, str(error), error.exit_code
    return "finished", "", 0


def run_with_own_rows(options: dict[str, Any], *, rows: list[list[dict[str, str]]]) -> None:
    """Train each process on rows of its own."""
    config = TrainConfig.model_validate({**options, "dataset_name": "(rows in memory)"})
    train(config, given=Given(rows=rows[RANK]))
