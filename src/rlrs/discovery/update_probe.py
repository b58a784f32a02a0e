"""What an optimizer's steps do to every component: alignment of gradients with updates, and sizes of updates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class UpdateProbe:
    """Of one optimizer: every tensor's last update, and what the next gradient says of it.

    Memory: one number for each trained weight, of its own type: the weights before the step, and after it the update.
    Shapes: K components; a tensor belongs to one of them.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.updates: list[Tensor] = []
        """Weights before the last step minus those after it."""
        self._weights: list[Tensor] = []
        self._owners: list[int] = []
        self._shares: list[float] = []
        self._simple = self._scattered = False
        self._sums: tuple[Tensor, Tensor] | None = None
        self._moved = False

    def bind(self, names: Sequence[str], weights: Sequence[Tensor], owners: Sequence[int], ranks: int) -> None:
        """Look at these tensors from now on; updates of those that were there before stay.

        Args:
            names: of the tensors, unique.
            weights: the tensors.
            owners: component of each, from 0.
            ranks: over which sums are taken: a tensor that all of them hold counts once.
        """
        known = {id(weight): update for weight, update in zip(self._weights, self.updates, strict=True)}
        self.updates = [
            known[id(w)] if id(w) in known else torch.zeros_like(w, requires_grad=False, memory_format=_KEEP)
            for w in weights
        ]
        self.names, self._weights, self._owners = list(names), list(weights), list(owners)
        self._shares = [pieces(weight) / ranks for weight in weights]
        # On one device by themselves, tensors need no look at how they are divided: that is most of the time it takes.
        self._scattered = len({local(weight).device for weight in weights}) > 1
        self._simple = all(map(_is_simple, weights)) and not self._scattered
        self._sums: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def before_step(self, count: int) -> Tensor | None:
        """`<gradient, minus the last update>` of every component [count], float64; None before there is an update.

        It is what the loss falls, to first order, per unit of natural log of the component's rate. From then on
        `updates` are the weights, until `after_step`.
        """
        weights, updates = self._parts()
        if not weights:
            return None
        alignment_K = None
        if self._moved and self._simple and all(w.grad is not None and _is_simple(w.grad) for w in weights):
            pairs = zip(weights, updates, strict=True)
            dots = [torch.dot(w.grad.view(-1), u.view(-1)) for w, u in pairs if w.grad is not None]
            alignment_K = self._sum(range(len(dots)), dots, count)
        elif self._moved:
            pairs = [
                (i, local(w.grad), u)
                for i, (w, u) in enumerate(zip(self._weights, updates, strict=True))
                if w.grad is not None
            ]
            alignment_K = self._sum([i for i, _, _ in pairs], [_dot(g, u) for _, g, u in pairs], count)
        torch._foreach_copy_(updates, weights)  # pyright: ignore[reportPrivateImportUsage]
        self._moved = False
        return alignment_K

    @torch.no_grad()
    def after_step(self) -> None:
        """The step is done: what it has changed is kept."""
        weights, updates = self._parts()
        if not weights:  # of this optimizer nothing is trained
            return
        torch._foreach_sub_(updates, weights)  # pyright: ignore[reportPrivateImportUsage]
        self._moved = True

    @torch.no_grad()
    def squares(self, count: int) -> Tensor:
        """Squared norms of updates and of weights by component [2, count], float64, after a step."""
        every = list(range(len(self.updates)))
        return torch.stack(
            [
                self._sum(every, [norm.double().square() for norm in torch._foreach_norm(tensors)], count)  # pyright: ignore[reportPrivateImportUsage]
                for tensors in ([local(u) for u in self.updates], [local(w) for w in self._weights])
            ]
        )

    @torch.no_grad()
    def size(self) -> float:
        """Norm of what this rank holds of the weights, which no step leaves as it was."""
        norms = torch._foreach_norm([local(w) for w in self._weights])  # pyright: ignore[reportPrivateImportUsage]
        return math.fsum(float(norm) for norm in norms)

    def load(self, updates: Mapping[str, Tensor], moved: bool) -> None:
        """Take saved updates, by name; `moved` says whether they are those of a step.

        Raises:
            ValueError: a tensor that is not there, or of another shape.
        """
        for name, update in zip(self.names, self.updates, strict=True):
            if name not in updates or updates[name].shape != update.shape:
                raise ValueError(f"the saved state has no update of {name!r} of the shape {tuple(update.shape)}")
            update.copy_(updates[name])
        self._moved = moved

    @property
    def moved(self) -> bool:
        """Whether `updates` are those of a step."""
        return self._moved

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """What this rank holds of weights and updates."""
        if self._simple:
            return self._weights, self.updates
        return [local(w) for w in self._weights], [local(u) for u in self.updates]

    def _sum(self, at: Sequence[int], values: Sequence[Tensor], count: int) -> Tensor:
        """Sums by component of values of tensors, of this rank's share of them, on the first tensor's device."""
        device = local(self._weights[0]).device if self._weights else torch.device("cpu")
        sums_K = torch.zeros(count, dtype=torch.float64, device=device)
        if not values:
            return sums_K
        whole = len(at) == len(self._owners)
        if self._sums is not None and whole:
            shares, owners = self._sums
        else:
            shares = torch.tensor([self._shares[i] for i in at], dtype=torch.float64, device=device)
            owners = torch.tensor([self._owners[i] for i in at], device=device)
            self._sums = (shares, owners) if whole else self._sums
        together = [value.to(device) for value in values] if self._scattered else list(values)
        return sums_K.index_add_(0, owners, torch.stack(together).double() * shares)


class SeenSteps:
    """Whether hooks see the optimizer's steps; skipped ones (fp16) are none, compiled and captured ones go by."""

    def __init__(self) -> None:
        self.now = False
        """A step was seen since this was last set back."""
        self._sizes: list[float] | None = None  # of the weights, when no step was last seen
        self._warned = False

    def check(self, seen: bool, probes: Sequence[UpdateProbe]) -> None:
        """Warn, once, if weights move without a step that was seen: between two looks that saw none."""
        before, self._sizes = self._sizes, None
        if seen or self._warned:
            return
        self._sizes = [probe.size() for probe in probes]
        if before is not None and before != self._sizes:
            self._warned = True
            warnings.warn(
                "LearnedLR sees no step of the optimizer, so nothing is learned: hooks are not called where a step is "
                "compiled or captured in a graph; leave the optimizer as it is for this run",
                UserWarning,
                stacklevel=5,
            )


_KEEP = torch.preserve_format


def _is_simple(tensor: Tensor) -> bool:
    """Whether a tensor is float32 numbers in one piece, all of them on this rank."""
    whole = tensor.dtype == torch.float32 and not hasattr(tensor, "to_local")
    return whole and tensor.layout == torch.strided and tensor.is_contiguous()


def local(tensor: Any) -> Tensor:
    """What this rank holds of a tensor: all of it unless it is sharded."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def pieces(tensor: Any) -> int:
    """Into how many pieces a tensor is divided over the ranks; 1 where every rank has all of it."""
    count = 1
    for place, size in zip(
        getattr(tensor, "placements", ()), getattr(tensor, "device_mesh", _Alone).shape, strict=True
    ):
        count *= size if place.is_shard() else 1
    return count


class _Alone:
    shape = ()


def _dot(gradient: Tensor, update: Tensor) -> Tensor:
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    gradient, update = gradient.to(torch.float32), update.to(torch.float32)
    if gradient.is_contiguous() and update.is_contiguous():
        return torch.dot(gradient.view(-1), update.view(-1))
    return (gradient * update).sum()
