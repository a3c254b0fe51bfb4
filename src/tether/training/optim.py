"""AdamW and Hugging Face's schedules: nothing here is ours but the choice of what decays."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SchedulerType

from tether.config.train import TrainConfig
from tether.errors import UsageError
from tether.policies.adapters import trainable


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; norms, biases and other vectors do not decay."""
    parameters = trainable(model)
    groups = [
        {"params": [p for p in parameters.values() if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        # One pass over each parameter instead of one per operation: a third of the time on a CPU.
        fused=True,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, updates: int) -> LRScheduler:
    """Return the named Hugging Face schedule over `updates` updates.

    Raises:
        UsageError: no such schedule.

    """
    names = [kind.value for kind in SchedulerType]
    if config.lr_scheduler_type not in names:
        raise UsageError(f"lr_scheduler_type: {config.lr_scheduler_type!r} is none of {', '.join(names)}")
    return get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.warmup_updates(updates),
        num_training_steps=updates,
    )
