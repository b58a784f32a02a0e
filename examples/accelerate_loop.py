"""A training loop of one's own under Accelerate, with gradient accumulation.

accelerate launch --num-processes 2 examples/accelerate_loop.py
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import toy
from accelerate import Accelerator
from torch.utils.data import DataLoader

import rlrs.integrations.accelerate  # +


def main(argv: Sequence[str] | None = None) -> Accelerator:
    args = toy.arguments(argv)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    model = toy.Toy()
    loader = DataLoader(toy.sequences(args.steps * 2 * toy.BATCH), batch_size=toy.BATCH // accelerator.num_processes)
    ratios = rlrs.Ratios.preset("paper-dense")  # +
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))  # +
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    scheduler = rlrs.integrations.accelerate.prepare_scheduler(  # +
        accelerator, optimizer, ratios, total_steps=args.steps, warmup_steps=args.steps // 10
    )

    step, batches = 0, loader
    if args.resume:
        accelerator.load_state(str(args.folder))
        step = scheduler.scheduler.last_epoch
        batches = accelerator.skip_first_batches(loader, 2 * step)
    for tokens in batches:
        with accelerator.accumulate(model):
            loss = toy.next_token_loss(model(tokens[:, :-1]), tokens)
            accelerator.backward(loss)
            optimizer.step()
            if accelerator.sync_gradients:
                toy.record(args.record, step, loss.item(), optimizer, accelerator.process_index)
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            step += 1
            if step == args.middle and not args.resume:
                accelerator.save_state(str(args.folder))
    accelerator.wait_for_everyone()
    return accelerator


if __name__ == "__main__":
    main().end_training()  # after the model is gone: gloo can hang if DDP is the last to hold the process group
