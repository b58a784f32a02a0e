"""PyTorch Lightning: python examples/lightning_module.py"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import toy
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

import rlrs.integrations.lightning  # +

ACCUMULATE = 2


class Module(lightning.LightningModule):
    """The model, its loss and its optimizer."""

    def __init__(self, record: Path | None = None) -> None:
        super().__init__()
        self.model = toy.Toy()
        self.record = record
        self.last_loss = 0.0

    def training_step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch."""
        loss = toy.next_token_loss(self.model(tokens[:, :-1]), tokens)
        self.last_loss = loss.item()
        return loss

    def configure_optimizers(self) -> Any:
        """An optimizer with a group per component, and the scheduler that drives it."""
        ratios = rlrs.Ratios.preset("paper-dense")  # +
        optimizer = torch.optim.AdamW(rlrs.param_groups(self, ratios, lr=3e-3, weight_decay=0.1))  # +
        return rlrs.integrations.lightning.configure(self, optimizer, ratios, warmup_steps=2)  # +

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Write down the rates that the step is about to use."""
        toy.record(self.record, self.trainer.global_step, self.last_loss, optimizer, self.global_rank)


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    torch.manual_seed(0)
    checkpoints = args.folder / "checkpoints"
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        max_epochs=2,
        accumulate_grad_batches=ACCUMULATE,
        callbacks=[
            LearningRateMonitor(logging_interval="step"),
            ModelCheckpoint(checkpoints, filename="{epoch}", save_top_k=-1),
        ],
        logger=CSVLogger(args.folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
    )
    data = toy.sequences(args.middle * ACCUMULATE * toy.BATCH)
    trainer.fit(
        Module(args.record),
        DataLoader(data, batch_size=toy.BATCH // ranks),
        ckpt_path=checkpoints / "epoch=0.ckpt" if args.resume else None,
    )


if __name__ == "__main__":
    main()
