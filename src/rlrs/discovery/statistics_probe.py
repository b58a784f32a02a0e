"""`StatisticsProbe`: what every tensor's gradients and updates are like over a run, measured by hooks on optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from rlrs import named_groups
from rlrs.components import Partition, Rule, canonical_name, partition
from rlrs.discovery.run_statistics import SUMS, Row, RunStatistics
from rlrs.discovery.update_probe import local, pieces

EVERY = 10
"""Steps between two observations. Chosen here, for a step's cost."""


class StatisticsProbe:
    """Watches a run: norms of gradients, updates and weights, and the noise of gradients, tensor by tensor.

    Hooks look at two neighbouring steps in every `every`: the first one's gradients are kept, and compared with the
    second's. Their product estimates the squared mean gradient without the noise of batches, so that signal and noise
    are told apart under any optimizer. Nothing of the run changes, and nothing is read back from the device before
    `statistics()`. Fused experts, (experts, ...), are measured one by one, and of the vocabulary's table which rows
    had a gradient. Gradients are taken as the optimizer gets them: clipped ones, where a loop clips.

    Memory: in the two steps that are looked at, two numbers for each trained weight. On several ranks sums are taken
    over the process group: sharded (FSDP2) and replicated (DDP) weights alike.

    Args:
        model: that is trained; for names and places of its tensors.
        optimizer: one, or several (Muon and AdamW).
        every: steps between two observations.
        rules: of the partition; see `rlrs.partition`.
        process_group: over which ranks act as one; None for a rank by itself.

    Raises:
        ValueError: `every` below 1, or an optimizer without a weight of the model.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        >>> with StatisticsProbe(model, optimizer, every=2) as probe:
        ...     for _ in range(6):
        ...         model(torch.arange(4)).logsumexp(1).mean().backward()
        ...         optimizer.step(), optimizer.zero_grad()  # doctest: +ELLIPSIS
        (None, None)
        ...
        >>> found = probe.statistics()
        >>> [row.tensor for row in found.rows], found.steps.tolist(), found.touched()[:, 0].tolist()
        (['0.weight', '1.weight', '1.bias'], [2, 4, 6], [0.5, 0.5, 0.5])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        every: int = EVERY,
        rules: Iterable[Rule] = (),
        process_group: Any = "default",
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every should be a whole number of steps from 1 on, not {every!r}")
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        parts = partition(model, rules)
        names = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
        self._watched = [_Watched(one, names, parts, every, process_group) for one in optimizers]
        if not any(one.rows for one in self._watched):
            raise ValueError("the optimizer has no trained weight of this model: give it the model that it trains")

    def statistics(self) -> RunStatistics:
        """What was observed so far; the same on all ranks.

        Raises:
            ValueError: no step was seen: none was taken, or hooks are not called (compiled or captured steps).
        """
        there = [one for one in self._watched if one.rows]
        steps = sorted(set.intersection(*(set(one.sums) for one in there)))
        if not steps:
            raise ValueError(
                "no two steps of the optimizer were seen: train some steps first; a step that is compiled or captured "
                "in a graph is not seen"
            )
        sums = {
            name: np.concatenate([[one.sums[t][k].tolist() for t in steps] for one in there], axis=1)
            for k, name in enumerate(SUMS)
        }
        curved = sorted(set.intersection(*(set(one.curvatures) for one in there)))
        curvatures = [[one.curvatures[t].tolist() for t in curved] for one in there]
        return RunStatistics(
            rows=[row for one in there for row in one.rows],
            steps=np.array(steps),
            sums={name: values.astype(np.float64) for name, values in sums.items()},
            row_counts={n: c.cpu().numpy() for one in there for n, c in one.row_counts.items()},
            curvature_steps=np.array(curved, dtype=np.int64),
            curvatures=np.concatenate(curvatures, axis=1) if curved else np.zeros((0, 0)),
        )

    def save(self, path: str | Path) -> None:
        """Write `statistics()`; on several ranks, all of them call `statistics()` and one of them saves."""
        self.statistics().save(path)

    def curvature(self, closure: Callable[[], Any]) -> bool:
        """Measure the curvature along the last update, tensor by tensor; two passes over one batch. Call between steps.

        The difference of the gradients here and one update further on, on the same batch, along the update: what a
        tensor adds to the curvature of the loss in the direction that the run goes. Weights and gradients are as they
        were afterwards.

        Args:
            closure: does forward and backward of one and the same batch; gradients are None when it is called.

        Returns:
            Whether it was measured: after an observed step alone, and the closure is not called otherwise.
        """
        there = [one for one in self._watched if one.rows]
        if not all(one.update for one in there):
            return False
        kept = [(w, w.grad) for one in there for w in one.weights]
        for one in there:
            one.clear()
        closure()
        first = [one.gradients() for one in there]
        for one in there:
            one.go_on()
            one.clear()
        closure()
        for one, before in zip(there, first, strict=True):
            one.take_curvature(before)
            one.go_back()
        for weight, gradient in kept:
            weight.grad = gradient
        return True

    def close(self) -> None:
        """Take the hooks off."""
        for one in self._watched:
            one.close()

    def __enter__(self) -> StatisticsProbe:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Watched:
    """One optimizer: its tensors, and what was seen of its steps. Shapes: R rows, a tensor or one of its experts."""

    def __init__(
        self, optimizer: Optimizer, names: Mapping[int, str], parts: Partition, every: int, group: Any
    ) -> None:
        weights = [w for g in optimizer.param_groups for w in g["params"] if id(w) in names]
        self.weights, self.every, self._group = weights, every, group
        self.optimizer = named_groups.inner(optimizer)
        self.names = [names[id(w)] for w in weights]
        self.rows: list[Row] = []
        self._stacks: list[int] = []  # number of experts of each tensor, 0 of one that is no stack
        owner = parts.component_of()
        for name, weight in zip(self.names, weights, strict=True):
            experts = (
                owner[name].partition("/")[0] == "experts" and weight.ndim == 3 and not hasattr(weight, "to_local")
            )
            self._stacks.append(weight.shape[0] if experts else 0)
            depth = parts.depths.get(name)
            for expert in range(weight.shape[0]) if experts else [-1]:
                self.rows.append(
                    Row(
                        tensor=canonical_name(name),
                        component=owner[name],
                        layer=-1 if depth is None or depth.layer is None else depth.layer,
                        layers=0 if depth is None else depth.layers,
                        expert=expert,
                        numbers=weight.numel() // (weight.shape[0] if experts else 1),
                        table_rows=weight.shape[0] if owner[name] == "embedding" and weight.ndim == 2 else 0,
                    )
                )
        self._tables = [i for i, (n, w) in enumerate(zip(self.names, weights, strict=True)) if _is_table(owner[n], w)]
        self.row_counts: dict[str, Tensor] = {
            canonical_name(self.names[i]): torch.zeros(weights[i].shape[0], dtype=torch.int64, device=weights[i].device)
            for i in self._tables
            if not hasattr(weights[i], "to_local")
        }
        self.sums: dict[int, Tensor] = {}  # optimizer steps done -> [sum, R]
        self.curvatures: dict[int, Tensor] = {}
        self.update: list[Tensor] = []  # weights after the observed step minus those before it; else empty
        self._step = 0  # steps seen
        self._share: Tensor | None = None  # [R]
        self._first: list[Tensor] = []
        self._found: list[Tensor] = []
        self._place: list[Tensor] = []  # weights, while they are one update on
        self._handles = (
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        )

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _before(self, _: Optimizer, *call: Any) -> None:
        if torch.compiler.is_compiling() or not self.rows:
            return
        self.update = []
        if self._step % self.every == min(1, self.every - 1) and self._first:
            gradients = self.gradients()
            self._found = [
                self._squares(gradients),
                self._squares(self._first),
                self._products(gradients, self._first),
                self._second_moments(),
                self._touched(gradients),
            ]
            self.update = [local(w).detach().clone() for w in self.weights]
        self._first = []
        if self._step % self.every == 0 or self.every == 1:
            first = self.gradients()
            self._first = [torch.empty_like(gradient) for gradient in first]
            torch._foreach_copy_(self._first, first)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def _after(self, _: Optimizer, *call: Any) -> None:
        if torch.compiler.is_compiling() or not self.rows:
            return
        self._step += 1
        if not self.update:
            return
        after = [local(w).detach() for w in self.weights]
        torch._foreach_sub_(self.update, after)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_neg_(self.update)  # pyright: ignore[reportPrivateImportUsage]
        device = self._found[0].device
        found = torch.stack([*self._found, self._squares(after).to(device), self._squares(self.update).to(device)])
        self.sums[self._step] = self._reduced(found)

    def clear(self) -> None:
        """Gradients away."""
        for weight in self.weights:
            weight.grad = None

    def gradients(self) -> list[Tensor]:
        """This rank's gradients; zeros where a weight has none."""
        found = []
        for weight in self.weights:
            gradient = weight.grad
            if gradient is None:
                found.append(torch.zeros_like(local(weight)))
            else:
                found.append(local(gradient.to_dense() if gradient.is_sparse else gradient).detach())
        return found

    @torch.no_grad()
    def go_on(self) -> None:
        """Take the last update once more."""
        self._place = [local(w).detach().clone() for w in self.weights]
        for weight, update in zip(self.weights, self.update, strict=True):
            local(weight).detach().add_(update)

    @torch.no_grad()
    def go_back(self) -> None:
        """To where the weights were before, bit for bit."""
        for weight, before in zip(self.weights, self._place, strict=True):
            local(weight).detach().copy_(before)
        self._place = []

    @torch.no_grad()
    def take_curvature(self, before: list[Tensor]) -> None:
        """Note the curvature, from the gradients at the weights and those one update on, which are there now."""
        changes = torch._foreach_sub(self.gradients(), before)  # pyright: ignore[reportPrivateImportUsage]
        both = self._reduced(torch.stack([self._products(changes, self.update), self._squares(self.update)]))
        self.curvatures[self._step] = both[0] / both[1].clamp(min=1e-300)

    def _inner(self, index: int) -> tuple[int, ...]:
        """The dimensions of a tensor within one row."""
        return tuple(range(1 if self._stacks[index] else 0, self.weights[index].ndim))

    def _norms(self, tensors: list[Tensor], order: int = 2) -> list[Tensor]:
        """Of each tensor, or of each of its experts."""
        norms = list(torch._foreach_norm(tensors, order))  # pyright: ignore[reportPrivateImportUsage]
        for index, experts in enumerate(self._stacks):
            if experts:
                norms[index] = torch.linalg.vector_norm(tensors[index], order, dim=self._inner(index))
        return norms

    def _squares(self, tensors: list[Tensor]) -> Tensor:
        """Squared norms [R], this rank's share."""
        return self._by_row(self._norms(tensors), power=2)

    def _products(self, ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """Inner products of pairs of tensors [R], this rank's share."""
        pairs = enumerate(zip(ones, others, strict=True))
        return self._by_row(
            [
                (a * b).sum(self._inner(i))
                if self._stacks[i]
                else torch.dot(a.reshape(-1).float(), b.reshape(-1).float())
                for i, (a, b) in pairs
            ]
        )

    def _by_row(self, values: Sequence[Tensor], power: int = 1) -> Tensor:
        """One number a row [R], from one of each tensor, or of each of its experts; this rank's share of it."""
        device = local(self.weights[0]).device
        if self._share is None:
            ranks = self._ranks()
            shares = [[pieces(w) / ranks] * max(1, n) for w, n in zip(self.weights, self._stacks, strict=True)]
            self._share = torch.tensor([one for own in shares for one in own], dtype=torch.float64, device=device)
        there = [value if value.device == device else value.to(device) for value in values]
        return torch.cat([value.reshape(-1) for value in there]).double() ** power * self._share

    def _second_moments(self) -> Tensor:
        """Sums of what the optimizer keeps of squared gradients; NaN where it keeps nothing."""
        moments = [self.optimizer.state.get(weight, {}).get("exp_avg_sq") for weight in self.weights]
        there = [m is not None and m.shape == w.shape for m, w in zip(moments, self.weights, strict=True)]
        if not any(there):
            return self._by_row([torch.full((max(1, n),), torch.nan) for n in self._stacks])
        # They are not negative, so a sum is a norm of order 1.
        known = [
            local(m) if of else w.new_full(w.shape, torch.nan)
            for m, of, w in zip(moments, there, self.weights, strict=True)
        ]
        return self._by_row(self._norms(known, 1))

    def _touched(self, gradients: list[Tensor]) -> Tensor:
        """Rows of the vocabulary's tables that have a gradient; 0 for what is no table."""
        found = [torch.zeros(max(1, n)) for n in self._stacks]
        for index in self._tables:
            touched = (gradients[index] != 0).any(1)
            found[index] = touched.sum().float()
            if (counts := self.row_counts.get(canonical_name(self.names[index]))) is not None:
                counts += touched
        return self._by_row(found)

    def _ranks(self) -> int:
        if self._group is None or not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(None if self._group == "default" else self._group)

    def _reduced(self, values: Tensor) -> Tensor:
        if self._ranks() > 1:
            dist.all_reduce(values, group=None if self._group == "default" else self._group)
        return values


def _is_table(component: str, weight: Tensor) -> bool:
    return component == "embedding" and weight.ndim == 2
