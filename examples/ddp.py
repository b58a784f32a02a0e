"""Plain DistributedDataParallel: torchrun --nproc-per-node 2 examples/ddp.py"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import toy
from torch.nn.parallel import DistributedDataParallel

import rlrs  # +


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    model = DistributedDataParallel(toy.Toy())
    ratios = rlrs.Ratios.preset("paper-dense")  # +
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))  # +
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=args.steps, warmup_steps=args.steps // 10)  # +

    first = 0
    checkpoint = args.folder / "checkpoint.pt"
    parts = {"model": model.module, "optimizer": optimizer, "scheduler": scheduler}
    if args.resume:
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first = scheduler.last_epoch
    for step in range(first, args.steps):
        tokens = toy.batch(step, rank, ranks)
        loss = toy.next_token_loss(model(tokens[:, :-1]), tokens)
        loss.backward()
        optimizer.step()
        toy.record(args.record, step, loss.item(), optimizer, rank)
        scheduler.step()
        optimizer.zero_grad()
        if step + 1 == args.middle and rank == 0:
            torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
    dist.barrier()


if __name__ == "__main__":
    main()
    dist.destroy_process_group()  # after the model is gone: gloo can hang if DDP is the last to hold the group
