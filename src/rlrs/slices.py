"""Rates per slice of one tensor: for experts that are fused into it, and for tokens, its rows.

An optimizer has one rate per tensor. A step of AdamW, decoupled weight decay included, is proportional to that rate and
its moments do not depend on it, so a slice with a share `f` of the tensor's rate takes `f` times the step:

    w <- w_before + f * (w_after - w_before)

That is exact, up to rounding, for every optimizer of which this holds: AdamW, SGD, Adafactor with a given rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_HANDLES = "_rlrs_slice_hooks"

Shares = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""Of a parameter group: the name of every ratio in it -> its share of the group's rate, from 0 to 1."""


def scale_slices(optimizer: Optimizer, shares: Shares) -> None:
    """Make an optimizer's steps scale the slices of the groups that have `slices`; replaces what an earlier call made.

    Costs a copy of those tensors during the step.
    """
    for handle in getattr(optimizer, _HANDLES, ()):
        handle.remove()
    handles = []
    if any(group.get("slices") for group in optimizer.param_groups):
        before: list[tuple[Tensor, Tensor, Mapping[str, Any]]] = []

        def keep(optimizer: Optimizer, *call: Any) -> None:
            before[:] = [
                (parameter, parameter.detach().clone(), group)
                for group in optimizer.param_groups
                if group.get("slices")
                for parameter in group["params"]
                if parameter.requires_grad  # not `.grad`, which a closure may make in the middle of the step
            ]

        @torch.no_grad()
        def scale(optimizer: Optimizer, *call: Any) -> None:
            for parameter, old, group in before:
                share = _share_of_rows(parameter, shares(group), group)
                # `lerp` gives the new weight itself, to the bit, where the share is 1.
                parameter.copy_(torch.lerp(old, parameter.detach(), share))
            before.clear()

        handles = [optimizer.register_step_pre_hook(keep), optimizer.register_step_post_hook(scale)]
    setattr(optimizer, _HANDLES, handles)


def _share_of_rows(parameter: Tensor, shares: Mapping[str, float], group: Mapping[str, Any]) -> Tensor:
    """Shares along the first dimension, shaped to be broadcast over the others."""
    count = group["slices"][0][3]
    if parameter.shape[:1] != (count,):
        raise RuntimeError(
            f"parameter group {group['name']!r} has ratios per expert or token, {group['slices'][0][0]!r} the first, "
            f"of {count}, and its tensor has the shape {tuple(parameter.shape)}: it was flattened, as DeepSpeed's ZeRO "
            "and FSDP1 do; leave these ratios out, or shard with FSDP2"
        )
    rows = [shares[group["component"]]] * count
    for name, first, stop, _ in group["slices"]:
        rows[first:stop] = [shares[name]] * (stop - first)
    shape = (-1, *[1] * (parameter.ndim - 1))
    share = torch.tensor(rows, dtype=parameter.dtype, device=parameter.device).view(shape)
    placements = getattr(parameter, "placements", None)
    if placements is None:
        return share
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    assert isinstance(parameter, DTensor)
    mine = [Shard(0) if placement.is_shard(0) else Replicate() for placement in placements]
    return distribute_tensor(share, parameter.device_mesh, mine)
