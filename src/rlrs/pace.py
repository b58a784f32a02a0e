"""Counts an optimizer's steps between two steps of its scheduler, and says so if they are not one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

_NEVER = 100
"""Optimizer steps without a scheduler step after which a warning comes; chosen here, not studied."""

_EVERY = "call it once after every optimizer.step()"


class Ticks:
    """Optimizer steps since the scheduler's last one; a step hook counts them."""

    def __init__(self, never: int) -> None:
        self.steps = 0
        self.never = min(_NEVER, never)
        self.warned = False

    def count(self, optimizer: Optimizer, *call: Any) -> None:
        """The hook. In a compiled optimizer, where it is traced, it can only say that there was a step."""
        if torch.compiler.is_compiling():
            self.steps = 1
            return
        self.steps += 1
        if self.steps == self.never and not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.steps} optimizer steps without a RelativeLR.step(): the rate stays where it is; {_EVERY}, not "
                "once per epoch",
                UserWarning,
                stacklevel=2,
            )


class Pace:
    """One warning, of the first wrong pace that is seen.

    Args:
        total_steps: of the schedule.
    """

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.ticks: list[Ticks] = []
        self.warned = False

    def attach(self, optimizers: Sequence[Optimizer]) -> list[Any]:
        """Count the steps of these optimizers from now on; the handles of the hooks."""
        self.ticks = [Ticks(max(self.total_steps, 2)) for _ in optimizers]
        return [
            optimizer.register_step_post_hook(ticks.count)
            for optimizer, ticks in zip(optimizers, self.ticks, strict=True)
        ]

    def restart(self) -> None:
        """Count from 0, after a state was loaded."""
        for ticks in self.ticks:
            ticks.steps = 0

    def scheduler_steps(self, step: int, optimizers: Sequence[Optimizer]) -> None:
        """The scheduler is about to leave a step: see that it was taken, once, and that it is not the last."""
        most = 0
        for ticks in self.ticks:
            if ticks.steps > most:
                most = ticks.steps
            ticks.steps = 0
        if (most != 1 or step >= self.total_steps) and not self.warned:
            self._warn(most, step, optimizers)

    def _warn(self, steps: int, step: int, optimizers: Sequence[Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if steps != 1 and any(group.get("capturable") for group in groups):
            return  # a captured graph replays an optimizer's steps without its hooks
        if any(ticks.warned for ticks in self.ticks) and steps > 1:
            return
        self.warned = True
        if steps == 0:
            message = _ahead(step, groups)
        elif steps > 1:
            message = (
                f"the optimizer took {steps} steps since the last RelativeLR.step(), which counts optimizer steps: "
                f"{_EVERY}, not once per epoch"
            )
        else:
            message = (
                f"RelativeLR goes on past its end, total_steps={self.total_steps}: rates stay where they ended. Give "
                "total_steps in optimizer steps of the whole run"
            )
        warnings.warn(message, UserWarning, stacklevel=4)


def _ahead(step: int, groups: Sequence[dict[str, Any]]) -> str:
    lost = "the first optimizer.step(): the first rate of the schedule is skipped" if step == 0 else ""
    if _overflowed(groups):
        return (
            f"RelativeLR.step() {'before ' + lost if lost else f'at step {step}'}, where the optimizer's step was left "
            "out because gradients overflowed, as a GradScaler does in fp16: step the scheduler only if the optimizer "
            "did (before = scaler.get_scale(); scaler.step(optimizer); scaler.update(); then, if scaler.get_scale() >= "
            "before, scheduler.step())"
        )
    where = f"before {lost}" if lost else f"at step {step} without an optimizer.step() since the last one"
    return (
        f"RelativeLR.step() {where}; {_EVERY}, not in every micro-batch of an accumulated gradient, not where fp16 "
        "left a step out, and not once per process (under Accelerate: rlrs.integrations.accelerate.prepare_scheduler)"
    )


@torch.no_grad()
def _overflowed(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether a gradient is not finite; asked once in a run at most."""
    for group in groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            local = getattr(gradient, "to_local", lambda g=gradient: g)()
            values = local.coalesce().values() if local.is_sparse else local
            if not bool(torch.isfinite(values).all()):
                return True
    return False
