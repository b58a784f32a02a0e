"""FSDP2 with torch's distributed checkpoints, which may be resumed on another number of ranks.

torchrun --nproc-per-node 2 examples/fsdp2.py
torchrun --nproc-per-node 1 examples/fsdp2.py --resume
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import toy
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import rlrs  # +


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    model = toy.Toy()
    mesh = init_device_mesh("cpu", (ranks,))
    fully_shard(model.block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # before the groups are made: it replaces the parameters
    ratios = rlrs.Ratios.preset("paper-dense")  # +
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))  # +
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=args.steps, warmup_steps=args.steps // 10)  # +

    first = 0
    if args.resume:
        weights, moments = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": moments, "scheduler": scheduler}, checkpoint_id=args.folder)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        first = scheduler.last_epoch
    for step in range(first, args.steps):
        tokens = toy.batch(step, rank, ranks)
        loss = toy.next_token_loss(model(tokens[:, :-1]), tokens)
        loss.backward()
        optimizer.step()
        toy.record(args.record, step, loss.item(), optimizer, rank)
        scheduler.step()
        optimizer.zero_grad()
        if step + 1 == args.middle and not args.resume:
            weights, moments = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": moments, "scheduler": scheduler}, checkpoint_id=args.folder)
    dist.barrier()


if __name__ == "__main__":
    main()
    dist.destroy_process_group()
