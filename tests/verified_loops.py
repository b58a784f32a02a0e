"""Small training loops for the tests of `rlrs.verify`: sound ones, and ones with faults as people write them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout, scaled_dot_product_attention, silu

import rlrs

WIDTH, VOCAB = 8, 11
DEFAULT = {"embedding": 5.0, "attention": 0.5}
ALL = {"embedding", "attention", "feed_forward", "norm", "unembedding"}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_norm = nn.LayerNorm(WIDTH)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x_BTD):
        h = self.input_norm(x_BTD)
        mixed = scaled_dot_product_attention(self.q_proj(h), self.k_proj(h), self.v_proj(h), is_causal=True)
        x_BTD = x_BTD + dropout(self.o_proj(mixed), 0.1, self.training)  # takes random numbers
        return x_BTD + self.down_proj(silu(self.up_proj(x_BTD)))


class Decoder(nn.Module):
    def __init__(self, *, tied=False):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([Block()])
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens_BT):
        x_BTD = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return self.lm_head(x_BTD)


def loss_of(model, scale=1.0):
    tokens_BT = torch.randint(VOCAB, (2, 6))
    logits = model(tokens_BT[:, :-1])
    return scale * cross_entropy(logits.flatten(0, 1).float(), tokens_BT[:, 1:].flatten())


@dataclass
class Loop:
    """A model with what trains it; `step(i)` is one turn of the user's loop."""

    model: nn.Module
    optimizers: Any
    step: Callable[[int], None]
    scheduler: Any = None
    told: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `rlrs.verify`."""
    keeps: Any = None
    """Whatever else the loop holds: a scaler, a second model."""
    turns: int = 4


def train(loop, *, verified):
    """Run a loop to its end; the report, or None."""
    if not verified:
        for i in range(loop.turns):
            loop.step(i)
        return None
    with rlrs.verify(loop.model, loop.optimizers, scheduler=loop.scheduler, **loop.told) as check:
        for i in range(loop.turns):
            loop.step(i)
    return check.report


def observe(make):
    """The report on a loop, and whether it ended bit for bit as without `verify`."""
    ends, report, threads = [], None, torch.get_num_threads()
    torch.set_num_threads(1)
    for verified in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        loop = make()
        report = train(loop, verified=verified)
        ends.append(copy.deepcopy(state(loop)))
    torch.set_num_threads(threads)
    return report, same(*ends)


def state(loop):
    """All that a loop's future depends on."""
    several = loop.optimizers if isinstance(loop.optimizers, list) else [loop.optimizers]
    schedulers = loop.scheduler if isinstance(loop.scheduler, list) else [loop.scheduler]
    return {
        "model": loop.model.state_dict(),
        "gradients": [p.grad for p in loop.model.parameters()],
        "optimizers": [o.state_dict() for o in several],
        "attributes": [
            {k: v for k, v in vars(o).items() if isinstance(v, int | float | torch.Tensor)} for o in several
        ],
        "schedulers": [s.state_dict() for s in schedulers if s is not None],
        "keeps": loop.keeps.state_dict() if loop.keeps is not None else None,
        "random": (torch.get_rng_state(), random.getstate(), list(np.random.get_state()[1])),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return callable(a) or a == b


def groups(model, lr=1e-2, ratios=None, **options):
    return rlrs.param_groups(model, DEFAULT if ratios is None else ratios, lr=lr, **options)


def plain(model, optimizer, *, scheduler=None, before=None, after=None, loss=loss_of, **kept):
    """The ordinary loop; `before` runs between backward and step, `after` at the end of a turn."""

    def step(i):
        optimizer.zero_grad()
        loss(model).backward()
        if before:
            before(i)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if after:
            after(i)

    return Loop(model, optimizer, step, scheduler, **kept)


class Muon(torch.optim.Optimizer):
    """As people copy it: momentum, Newton-Schulz, a rate, decoupled decay; AdamW for what is no matrix is elsewhere."""

    rate_of = staticmethod(lambda optimizer, group: group["lr"])

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.calls += 1
        for group in self.param_groups:
            lr = self.rate_of(self, group)
            for p in group["params"]:
                if p.grad is None:
                    continue
                buf = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                x = buf / (buf.norm() + 1e-7)
                if x.ndim == 2:
                    for _ in range(3):
                        x = 1.5 * x - 0.5 * x @ x.T @ x
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(x, alpha=-lr)
