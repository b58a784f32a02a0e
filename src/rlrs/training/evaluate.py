"""Loss on the fixed validation sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlrs.models import LanguageModel


@torch.no_grad()
def evaluate(model: LanguageModel, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean cross-entropy over batches of one size, nats per token; routers' losses do not count."""
    model.eval()  # architectures of transformers may have dropout
    losses = [model(inputs_BT, targets_BT).loss for inputs_BT, targets_BT in batches]
    model.train()
    return torch.stack(losses).double().mean().item()
