"""Lines of metrics.jsonl: losses, and every component's rate, gradient norm and relative update."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlrs.extras import install
from rlrs.files import write_atomic
from rlrs.models import Routing, router_statistics
from rlrs.training.distributed import World, local_part


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
        self.also: TensorBoardFile | None = None

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object as a line."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()  # a page or a person that follows the run sees whole lines
        if self.also is not None:
            self.also.write(line)

    def cut(self, length: int, step: int, name: str) -> None:
        """Go back to a length; the lines after it are put into another file.

        Args:
            length: bytes that stay.
            step: that they end with.
            name: of the other file, beside this one: `metrics.NAME.jsonl`.
        """
        self._file.flush()
        path = Path(self._file.name)
        write_atomic(path.with_name(f"{path.stem}.{name}.jsonl"), path.read_bytes()[length:])
        self._file.truncate(length)
        self._file.seek(length)
        if self.also is not None:
            self.also.close()
            self.also = TensorBoardFile(self.also.folder, step)

    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def sync(self) -> None:
        """Make all lines last."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self.also is not None:
            self.also.close()


class TensorBoardFile:
    """Lines of metrics.jsonl as scalars: `loss`, `components/embedding/lr`, `router/load/0` (the busiest expert).

    Args:
        folder: for the event files.
        step: steps done: what an earlier process wrote after it is hidden.

    Raises:
        ImportError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(f"training.tensorboard needs TensorBoard: {install('tensorboard')}") from None
        self.folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)
        assert self._writer.file_writer is not None
        self._events, self._summary = self._writer.file_writer, Summary

    def write(self, line: Mapping[str, Any]) -> None:
        """A line's numbers; a thread of TensorBoard's writes them."""
        # One event for all: one for each, as `add_scalar` makes them, took half the time of a line.
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in _scalars("", line) if name != "step"
        ]
        self._events.add_summary(self._summary(value=values), line["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _scalars(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers of a nested line with their paths."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        yield name, value
        return
    for key, part in parts:
        yield from _scalars(f"{name}/{key}" if name else str(key), part)


class ComponentProbe:
    """Gradient norm, update-to-weight ratio and weight norm of every component in one optimizer step.

    Made after the backward pass and before clipping, read after the optimizer step. `update_ratio` is
    `||w_after - w_before|| / ||w_before||` over all of a component's parameters; 0 where weights are all 0. Every
    rank looks at what it holds; where weights are sharded, squares are added up over the ranks.
    """

    def __init__(self, optimizers: Sequence[Optimizer], world: World, *, sharded: bool) -> None:
        self._world, self._sharded = world, sharded
        components: dict[str, list[Tensor]] = {}
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            components.setdefault(group["component"], []).extend(group["params"])
        self._names = list(components)
        self._owner = [number for number, of in enumerate(components.values()) for _ in of]
        weights = [weight for of in components.values() for weight in of]
        self._weights = [local_part(weight.detach()) for weight in weights]
        with_gradient = [i for i, weight in enumerate(weights) if weight.grad is not None]
        gradients = [local_part(weight.grad) for weight in weights if weight.grad is not None]
        # Nothing is read back before `read`: on an accelerator, the step is not held up.
        self._squares = [
            self._square(gradients, [self._owner[i] for i in with_gradient]),
            self._square(self._weights, self._owner),
        ]
        self._before = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def read(self) -> dict[str, dict[str, float]]:
        """Component -> gradient norm before clipping and update ratio of the step just done, norm of the weights."""
        torch._foreach_sub_(self._before, self._weights)  # pyright: ignore[reportPrivateImportUsage]
        squares_3K = torch.stack([*self._squares, self._square(self._before, self._owner)])
        if self._sharded:
            squares_3K = torch.tensor(self._world.mean(squares_3K), dtype=torch.float64).mul(self._world.size)
        return {
            name: {"grad_norm": grad_norm, "update_ratio": moved / size if size else 0.0, "weight_norm": size}
            for name, grad_norm, size, moved in zip(self._names, *squares_3K.sqrt().tolist(), strict=True)
        }

    def _square(self, tensors: list[Tensor], owner: list[int]) -> Tensor:
        """Squared norm of every component's tensors, [K]; 0 for a component without any."""
        squares_K = torch.zeros(len(self._names), dtype=torch.float64, device=self._world.device)
        if not tensors:
            return squares_K
        norms = torch.stack(torch._foreach_norm(tensors))  # pyright: ignore[reportPrivateImportUsage]
        return squares_K.index_add_(0, torch.tensor(owner, device=squares_K.device), norms.double().square())


def router_line(routings: Sequence[Routing], world: World) -> dict[str, Any] | None:
    """Load, dropped share and entropy of the routers, as a line of metrics.jsonl holds them; over all ranks' tokens."""
    statistics = router_statistics(routings)
    if statistics is None:
        return None
    # Load and drops are the global batch's as they are: the routers count over all ranks.
    (entropy,) = world.mean([statistics.entropy])
    return {**vars(statistics), "entropy": entropy}
