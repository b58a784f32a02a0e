"""Numbers of every component in one optimizer step, measured by hooks on the optimizers; K components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from rlrs.lr_scheduler import RelativeLR
from rlrs.named_groups import inner


class StepProbe:
    """Watches the next step of each optimizer when it is `wanted`.

    Norms are squared and added up on the device; nothing is read back before the monitor does it, once. The gradient
    is looked at after the step, when a closure has run and clipping is done.

    Args:
        optimizers: whose groups have a `component`, or else a `name`.
        scheduler: for the rates that groups should have, if it is a `RelativeLR`.
        updates: measure steps too, for which weights are copied in the steps that are looked at.
        ranks: that hold the model together.
    """

    def __init__(self, optimizers: Sequence[Optimizer], scheduler: Any, *, updates: bool, ranks: int) -> None:
        self.wanted = False
        self._optimizers = [inner(optimizer) for optimizer in optimizers]
        self._scheduler = scheduler if isinstance(scheduler, RelativeLR) else None
        self._updates, self._ranks = updates, ranks
        self._before: dict[int, list[Tensor]] = {}
        self._rates: dict[str, tuple[float, float | None]] = {}
        self._squares: dict[str, list[Tensor]] = {}
        self._handles = [
            handle
            for optimizer in self._optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._begin),
                optimizer.register_step_post_hook(self._end),
            )
        ]

    @property
    def device(self) -> torch.device:
        """Of the first parameter."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    return parameter.device
        return torch.device("cpu")

    def take(self) -> tuple[list[str], Tensor, dict[str, tuple[float, float | None]]]:
        """Components, their squared norms [3 * K] (gradients, weights, changes), and (rate, scheduled rate) of each."""
        names, squares, rates = list(self._squares), self._squares, self._rates
        self._squares, self._rates, self._before = {}, {}, {}
        rows = [torch.stack([squares[name][row] for name in names]) for row in range(3)] if names else []
        return names, torch.cat(rows) if rows else torch.zeros(0), rates

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _begin(self, optimizer: Optimizer, *call: Any) -> None:
        if not self.wanted or torch.compiler.is_compiling() or id(optimizer) in self._before:
            return
        scheduled = self._scheduled()
        for group in optimizer.param_groups:
            name = component(group, optimizer)
            rate, target = float(group["lr"]), scheduled.get(id(group))
            known = self._rates.get(name)
            # Of several groups of a component, the one that is furthest off.
            if known is None or _off(rate, target) > _off(*known):
                self._rates[name] = (rate, target)
        weights = _weights(optimizer)
        self._before[id(optimizer)] = [local(w).clone() for w in weights] if self._updates else []

    @torch.no_grad()
    def _end(self, optimizer: Optimizer, *call: Any) -> None:
        before = self._before.get(id(optimizer))
        if not self.wanted or before is None:
            return
        self._before[id(optimizer)] = []  # the copies are let go at once
        weights = _weights(optimizer)
        if self._updates and len(before) != len(weights):
            return  # a group was added inside the step
        owner = [component(group, optimizer) for group in optimizer.param_groups for _ in group["params"]]
        names = list(dict.fromkeys(owner))
        index = {name: number for number, name in enumerate(names)}
        owners = [index[name] for name in owner]
        present = [number for number, weight in enumerate(weights) if weight.grad is not None]
        gradients = [_dense(local(weight.grad)) for weight in weights if weight.grad is not None]
        after = [local(weight) for weight in weights]
        if self._updates:
            torch._foreach_sub_(before, after)
        share = [self._share(weight) for weight in weights]
        rows = (
            self._square(gradients, [owners[n] for n in present], [share[n] for n in present], len(names)),
            self._square(after, owners, share, len(names)),
            self._square(before if self._updates else [], owners, share, len(names)),
        )
        for name, number in index.items():
            new = [row[number] for row in rows]
            old = self._squares.get(name)
            self._squares[name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def _square(self, tensors: list[Tensor], owner: list[int], share: list[float], count: int) -> Tensor:
        """This rank's part of the squared norm of every component's tensors, [K]."""
        squares_K = torch.zeros(count, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        squares_K = squares_K.to(self.device)
        if not tensors:
            return squares_K
        norms = torch.stack([norm.to(squares_K) for norm in torch._foreach_norm(tensors)])
        weight = torch.tensor(share, dtype=squares_K.dtype, device=self.device)
        return squares_K.index_add_(0, torch.tensor(owner, device=self.device), norms.square() * weight)

    def _share(self, weight: Tensor) -> float:
        """What this rank adds of a tensor, so that the ranks' sum has every element once."""
        if not isinstance(weight, DTensor):
            return 1 / self._ranks
        shards = 1
        for size, placement in zip(weight.device_mesh.shape, weight.placements, strict=True):
            shards *= size if isinstance(placement, Shard) else 1
        return shards / self._ranks

    def _scheduled(self) -> Mapping[int, float]:
        if self._scheduler is None:
            return {}
        groups = [group for optimizer in self._scheduler.optimizers for group in optimizer.param_groups]
        rates = self._scheduler.get_lr()
        return {id(g): float(r) for g, r in zip(groups, rates, strict=True)} if len(rates) == len(groups) else {}


def component(group: Mapping[str, Any], optimizer: Optimizer) -> str:
    """The component of a group; its name, or else its place, where there is none."""
    for key in ("component", "name"):
        if isinstance(group.get(key), str):
            return group[key]
    return f"group {next(n for n, one in enumerate(optimizer.param_groups) if one is group)}"


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _weights(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _off(rate: float, scheduled: float | None) -> float:
    return -1.0 if scheduled is None else abs(rate - scheduled)
