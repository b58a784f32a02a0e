"""Muon for stacks of matrices, as fused experts are: every matrix is orthogonalised by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_STEP = inspect.unwrap(torch.optim.Muon.step)
"""Torch's own step without its hooks, which are for steps that a loop takes."""


class StackedMuon(Optimizer):
    """`torch.optim.Muon` for tensors of the shape (matrices, rows, columns), which that refuses.

    A step is torch's own on each matrix: the momentum is orthogonalised, and scaled by the shape of one matrix, so that
    an expert has the update that it would have as a tensor of its own. A stack that FSDP2 has divided should be divided
    between matrices, as it is by default.

    Args:
        params: tensors or groups of them, of three dimensions.
        options: those of `torch.optim.Muon`.

    Raises:
        ValueError: a tensor of another number of dimensions; or from the step, a matrix that is divided.

    Examples:
        >>> experts = torch.nn.Parameter(torch.ones(4, 8, 16))
        >>> optimizer = StackedMuon([experts], lr=0.02, adjust_lr_fn="match_rms_adamw")
        >>> experts.grad = torch.ones_like(experts)
        >>> optimizer.step()
        >>> optimizer.state[experts]["momentum_buffer"].shape
        torch.Size([4, 8, 16])
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, torch.optim.Muon([torch.zeros(1, 1)], **options).defaults)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim != 3:
                    raise ValueError(
                        f"StackedMuon takes stacks of matrices, (matrices, rows, columns), not {tuple(weight.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; what the closure gives, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if matrices := self._matrices(group["params"]):
                # It holds no more than this step needs: the momentum of each matrix is a part of the stack's.
                inner = torch.optim.Muon([{**group, "params": [weight for weight, _ in matrices]}])
                for weight, momentum in matrices:
                    inner.state[weight]["momentum_buffer"] = momentum
                _STEP(inner)
        return loss

    def _matrices(self, stacks: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Every matrix with a gradient, and its momentum, as views of the stacks."""
        found = []
        for stack in stacks:
            if stack.grad is None:
                continue
            state = self.state[stack]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(stack.grad, memory_format=torch.preserve_format)
            weights, grads, momenta = map(_local, (stack.detach(), stack.grad, state["momentum_buffer"]))
            if weights.shape[1:] != stack.shape[1:]:
                raise ValueError(
                    f"StackedMuon orthogonalises whole matrices, and those of a stack {tuple(stack.shape)} are divided "
                    "between ranks: shard its first dimension"
                )
            for weight, grad, momentum in zip(weights, grads, momenta, strict=True):
                weight.grad = grad
                found.append((weight, momentum))
        return found


def _local(tensor: Any) -> Tensor:
    """What this rank holds of a tensor, as a view of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
