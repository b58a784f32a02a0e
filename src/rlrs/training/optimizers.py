"""The optimizers of a run, over groups that one `RelativeLR` drives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rlrs.muon import StackedMuon
from rlrs.param_groups import param_groups, split_groups
from rlrs.training.spec import RunSpec

HIDDEN = frozenset({"attention", "feed_forward", "experts", "shared_experts"})
"""Components whose matrices Muon takes: hidden layers, not tables, heads and routers (Jordan et al., 2024). Fused
experts are stacks of matrices, each of which is orthogonalised by itself."""


def make_optimizers(model: nn.Module, spec: RunSpec) -> list[Optimizer]:
    """One optimizer, or Muon for the hidden layers' matrices (and their stacks) and AdamW for the rest."""
    settings = spec.training
    groups = param_groups(
        model,
        spec.relative_rates(),
        lr=spec.lr,
        weight_decay=settings.weight_decay,
        weight_decays=settings.component_weight_decay,
    )
    if settings.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True)]
    adamw: dict[str, Any] = {"betas": settings.betas, "eps": settings.eps, "fused": True}
    if settings.optimizer == "adamw":
        return [torch.optim.AdamW(groups, **adamw)]
    hidden, rest = split_groups(groups, _is_hidden_matrix, lr=spec.lr * settings.muon_rate)
    stacks, matrices = split_groups(hidden, lambda group, weight: weight.ndim == 3)
    # `match_rms_adamw` scales an update to the size of AdamW's, so that both can share a base rate and a decay.
    muon: dict[str, Any] = {"momentum": settings.momentum, "adjust_lr_fn": "match_rms_adamw"}
    optimizers: list[Optimizer] = [torch.optim.Muon(matrices, **muon)] if matrices else []
    optimizers += [StackedMuon(stacks, **muon)] if stacks else []
    return [*optimizers, torch.optim.AdamW(rest, **adamw)] if rest else optimizers


def _is_hidden_matrix(group: Mapping[str, Any], parameter: nn.Parameter) -> bool:
    component = group["component"].partition("/")[0]
    if component not in HIDDEN or "/no_decay" in group["name"]:  # biases of fused experts have two dimensions
        return False
    return parameter.ndim == 2 or (parameter.ndim == 3 and component == "experts")
