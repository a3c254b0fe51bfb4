"""A reference that follows the policy: every few updates, alpha of the policy is mixed into it (TR-DPO).

Its weights are the policy's own at step 0, kept on the CPU and put in the policy's place for the moment in
which rows are scored; so one model and one copy of its weights are all that is ever held.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tether.errors import CheckpointError, UsageError
from tether.policies.adapters import has_adapter, trainable
from tether.policies.tilted import evaluating
from tether.records.tensors import GroupBatch, SequenceLogProbs
from tether.training.steps import Engine, update_logprobs


@dataclass
class MovingReference:
    """The moving reference of one run: `w_ref <- alpha w + (1 - alpha) w_ref` (2404.09656 Eq. 5)."""

    engine: Engine
    budget: int
    alpha: float
    every: int
    """Updates between two moves; with alpha 1 these are the paper's hard updates."""
    weights: dict[str, Tensor]

    def lookup(self, batch: GroupBatch) -> SequenceLogProbs:
        """Score the S completions of a batch with the reference as it is now."""
        with self._in_place():
            return update_logprobs(self.engine, batch, self.budget)

    def after_update(self, step: int) -> None:
        """Mix the policy in where `step` is due."""
        if step % self.every != 0:
            return
        with torch.no_grad():
            for name, parameter in trainable(self.engine.model).items():
                now = parameter.detach().to("cpu", torch.float32)
                self.weights[name].mul_(1 - self.alpha).add_(now, alpha=self.alpha)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of a checkpoint.

        Raises:
            CheckpointError: it has none, or of other parameters.

        """
        for name, value in self.weights.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != value.shape or saved.dtype != value.dtype:
                found = "missing" if saved is None else f"{saved.dtype} {tuple(saved.shape)}"
                raise CheckpointError(
                    f"the checkpoint's moving reference does not fit: {name} is {found}, "
                    f"expected {value.dtype} {tuple(value.shape)}"
                )
            value.copy_(saved)

    @contextmanager
    def _in_place(self) -> Generator[None]:
        parameters = trainable(self.engine.model)
        kept = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.weights[name].to(parameter.device, parameter.dtype)
            with evaluating(self.engine.model):
                yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = kept[name]


def moving_reference(engine: Engine, *, alpha: float, every: int, budget: int) -> MovingReference:
    """Start a moving reference at the policy as it is.

    Raises:
        UsageError: the policy is an adapter: mixing A and B apart does not mix their product.

    """
    if has_adapter(engine.model):
        raise UsageError(
            "reference moving needs full tuning: mixing LoRA's factors is not mixing the models; "
            "leave out use_peft, or use reference self"
        )
    return MovingReference(engine, budget, alpha, every, _copies(engine.model))


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in trainable(model).items()}
