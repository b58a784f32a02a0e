"""The monitor in trainers that own their loop: a callback for transformers' `Trainer`, one for Lightning.

trainer.add_callback(monitor_trainer(thresholds="monitor.yaml", alerts=[AlertLog()]))
"""

from __future__ import annotations

from typing import Any

from rlrs.integrations import require
from rlrs.monitoring.monitor import Monitor


def monitor_trainer(*, stop: bool = True, **options: Any) -> Any:
    """A `TrainerCallback` with a monitor of the run; its `monitor` is there once training has begun.

    The loss is that of the Trainer's log, the mean of `logging_steps` steps over all processes; `every` is that number
    unless it is given, as a multiple of it. Evaluations (`eval_loss`) are observed too. After a resumption the windows
    fill anew.

    Args:
        stop: end the training when a guard says so.
        options: for `Monitor`: `thresholds`, `every`, `alerts`, `record`, ... `guard` is a function of the scheduler
            that returns one, for the scheduler does not exist before. Rollback is not for this trainer, which cannot go
            back in its data: let it stop, and start again from a checkpoint.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: from `train()`, `every` is not a multiple of `logging_steps`.
    """
    transformers = require("transformers", "transformers")

    class MonitorCallback(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.monitor: Monitor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler = kwargs.get("lr_scheduler")
            given = {"every": None if options.get("thresholds") else int(state.logging_steps), **options}
            if args.max_grad_norm:
                given.setdefault("clip", args.max_grad_norm)
            make_guard = given.pop("guard", None)
            guard = make_guard(scheduler) if make_guard is not None else None
            self.monitor = Monitor(kwargs["optimizer"], scheduler, guard=guard, **given)
            if self.monitor.every % state.logging_steps:
                raise ValueError(
                    f"the monitor looks every {self.monitor.every} steps, but the loss is logged every "
                    f"{state.logging_steps}: logging_steps should divide that"
                )
            self.monitor.step = state.global_step

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.monitor is not None:
                self.monitor.expect(state.global_step + 1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.monitor is None or not logs:
                return
            loss, valid = logs.get("loss"), logs.get("eval_loss")
            if loss is not None and state.global_step > self.monitor.step:
                self.monitor.observe(state.global_step, float(loss), grad_norm=logs.get("grad_norm"))
            elif valid is not None:
                self.monitor.evaluated(state.global_step, float(valid))
            if self.monitor.stopped is not None and stop:
                control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return MonitorCallback()


def monitor_lightning(*, stop: bool = True, **options: Any) -> Any:
    """A Lightning `Callback` with a monitor of the fit; its `monitor` is there once training has begun.

    The loss is what `training_step` returns, averaged over the ranks. Validation is observed where the module logs
    `val_loss`. Checkpoints hold the monitor's state.

    Args:
        stop: end the fit when a guard says so.
        options: for `Monitor`; `guard` is a function of the scheduler that returns one.

    Raises:
        ModuleNotFoundError: lightning is not installed.
    """
    pytorch = require("lightning.pytorch", "lightning")

    class MonitorCallback(pytorch.Callback):
        def __init__(self) -> None:
            self.monitor: Monitor | None = None
            self._state: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            scheduler = schedulers[0] if schedulers else None
            given = dict(options)
            make_guard = given.pop("guard", None)
            guard = make_guard(scheduler) if make_guard is not None else None
            self.monitor = Monitor(list(trainer.optimizers), scheduler, guard=guard, **given)
            if self._state is not None:
                self.monitor.load_state_dict(self._state)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *batch: Any) -> None:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if self.monitor is None or loss is None or trainer.global_step <= self.monitor.step:
                return  # a part of an accumulated batch
            self.monitor.observe(trainer.global_step, loss)
            if self.monitor.stopped is not None and stop:
                trainer.should_stop = True

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            valid = trainer.callback_metrics.get("val_loss")
            if self.monitor is not None and valid is not None and not trainer.sanity_checking:
                self.monitor.evaluated(trainer.global_step, float(valid))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.monitor is not None:
                self.monitor.close()

        def state_dict(self) -> dict[str, Any]:
            return self.monitor.state_dict() if self.monitor is not None else {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._state = state_dict or None

    return MonitorCallback()
