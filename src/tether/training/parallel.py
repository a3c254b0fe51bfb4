"""A run in more than one process: what each one takes, what they exchange, and how they stop together.

torchrun starts the processes. Every one holds all rows and works out the same updates; of each batch it runs
its own groups (`shares`) and afterwards all of them know all log-probs, so that every metric and decision is
that of a single process. Gradients are added up, not averaged: a loss is divided by global counts before.
Numbers of the host travel over gloo as tensors or JSON; nothing is pickled.
"""

import json
import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tether.config.launch import process_count
from tether.config.train import TrainConfig
from tether.errors import Interrupted, ResourceError, RunFolderError, SaidElsewhere, TetherError, UsageError
from tether.policies.load import parameter_count
from tether.records.tensors import GroupBatch

BUCKET = 2**24
"""Gradient values per all-reduce."""

POLL, GRACE, HEAD_START = 0.2, 5.0, 0.3
"""Seconds: between looks at the others; for a process to end by itself; before others speak."""

SHARE_OF_GPU = 0.6
"""How much of a GPU's free memory a whole copy may take before `auto` cuts the model up."""

_FAILED, _CLAIM, _LEFT = "failed", "claim", "left"
_joins = 0


class Processes:
    """The processes of a run, seen from one of them; alone, every exchange gives back what it was given."""

    def __init__(self, rank: int = 0, count: int = 1, store: dist.Store | None = None) -> None:
        self.rank, self.count = rank, count
        self._store = store

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        self.most(0)

    def most(self, value: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.count == 1:
            return value
        held = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

    def summed(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over the processes, on the CPU; the same bits everywhere."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, value: Any) -> list[Any]:
        """Return every process's value, by rank; values are what JSON can hold, floats keep their bits."""
        if self.count == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = self.most(len(text))
        held = torch.full((length,), ord(" "), dtype=torch.uint8)
        held[: len(text)] = text
        found = [torch.empty_like(held) for _ in range(self.count)]
        dist.all_gather(found, held)
        return [json.loads(bytes(part.tolist())) for part in found]

    def same(self, facts: Mapping[str, Any]) -> None:
        """Refuse processes that do not see the same model, rows or files.

        Raises:
            RunFolderError: names the fact and what two processes see.

        """
        every = self.gathered(dict(facts))
        for name, value in every[0].items():
            for rank, other in enumerate(every):
                if other[name] != value:
                    raise RunFolderError(
                        f"{name}: process 0 has {value}, process {rank} has {other[name]}; model, rows and "
                        "run folder must be the same files for every process"
                    )

    def reseed(self, seed: int, step: int) -> None:
        """Give this process random numbers of its own for one update: dropout differs between processes.

        They follow from seed, step and rank alone, so there is no state to save.
        """
        if self.count > 1:
            sequence = torch.tensor([seed, step, self.rank], dtype=torch.int64)
            mixed = int((sequence * torch.tensor([1_000_003, 8_191, 1])).sum())
            torch.manual_seed(mixed % 2**63)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of replicas; a parameter that got none anywhere keeps none."""
        if self.count == 1:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        gradients: list[Tensor] = []
        for parameter, has in zip(parameters, there.tolist(), strict=True):
            if has:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def failed(self) -> int | None:
        """Return the exit status of the process that failed first, or None."""
        try:
            if self._store is None or not self._store.check([_FAILED]):
                return None
            return int(self._store.get(_FAILED).decode())
        except RuntimeError:  # the first process is gone without a word
            return 1

    def claim(self, status: int) -> bool:
        """Announce that this process failed; return whether it was the first and may say why."""
        if self._store is None:
            return True
        if not self.first:
            # Most errors meet all processes at once: then the first one speaks.
            time.sleep(HEAD_START)
        try:
            if self._store.add(_CLAIM, 1) > 1:
                return False
            self._store.set(_FAILED, str(status))
        except RuntimeError:  # the first process, which keeps the store, is gone, and has spoken
            return False
        return True

    def leave(self) -> None:
        """Say that this process is done; the first one, which may keep the store, waits for the others."""
        if self._store is None:
            return
        with suppress(RuntimeError):
            gone, until = self._store.add(_LEFT, 1), time.monotonic() + 2 * GRACE
            while self.first and gone < self.count and time.monotonic() < until:
                time.sleep(POLL / 10)
                gone = self._store.add(_LEFT, 0)


ALONE = Processes()


def wants_shards(config: TrainConfig, processes: Processes, *, in_memory: bool) -> bool:
    """Return whether the model is cut into shards: as asked, else where a whole copy would not fit the GPU.

    Raises:
        UsageError: shards of a model that was handed over as an object, or beside a moving reference.

    """
    if processes.count == 1 or config.parallel == "ddp":
        return False
    if config.parallel == "fsdp":
        if in_memory:
            raise UsageError("parallel fsdp: cuts the model up, so it needs a model folder, not an object")
        if config.reference == "moving":
            raise UsageError("parallel fsdp: reference moving mixes whole weights; use parallel ddp")
        return True
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    quantised = config.load_in_4bit or config.load_in_8bit
    if in_memory or not on_gpu or config.reference == "moving" or quantised:
        return False
    # Weights, gradient and two moments in fp32, and the copy of the start that KL is measured against.
    each = 4 if config.use_peft else 16
    needed = parameter_count(config.model_name_or_path) * (each + (4 if config.measure_prompts else 0))
    free, _ = torch.cuda.mem_get_info()
    return bool(processes.most(int(needed > SHARE_OF_GPU * free)))


def pairs_written_down(config: TrainConfig) -> TrainConfig:
    """Return the config with the pairs of an update as a number where they depend on the processes."""
    if process_count() == 1 or config.train_batch_size is not None:
        return config
    return config.model_copy(update={"train_batch_size": config.pairs_per_update * process_count()})


def pairs_explained(config: TrainConfig) -> str:
    """Say how the pairs of an update come about."""
    count, pairs = process_count(), config.pairs_per_update
    each, rounds = config.per_device_train_batch_size, config.gradient_accumulation_steps
    how = f" = {each} per device x {rounds} accumulation x {count} processes"
    return f"{count} processes: {pairs} pairs per update" + (how if each * rounds * count == pairs else "")


def shares(batch: GroupBatch, count: int) -> list[list[int]]:
    """Deal the groups of a batch out, longest first, to whoever has the fewest tokens; in order for each."""
    if count == 1:
        return [list(range(len(batch)))]
    sizes = batch.group_lengths.tolist()
    dealt: list[list[int]] = [[] for _ in range(count)]
    held = [0] * count
    for group in sorted(range(len(batch)), key=lambda g: (-sizes[g], g)):
        rank = min(range(count), key=lambda r: (held[r], r))
        dealt[rank].append(group)
        held[rank] += sizes[group]
    return [sorted(groups) for groups in dealt]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Join tensors of one dtype, in order, up to `BUCKET` values."""
    buckets: list[list[Tensor]] = []
    for tensor in tensors:
        last = buckets[-1] if buckets else None
        if (
            last is None
            or last[0].dtype != tensor.dtype
            or sum(t.numel() for t in last) + tensor.numel() > BUCKET
        ):
            buckets.append([])
        buckets[-1].append(tensor)
    return buckets


@contextmanager
def joined(device: torch.device) -> Generator[Processes]:
    """Join the processes torchrun started (or none), and end all of them when one fails.

    The process that fails first says why; the others raise `SaidElsewhere` with its exit status. A process
    that hangs in an exchange with a dead one is ended after a few seconds.

    Raises:
        UsageError: every process was told the same GPU.

    """
    if process_count() == 1:
        yield ALONE
        return
    processes, watch = _join(device)
    try:
        yield processes
    except Interrupted as error:
        if processes.first:
            raise
        raise SaidElsewhere(error.exit_code) from error
    except BaseException as error:
        status = error.exit_code if isinstance(error, TetherError) else 1
        if processes.claim(status):
            _name(error, processes)
            raise
        raise SaidElsewhere(processes.failed() or status) from error
    finally:
        watch.over.set()
        with suppress(RuntimeError):
            dist.destroy_process_group()
        processes.leave()


def _join(device: torch.device) -> "tuple[Processes, _Watch]":
    global _joins
    if device.type == "cuda":
        if device.index is not None:
            raise UsageError(
                f"device: {device} is one GPU, and torchrun started several processes; leave device at auto"
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(dist.rendezvous("env://"))
    # A second run in the same processes must not read the keys of the first.
    _joins += 1
    name = f"tether/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_joins}"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"{name}/group", store), rank=rank, world_size=count
    )
    processes = Processes(rank, count, dist.PrefixStore(f"{name}/watch", store))
    watch = _Watch(processes)
    watch.start()
    return processes, watch


def _name(error: BaseException, processes: Processes) -> None:
    """Say which process an error comes from where it is not the first; name a process that died silently."""
    if isinstance(error, RuntimeError) and not isinstance(error, TetherError) and _lost(error):
        raise ResourceError(
            "a process of this run ended without a word (killed, or out of memory?); checkpoints are intact; "
            "run the same command to resume"
        ) from error
    if isinstance(error, TetherError) and not processes.first:
        error.args = (f"process {processes.rank} of {processes.count}: {error}", *error.args[1:])


def _lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)


class _Watch(threading.Thread):
    """Ends this process when another one has failed and this one does not end by itself."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(daemon=True, name="tether-watch")
        self._processes = processes
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(POLL):
            status = self._processes.failed()
            if status is not None:
                if not self.over.wait(GRACE):
                    os._exit(status)
                return
