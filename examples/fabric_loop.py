"""Lightning Fabric: fabric run --accelerator cpu --devices 2 examples/fabric_loop.py"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import toy
from lightning.fabric import Fabric

import rlrs  # +


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(accelerator="cpu", devices=ranks)
    fabric.launch()

    torch.manual_seed(0)
    model = toy.Toy()
    ratios = rlrs.Ratios.preset("paper-dense")  # +
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))  # +
    model, optimizer = fabric.setup(model, optimizer)
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=args.steps, warmup_steps=args.steps // 10)  # +

    first = 0
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if args.resume:
        fabric.load(args.folder / "checkpoint.ckpt", state)
        first = scheduler.last_epoch
    for step in range(first, args.steps):
        tokens = toy.batch(step, fabric.global_rank, ranks)
        loss = toy.next_token_loss(model(tokens[:, :-1]), tokens)
        fabric.backward(loss)
        optimizer.step()
        toy.record(args.record, step, loss.item(), optimizer, fabric.global_rank)
        scheduler.step()
        optimizer.zero_grad()
        if step + 1 == args.middle and not args.resume:
            fabric.save(args.folder / "checkpoint.ckpt", state)


if __name__ == "__main__":
    main()
