"""A run's losses reported from trainers that own their loop: a callback for transformers' `Trainer`, one for Lightning.

trainer = Trainer(..., optimizers=(optimizer, run.scheduler(optimizer)), callbacks=[trainer_callback(run)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlrs.integrations import require

if TYPE_CHECKING:
    from rlrs.runs import Run

__all__ = ["lightning_callback", "trainer_callback"]


def trainer_callback(run: Run) -> Any:
    """A `TrainerCallback` that reports every loss that is logged, and ends the training when the run is to end.

    With `logging_steps=1` every step is reported; give `logging_nan_inf_filter=False`, or a loss that is no number is
    not seen. Call `run.finish(valid_loss=trainer.evaluate()["eval_loss"])` after `trainer.train()`.

    Args:
        run: from `rlrs.current_run`.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    transformers = require("transformers", "transformers")

    class ReportCallback(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero or not logs or "loss" not in logs:
                return
            if run.report(state.global_step, train_loss=logs["loss"]):
                control.should_training_stop = True

    return ReportCallback()


def lightning_callback(run: Run) -> Any:
    """A Lightning `Callback` that reports the loss of every optimizer step, and ends the fit when the run is to end.

    For automatic optimization by one optimizer. Call `run.finish(valid_loss=...)` after `trainer.fit`.

    Args:
        run: from `rlrs.current_run`.

    Raises:
        ModuleNotFoundError: lightning is not installed.
    """
    pytorch = require("lightning.pytorch", "lightning")

    class ReportCallback(pytorch.Callback):
        def __init__(self) -> None:
            self.sum, self.step = 0.0, 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.step = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *batch: Any) -> None:
            self.sum += float(outputs["loss"])  # of a part of a batch, divided by the number of parts
            if trainer.global_step == self.step:
                return
            loss, self.sum, self.step = self.sum, 0.0, trainer.global_step
            if trainer.is_global_zero and run.report(self.step, train_loss=loss):
                trainer.should_stop = True

    return ReportCallback()
