"""`rlrs.verify` in trainers that own their loop: a callback for transformers' `Trainer`, one for Lightning.

trainer.add_callback(trainer_callback())

Accelerate has no callbacks, and the loop is the user's: `with rlrs.verify(model, optimizer, scheduler=scheduler):`
takes what `accelerator.prepare` returned.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

from rlrs.integrations import require
from rlrs.verify import Report, verify

__all__ = ["lightning_callback", "trainer_callback"]

Action = Literal["warn", "raise"]


class _Check:
    """A `verify` that begins and ends by calls from a trainer."""

    def __init__(self, action: Action, options: dict[str, Any]) -> None:
        if action not in ("warn", "raise"):
            raise ValueError(f"action should be 'warn' or 'raise', not {action!r}")
        self.action, self.options = action, options
        self.running: verify | None = None
        self.report: Report | None = None

    def begin(self, model: Any, optimizers: Any, schedulers: Any) -> None:
        self.report = None
        self.running = verify(model, optimizers, scheduler=schedulers, **self.options)
        self.running.__enter__()

    def look(self, *, last: bool = False) -> None:
        """Take the report if it is there, or, at the end, whatever there is."""
        if self.running is None or not (last or self.running.done):
            return
        self.running.__exit__(None, None, None)
        self.report, self.running = self.running.report, None
        if self.report.ok:
            return
        if self.action == "raise":
            self.report.raise_for_findings()
        warnings.warn(str(self.report), UserWarning, stacklevel=3)

    def drop(self) -> None:
        """End without a report."""
        if self.running is not None:
            self.running.__exit__(RuntimeError, None, None)
            self.running = None


def trainer_callback(*, action: Action = "warn", **options: Any) -> Any:
    """A `TrainerCallback` that verifies the first steps of a run; the Trainer's scheduler is looked at too.

    Its `report` is there after those steps.

    Args:
        action: on findings, `warn` once, or `raise` a `VerificationError`, which ends the training.
        options: for `rlrs.verify`: `steps`, `ratios`, `rates`, `rules`, `parts`.

    Raises:
        ValueError: another action.
        ModuleNotFoundError: transformers is not installed.
    """
    transformers = require("transformers", "transformers")

    class VerifyCallback(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.check = _Check(action, options)

        @property
        def report(self) -> Report | None:
            return self.check.report

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler = kwargs.get("lr_scheduler")
            self.check.begin(kwargs["model"], kwargs["optimizer"], scheduler)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.check.look()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.check.look(last=True)

    return VerifyCallback()


def lightning_callback(*, action: Action = "warn", **options: Any) -> Any:
    """A Lightning `Callback` that verifies the first steps of a fit, of all its optimizers.

    Schedulers with `interval="step"` and `frequency=1` are looked at too. Its `report` is there after those steps.

    Args:
        action: on findings, `warn` once, or `raise` a `VerificationError`, which ends the fit.
        options: for `rlrs.verify`: `steps`, `ratios`, `rates`, `rules`, `parts`.

    Raises:
        ValueError: another action.
        ModuleNotFoundError: lightning is not installed.
    """
    pytorch = require("lightning.pytorch", "lightning")

    class VerifyCallback(pytorch.Callback):
        def __init__(self) -> None:
            self.check = _Check(action, options)

        @property
        def report(self) -> Report | None:
            return self.check.report

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            each_step = [c.scheduler for c in trainer.lr_scheduler_configs if (c.interval, c.frequency) == ("step", 1)]
            self.check.begin(pl_module, list(trainer.optimizers), each_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
            self.check.look()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.check.look(last=True)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.check.drop()

    return VerifyCallback()
