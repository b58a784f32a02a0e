"""torchtitan's Llama, optimizers and schedulers in the order of its `Trainer.train_step`, on one process and on CPU.

torchtitan's own Trainer wants an accelerator; the loop below does what it does. The attention kernel is torch's.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torchtitan.components.optimizer import default_adamw
from torchtitan.models.llama3 import model_registry

import rlrs
from rlrs.integrations.torchtitan import RelativeLRSchedulers

parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--lr", type=float, default=8e-4)
parser.add_argument("--seed", type=int, default=0)

LENGTH = 32


class CausalAttention(nn.Module):
    """Scaled dot products, for a machine without a kernel for FlexAttention."""

    def forward(self, q_BTHD, k_BTHD, v_BTHD, **_):
        """Attend to what came before."""
        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def make(layers=2, **others):
    """The debug model with so many layers; its weights are set by `init_states`."""
    config = model_registry("debugmodel").model
    config.layers = config.layers[:layers]
    model = config.build()
    for block in model.layers.values():
        block.attention.inner_attention = CausalAttention()
    return model


def text(*modules):
    """The source of some modules of the standard library, as bytes."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    data = b"".join((folder / f"{name}.py").read_bytes() for name in modules)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def loss_of(model, data, generator, args):
    """Mean loss of a random batch, nats per token."""
    starts = torch.randint(len(data) - LENGTH - 1, (args.batch_size,), generator=generator).tolist()
    rows_BT = torch.stack([data[at : at + LENGTH + 1] for at in starts])
    logits_BTV = model(rows_BT[:, :-1])
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), rows_BT[:, 1:].flatten())


def main(arguments=None):
    """Train."""
    args = parser.parse_args(arguments)
    run = rlrs.current_run(alone=rlrs.Run(steps=args.steps, lr=args.lr, seed=args.seed, warmup_steps=args.steps // 20))
    torch.manual_seed(args.seed)
    model = make(args.layers)
    model.init_states()
    adamw = default_adamw(lr=run.lr, betas=run.betas, weight_decay=run.weight_decay)
    adamw.implementation = "for-loop"
    optimizers = adamw.build(model_parts=[model])
    lr_schedulers = RelativeLRSchedulers(optimizers, run.ratios, run.asked.base_schedule())
    run.watch(*optimizers, model=model)
    data, generator = text("argparse", "ast", "datetime", "inspect"), torch.Generator().manual_seed(args.seed)
    for step in range(1, args.steps + 1):
        optimizers.zero_grad()
        loss = loss_of(model, data, generator, args)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        lr_schedulers.step()
        print(f"step {step}: loss {loss.item():.4f}", flush=True)
        if run.report(step, train_loss=loss):
            return
    with torch.no_grad():
        valid_loss = loss_of(model, text("typing"), torch.Generator().manual_seed(1), args).item()
    run.finish(valid_loss=valid_loss)


if __name__ == "__main__":
    main()
