"""Relative learning rates under Accelerate.

model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
scheduler = prepare_scheduler(accelerator, optimizer, ratios, total_steps=steps)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from rlrs.integrations import require
from rlrs.lr_scheduler import RelativeLR
from rlrs.ratios import Ratios

require("accelerate", "accelerate")

from accelerate import Accelerator  # noqa: E402
from accelerate.optimizer import AcceleratedOptimizer  # noqa: E402
from accelerate.scheduler import AcceleratedScheduler  # noqa: E402

__all__ = ["prepare_scheduler"]


def prepare_scheduler(
    accelerator: Accelerator,
    optimizer: Optimizer | Sequence[Optimizer],
    ratios: Ratios | Mapping[str, Any],
    *,
    total_steps: int,
    **schedule: Any,
) -> AcceleratedScheduler:
    """A prepared `RelativeLR` that goes one step per optimizer step, on any number of processes.

    `accelerator.prepare(scheduler)` makes one that goes as many steps at a time as there are processes, so that a
    schedule counted in the batches of one process ends in time; this one is counted in optimizer steps. Call its
    `step()` after every `optimizer.step()`: while gradients accumulate, and where a step was skipped (fp16), it
    stays. `save_state` and `load_state` include it.

    Args:
        accelerator: that prepared the optimizer.
        optimizer: as `accelerator.prepare` returned it, made over `rlrs.param_groups`; or several.
        ratios: relative rates per component.
        total_steps: in optimizer steps of all processes together, warm-up included.
        schedule: for `RelativeLR`: `warmup_steps`, `final_fraction`, `schedule`, ...

    Raises:
        ValueError: an optimizer that is not prepared.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for each in optimizers:
        if not isinstance(each, AcceleratedOptimizer):
            raise ValueError(f"{type(each).__name__} is not prepared: give what accelerator.prepare(optimizer) returns")
    scheduler = RelativeLR(optimizers, ratios, total_steps=total_steps, **schedule)
    # Accelerate's word for one step per optimizer step; the flag makes it register the scheduler as it is.
    prepared = AcceleratedScheduler(scheduler, optimizers, split_batches=True)
    prepared._is_accelerate_prepared = True  # pyright: ignore[reportAttributeAccessIssue]
    accelerator.prepare_scheduler(prepared)  # pyright: ignore[reportArgumentType]
    return prepared
