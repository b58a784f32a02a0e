"""A small model in a plain loop, for the tests of the monitor."""

import torch
from torch import nn

import rlrs

RATIOS = {"embedding": 4.0}
COMPONENTS = {"embedding", "feed_forward", "unembedding"}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(16, 8)
        self.up_proj = nn.Linear(8, 16, bias=False)
        self.down_proj = nn.Linear(16, 8, bias=False)
        self.lm_head = nn.Linear(8, 16, bias=False)

    def forward(self, tokens_BT):
        x = self.embed_tokens(tokens_BT)
        return self.lm_head(x + self.down_proj(self.up_proj(x).relu()))


RULES = [rlrs.Rule("feed_forward", r"_proj\.weight$")]


def make(*, total_steps=60, lr=1e-2):
    torch.manual_seed(0)
    model = Small()
    parts = rlrs.partition(model, RULES)
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, RATIOS, lr=lr, weight_decay=0.1, parts=parts))
    scheduler = rlrs.RelativeLR(optimizer, RATIOS, total_steps=total_steps, final_fraction=0.1)
    return model, optimizer, scheduler


def loss_of(model, step, rank=0):
    generator = torch.Generator().manual_seed(100 * step + rank)
    tokens_BT = torch.randint(16, (4, 9), generator=generator)
    return nn.functional.cross_entropy(model(tokens_BT).flatten(0, 1), (3 * tokens_BT % 16).flatten())


def one_step(model, optimizer, scheduler, step, *, clip=None, scale=1.0):
    """Loss, and gradient norm before clipping."""
    loss = scale * loss_of(model, step)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip) if clip else None
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return loss, norm
