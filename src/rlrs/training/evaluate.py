"""Loss on the fixed validation sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def evaluate(model: nn.Module, batches: Sequence[Sequence[Tensor]]) -> float:
    """Mean cross-entropy over batches of one size, nats per token; routers' losses do not count."""
    model.eval()  # architectures of transformers may have dropout
    losses = [model(inputs_BT, targets_BT).loss for inputs_BT, targets_BT in batches]
    model.train()
    return torch.stack(losses).double().mean().item()
