"""A model in shards (FSDP2): each process keeps a part of every weight and gathers a block while it runs.

`fully_shard` is put on every block, and on what is left - embedding, last norm, head, tied or not - as one
outer group. Its hooks hang on a module's forward and on what that returns; but here a model is run in parts,
the head many times with a backward pass of its own. So the outer group belongs to a module whose forward runs
any function (`within`): its weights are whole from there until the backward pass that follows, and no
model code changes. Gradients are added up over processes, not averaged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tether.policies.adapters import start_copy
from tether.policies.head import take_apart

Answer = TypeVar("Answer")

_PLACE = "_tether_shards"


class _Outer(nn.Module):
    """What is left of a model beside its blocks, whole while a function runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, body: Callable[[], Any]) -> Any:
        return body()


@dataclass
class _Shards:
    """How a sharded model is run; kept on the model, and no module, so that it is no part of it."""

    outer: Any
    start: nn.Module | None
    inside: bool = False

    def run(self, body: Callable[[], Any]) -> Any:
        if self.inside:
            return body()
        self.inside = True
        try:
            return self.outer(body)
        finally:
            self.inside = False
            if not torch.is_grad_enabled():
                # Without a backward pass nothing else would give the gathered weights up.
                self.outer.reshard()


def shard(model: nn.Module, device: torch.device, processes: int, *, keep_start: bool = False) -> None:
    """Cut a model on the CPU into shards on the processes' devices, in place.

    `keep_start` also keeps a frozen copy of the model as it is, in shards: see `start_of`.
    """
    start = start_copy(model, sharing=False) if keep_start else None
    if start is not None:
        shard(start, device, processes)
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    outer = _Outer(model)
    fully_shard(outer, mesh=mesh)
    for module in outer.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, _PLACE, _Shards(outer, start))


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a causal LM that are gathered one at a time: those its class must not split.

    Where such layers hold others, the outer ones; where the class names none, its longest list of modules.
    """
    backbone = take_apart(model).backbone
    names: set[str] = set(getattr(backbone, "_no_split_modules", None) or ())
    named = [(name, module) for name, module in backbone.named_modules() if type(module).__name__ in names]
    found = [m for name, m in named if not any(name.startswith(f"{other}.") for other, _ in named)]
    if found:
        return found
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def _of(model: object) -> _Shards | None:
    return getattr(model, _PLACE, None)


def in_shards(model: object) -> bool:
    """Return whether a model is sharded: then every process must run it as often as the others."""
    return _of(model) is not None


def start_of(model: nn.Module) -> nn.Module | None:
    """Return a frozen copy of the model as it is now, or None where switching its adapter off gives the same.

    A sharded model gives the copy made when it was cut, which is the model as it was loaded.
    """
    shards = _of(model)
    return start_copy(model) if shards is None else shards.start


def within(model: object, body: Callable[[], Answer]) -> Answer:
    """Run a function that runs this model, or parts of it; a sharded one's outer weights are whole inside.

    With gradients, the function returns what is back-propagated in a tuple; the backward pass comes after.
    """
    shards = _of(model)
    return body() if shards is None else shards.run(body)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes; every one of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Gather tensors one by one into memory of their own; who does not `keep` them only takes part."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors:
        found = whole(tensor.detach())
        if keep:
            own = isinstance(tensor, DTensor)
            kept[name] = found.cpu() if own else found.cpu().contiguous().clone()
    return kept


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return this process's part of a whole value, on the parameter's device, as the parameter is cut."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
