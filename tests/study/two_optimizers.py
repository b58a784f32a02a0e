"""A trainer of the user's own with two optimizers: Muon for the matrices of its layers, AdamW for the rest."""

import torch
from torch import nn

import rlrs


def make(width=8):
    """A table, two layers, a head."""
    return nn.Sequential(
        nn.Embedding(32, width),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 16, 0.0), 2, enable_nested_tensor=False),
        nn.Linear(width, 32),
    )


def is_matrix(group, weight):
    """What goes to Muon."""
    return group["component"] in ("attention", "feed_forward") and weight.ndim == 2


def train(run: rlrs.Run, *, muon_lr=None, stateless=False):
    """One run; `muon_lr` in the place of the run's, and rates set by hand in the place of a scheduler."""
    torch.manual_seed(run.seed)
    model = make(run.args["width"])
    rate = run.muon_lr if muon_lr is None else muon_lr(run)
    hidden, rest = rlrs.split_groups(run.param_groups(model), is_matrix, lr=rate)
    muon, adamw = torch.optim.Muon(hidden), torch.optim.AdamW(rest, betas=run.betas)
    if stateless:
        run.watch(adamw, muon=muon)
    else:
        scheduler = run.scheduler([muon, adamw])
    for step in range(1, run.steps + 1):
        if stateless:
            base = run.asked.base_schedule()
            for optimizer, peak in ((muon, rate), (adamw, run.lr)):
                for group in optimizer.param_groups:
                    ratio = run.ratios.get(group["component"], rlrs.Ratio.of(1))
                    group["lr"] = peak * rlrs.relative_factor(base, ratio.knots, step - 1)
        tokens = torch.randint(32, (4, 8))
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), (5 * tokens % 32).flatten())
        loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
        if not stateless:
            scheduler.step()
        if run.report(step, train_loss=loss):
            return
    run.finish(valid_loss=loss.item())


def deaf(run: rlrs.Run):
    """A run that takes one base rate for both."""
    train(run, muon_lr=lambda run: run.lr)


def half(run: rlrs.Run):
    """A run whose Muon has half of the rate that it should have."""
    train(run, muon_lr=lambda run: run.muon_lr / 2)
