"""Lines of metrics.jsonl: losses, and every component's rate, gradient norm and relative update."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlrs.models import Routing, router_statistics


class MetricsFile:
    """metrics.jsonl of a run: lines are appended, and cut back to a checkpoint's length on resume."""

    def __init__(self, path: Path, length: int = 0) -> None:
        """Open the file and keep its first `length` bytes: those that were there at the checkpoint.

        Raises:
            ValueError: the file is shorter than that.
        """
        there = path.stat().st_size if path.exists() else 0
        if there < length:
            raise ValueError(f"{path}: has {there} bytes of the {length} that the checkpoint goes with")
        self._file = open(path, "ab")  # noqa: SIM115  closed by close()
        self._file.truncate(length)

    def write(self, line: dict[str, Any]) -> None:
        """Append one object as a line."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()  # a page or a person that follows the run sees whole lines

    def sync(self) -> int:
        """Make all lines last; returns the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ComponentProbe:
    """Gradient norm and update-to-weight ratio of every component in one optimizer step.

    Made after the backward pass and before clipping, read after the optimizer step. `update_ratio` is
    `||w_after - w_before|| / ||w_before||` over all of a component's parameters; 0 where weights are all 0.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._weights: dict[str, list[Tensor]] = {}
        for group in optimizer.param_groups:
            self._weights.setdefault(group["component"], []).extend(group["params"])
        self._grad_norm = {
            component: _norm([weight.grad for weight in weights if weight.grad is not None])
            for component, weights in self._weights.items()
        }
        self._before = {
            component: [weight.detach().clone() for weight in weights] for component, weights in self._weights.items()
        }

    def read(self, rates: dict[str, float]) -> dict[str, dict[str, float]]:
        """Component -> rate, gradient norm before clipping, and update ratio of the step just done."""
        components = {}
        for component, weights in self._weights.items():
            before = self._before[component]
            moved = _norm([weight.detach() - old for weight, old in zip(weights, before, strict=True)])
            size = _norm(before)
            components[component] = {
                "lr": rates[component],
                "grad_norm": self._grad_norm[component],
                "update_ratio": moved / size if size else 0.0,
            }
        return components


def router_line(routings: Sequence[Routing]) -> dict[str, Any] | None:
    """Load, dropped share and entropy of the routers, as a line of metrics.jsonl holds them."""
    statistics = router_statistics(routings)
    return None if statistics is None else dict(vars(statistics))


def _norm(tensors: Sequence[Tensor]) -> float:
    if not tensors:
        return 0.0
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors])).item()
