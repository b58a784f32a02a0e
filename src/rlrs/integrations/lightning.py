"""Relative learning rates under PyTorch Lightning; Fabric needs nothing but `rlrs.RelativeLR`.

def configure_optimizers(self):
    optimizer = torch.optim.AdamW(rlrs.param_groups(self, ratios, lr=3e-3))
    return configure(self, optimizer, ratios, warmup_steps=100)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch.optim import Optimizer

from rlrs.lr_scheduler import RelativeLR
from rlrs.ratios import Ratios

__all__ = ["configure"]


class _Trainer(Protocol):
    @property
    def estimated_stepping_batches(self) -> int | float: ...


class _Module(Protocol):  # a LightningModule; of `lightning` or of `pytorch_lightning`, neither of which is imported
    @property
    def trainer(self) -> Any: ...


def configure(
    module: _Module,
    optimizer: Optimizer,
    ratios: Ratios | Mapping[str, Any],
    *,
    total_steps: int | None = None,
    **schedule: Any,
) -> dict[str, Any]:
    """What `configure_optimizers` returns for an optimizer over `rlrs.param_groups`.

    The scheduler goes one step per optimizer step. `LearningRateMonitor` shows `learning_rate/COMPONENT`.

    Args:
        module: the `LightningModule`.
        optimizer: made over `rlrs.param_groups(module, ...)`.
        ratios: relative rates per component.
        total_steps: optimizer steps; the trainer's own estimate if None, which knows `max_steps`, `max_epochs`,
            gradient accumulation and the number of processes.
        schedule: for `RelativeLR`: `warmup_steps`, `final_fraction`, `schedule`, ...

    Raises:
        ValueError: the trainer does not know how long it will train.
    """
    if total_steps is None:
        trainer: _Trainer = module.trainer
        estimate = trainer.estimated_stepping_batches
        if not math.isfinite(estimate) or estimate < 1:
            raise ValueError("the trainer does not know its number of steps: give it max_steps, or give total_steps")
        total_steps = int(estimate)
    scheduler = RelativeLR(optimizer, ratios, total_steps=total_steps, **schedule)
    # The name comes before the group's own in a LearningRateMonitor.
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1, "name": "learning_rate"},
    }
