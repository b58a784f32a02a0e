"""Two optimizers, one schedule: Muon for the hidden matrices, AdamW for the rest; rates, ratios and base in a table.

python examples/muon_and_adamw.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import toy

import rlrs
from rlrs.integrations.loggers import CSV, rates
from rlrs.param_groups import split_groups


def is_hidden_matrix(group: Mapping[str, Any], parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim == 2 and group["component"] in ("attention", "feed_forward")


def main(argv: Sequence[str] | None = None) -> None:
    args = toy.arguments(argv)
    torch.manual_seed(0)
    model = toy.Toy()
    ratios = rlrs.Ratios.preset("paper-dense")
    groups = rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1)
    matrices, rest = split_groups(groups, is_hidden_matrix, lr=0.02)  # Muon's base rate is another
    muon, adamw = torch.optim.Muon(matrices), torch.optim.AdamW(rest)
    scheduler = rlrs.RelativeLR([muon, adamw], ratios, total_steps=args.steps, warmup_steps=args.steps // 10)
    parts = {"model": model, "muon": muon, "adamw": adamw, "scheduler": scheduler}
    checkpoint, log = args.folder / "muon_and_adamw.pt", CSV(args.folder / "rates.csv")

    if args.resume:
        saved = torch.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for step in range(scheduler.last_epoch, args.steps):
        tokens = toy.batch(step)
        loss = toy.next_token_loss(model(tokens[:, :-1]), tokens)
        model.zero_grad()
        loss.backward()
        log.log({"loss": loss.item(), **rates(scheduler)}, step)
        muon.step()
        adamw.step()
        scheduler.step()
        if step + 1 == args.middle and not args.resume:
            torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
        if step + 1 == args.steps:
            print(f"loss {loss.item():.3f} nats per token; the rates of every step are in {log.path}")


if __name__ == "__main__":
    main()
