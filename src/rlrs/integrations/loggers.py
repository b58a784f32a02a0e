"""Rates, ratios and the base rate of every component in an experiment tracker.

log = TensorBoard("runs/a")  # or CSV("rates.csv"), MLflow(); the run that wandb.init() returns, the trackio module
log.log(rates(scheduler), scheduler.last_epoch)
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from rlrs.integrations import require
from rlrs.lr_scheduler import RelativeLR

__all__ = ["CSV", "MLflow", "TensorBoard", "rates"]


def rates(scheduler: RelativeLR) -> dict[str, float]:
    """The present rates under flat names: `lr/base`, and `lr/COMPONENT` and `lr_ratio/COMPONENT` for every component.

    Ratios come from the schedule, not from a division of the rates: they are right also where the base rate is 0.
    With several optimizers `lr/base` is the largest of their base rates, and each ratio is relative to its own.

    >>> import torch, rlrs
    >>> model = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(8, 4), "norm": torch.nn.LayerNorm(4)})
    >>> optimizer = torch.optim.SGD(rlrs.param_groups(model, {"embedding": 5.0}, lr=0.1))
    >>> rates(rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=10, warmup_steps=1))
    {'lr/base': 0.1, 'lr/embedding': 0.5, 'lr/norm': 0.1, 'lr_ratio/embedding': 5.0, 'lr_ratio/norm': 1.0}
    """
    values = {"lr/base": scheduler.base_rate()}
    values |= {f"lr/{component}": rate for component, rate in scheduler.rates().items()}
    values |= {f"lr_ratio/{component}": ratio for component, ratio in scheduler.relative_rates().items()}
    return values


class TensorBoard:
    """Scalars in a TensorBoard folder.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a scalar per value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self.writer.close()


class MLflow:
    """Metrics of MLflow's active run."""

    def __init__(self) -> None:
        self._mlflow = require("mlflow", "mlflow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log all values in one request."""
        self._mlflow.log_metrics(dict(values), step=step)


class CSV:
    """A table with a line per call, written out at each, so that a run that dies leaves what it had.

    Args:
        path: of the file. One that exists is continued.

    Raises:
        ValueError: from `log`, values of other names than the file's columns.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rates.csv"
    >>> CSV(path).log({"lr/base": 0.1}, 3)
    >>> path.read_text().splitlines()
    ['step,lr/base', '3,0.1']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Append a line."""
        names = ["step", *values]
        with self.path.open("a+", newline="", encoding="utf-8") as file:
            file.seek(0)
            columns = next(csv.reader(file), None)
            if columns not in (None, names):
                raise ValueError(f"{self.path} has the columns {', '.join(columns)}, not {', '.join(names)}")
            writer = csv.writer(file)  # in append mode, wherever the file was read
            if columns is None:
                writer.writerow(names)
            writer.writerow([step, *values.values()])
