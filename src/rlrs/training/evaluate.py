"""Loss on the fixed validation sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlrs.settings import TrainingConfig


@torch.no_grad()
def evaluate(model: nn.Module, batches: Sequence[Sequence[Tensor]]) -> float:
    """Mean cross-entropy over batches of one size, nats per token; routers' losses do not count.

    Where targets are left out (-100), every batch counts by the targets that it has.
    """
    model.eval()  # architectures of transformers may have dropout
    losses = torch.stack([model(inputs_BT, targets_BT).loss for inputs_BT, targets_BT in batches]).double()
    counts = torch.stack([(targets_BT >= 0).sum() for _, targets_BT in batches]).double()
    model.train()
    whole = bool((counts == counts[0]).all())
    return (losses.mean() if whole else (losses * counts).sum() / counts.sum()).item()


def evaluation_steps(steps: int, settings: TrainingConfig) -> set[int]:
    """Steps after which a run is validated: evenly spaced, the last step among them, none at step 0."""
    points = min(settings.evaluations, steps)
    return {round(number * steps / points) for number in range(1, points + 1)}
