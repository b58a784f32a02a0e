"""Ranks of one run: who they are, what they compute together, and how a model is divided between them.

A run is the same run on one process and on many: batches, routing, losses and norms are those of the global batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlrs.messages import shown
from rlrs.models.moe import MoE
from rlrs.settings import ConfigError

T = TypeVar("T")
Sharding = Literal["ddp", "fsdp2"]
CPU = torch.device("cpu")
TIMEOUT = timedelta(hours=2)
"""Of a collective: rank 0 may be preparing data while the others wait. Chosen here, not studied."""


@dataclass(frozen=True)
class World:
    """The ranks that train one run together; one process by itself is a world too.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        device: where this rank's model is.
        group: for the collectives of training; None for one process.
        background: a second group on the CPU, whose collectives may run beside those of training: checkpoints.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    group: dist.ProcessGroup | None = None
    background: dist.ProcessGroup | None = None

    def place(self, rows: Tensor) -> Tensor:
        """A batch on this rank's device; a GPU copies it from pinned memory, while this process goes on."""
        if self.device.type == "cuda":
            rows = rows.contiguous().pin_memory()
        return rows.to(self.device, non_blocking=True)

    def mean(self, values: Sequence[float] | Tensor) -> list[float]:
        """Means over the ranks, the same numbers on all of them; a world of one gives back what it got."""
        values_K = torch.as_tensor(values, dtype=torch.float64)
        if self.group is None:
            return values_K.tolist()
        values_K = values_K.to(self.device)
        dist.all_reduce(values_K, group=self.group)
        return (values_K / self.size).tolist()

    def as_first(self, value: T) -> T:
        """Rank 0's value on all ranks, by way of the group of training: a save may be under way in the other one."""
        if self.group is None:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def from_first(self, function: Callable[[], T]) -> T:
        """What rank 0 gets from a function that only it calls, on all ranks; an exception is raised on all of them."""
        if self.group is None:
            return function()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, group=self.background)
        if box[1] is not None:
            raise box[1]
        return box[0]


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The world that `torchrun` started this process in, or a world of one.

    NCCL on GPUs and gloo on CPUs; checkpoints use gloo on both.

    Raises:
        ConfigError: `torchrun`'s variables are only partly there, or are no numbers; or the ranks do not meet.
    """
    cuda = torch.cuda.is_available()
    size = _variable("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        yield World(device=torch.device("cuda", torch.cuda.current_device()) if cuda else CPU)
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE={size} is set but {', '.join(missing)} is not: start with torchrun")
    numbers = {name: _variable(name, 0) for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")}
    if numbers["RANK"] >= size:
        raise ConfigError(f"RANK={numbers['RANK']} should be below WORLD_SIZE={size}: start with torchrun")
    device = torch.device("cuda", numbers["LOCAL_RANK"]) if cuda else CPU
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the {size} ranks of WORLD_SIZE cannot meet at MASTER_ADDR: {reason}") from None
    try:
        background = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert isinstance(background, dist.ProcessGroup)
        yield World(dist.get_rank(), size, device, dist.group.WORLD, background)
    finally:
        dist.destroy_process_group()


def _variable(name: str, least: int) -> int:
    """A whole number that `torchrun` sets."""
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise ConfigError(f"{name} should be a whole number, {least} or more, not {shown(text)}: start with torchrun")
    return int(text)


def divide(model: nn.Module, world: World, how: Sharding) -> nn.Module:
    """Make a model one of a world's: replicated (DDP) or sharded (FSDP2, in place); what to call in its stead.

    Every rank has drawn the same weights from the seed. Routers of a mixture of experts see the global batch: an
    expert's capacity and the load-balancing loss are over all ranks' tokens, as if one process had them all.
    """
    model.to(world.device)
    if world.group is None:
        return model
    for module in model.modules():
        if isinstance(module, MoE):
            module.group = world.group
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model, process_group=world.group, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks: the entries of the outermost module lists."""
    if isinstance(model, nn.ModuleList):
        return list(model)
    return [block for child in model.children() for block in _blocks(child)]


@contextlib.contextmanager
def gradients_kept_local(model: nn.Module, local: bool) -> Iterator[None]:
    """Leave gradients unreduced inside, for all but the last of several accumulated batches."""
    if local and isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
        return
    set_sync: Callable[[bool], None] | None = getattr(model, "set_requires_gradient_sync", None)
    if set_sync is not None:
        set_sync(not local)
    yield


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of it unless it is sharded."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def check_division(batch_size: int, accumulate: int, ranks: int) -> None:
    """Check that ranks can share a batch, and each part of it, evenly.

    Raises:
        ConfigError: they cannot.
    """
    if batch_size % (accumulate * ranks):
        parts = f" x training.accumulate={accumulate}" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size={batch_size} should be a multiple of {ranks} ranks{parts}: each takes an equal share"
        )
