"""A small GPT on the source text of Python's own standard library, bytes as tokens."""

import argparse
import math
import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--heads", type=int, default=2)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--length", type=int, default=32)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--log-every", type=int, default=5)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD):
        """Attend."""
        B, T, D = x_BTD.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.c_attn(x_BTD).split(D, dim=2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Feed-forward layers."""

    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD):
        """Both layers."""
        return self.c_proj(nn.functional.gelu(self.c_fc(x_BTD)))


class Block(nn.Module):
    """One block of the Transformer."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x_BTD):
        """Attention, then feed-forward, each added to what there is."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD))
        return x_BTD + self.mlp(self.ln_2(x_BTD))


class GPT(nn.Module):
    """A decoder-only Transformer over 256 bytes."""

    def __init__(self, width=32, layers=2, heads=2, length=32):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, width), nn.Embedding(length, width)
        self.h = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 256, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                std = 0.02 / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(weight, std=std)

    def forward(self, tokens_BT, targets_BT):
        """Mean loss, nats per token."""
        x_BTD = self.wte(tokens_BT) + self.wpe(torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
        for block in self.h:
            x_BTD = block(x_BTD)
        logits_BTV = self.lm_head(self.ln_f(x_BTD))
        return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def text():
    """Bytes of some modules of the standard library: for training, and for validation."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    data = np.concatenate([np.frombuffer((folder / f"{name}.py").read_bytes(), np.uint8) for name in MODULES])
    return data[: -len(data) // 10], data[-len(data) // 10 :]


MODULES = ("argparse", "ast", "datetime", "decimal", "doctest", "inspect", "subprocess", "tarfile", "typing")


def batch(data, generator, args):
    """Random sequences of the text, and the same shifted by one."""
    starts = torch.randint(len(data) - args.length - 1, (args.batch_size,), generator=generator).tolist()
    rows = torch.stack([torch.from_numpy(data[at : at + args.length + 1].astype(np.int64)) for at in starts])
    return rows[:, :-1], rows[:, 1:]


def get_lr(step, args):
    """Warm-up, then a cosine to a tenth."""
    warmup = args.steps // 20
    if step < warmup:
        return args.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, args.steps - warmup)
    return args.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def estimate_loss(model, data, args):
    """Loss on a fixed sample."""
    generator = torch.Generator().manual_seed(1)
    return sum(model(*batch(data, generator, args)).item() for _ in range(4)) / 4


def main(arguments=None):
    """Train."""
    args = parser.parse_args(arguments)
    torch.manual_seed(args.seed)
    train_data, valid_data = text()
    model = GPT(args.width, args.layers, args.heads, args.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(args.seed)
    losses = []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step, args)
        loss = model(*batch(train_data, generator, args))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % args.log_every == 0:
            mean = sum(losses[-args.log_every :]) / args.log_every
            print(f"step {step + 1}: train loss {mean:.4f}", flush=True)
    print(f"val loss {estimate_loss(model, valid_data, args):.4f}")


if __name__ == "__main__":
    main()
