"""The reference trainer's model, data and steps in a plain script: `python reference_script.py DATA`.

As a function for `trainer: {call: ...}` the folder of the data is `args["data"]`.
"""

import sys

import torch

import rlrs
from rlrs.data import TokenData
from rlrs.models import build_model
from rlrs.settings import ModelConfig
from rlrs.training import evaluate


def make(width, data=""):
    return build_model(ModelConfig(d_model=width, n_layers=1, n_heads=2), 257)


def train(run, folder=None):
    torch.set_num_threads(1)
    data = TokenData.load(folder or run.args["data"])
    torch.manual_seed(run.seed)
    model = make(run.args["width"])
    optimizer = torch.optim.AdamW(run.param_groups(model), betas=run.betas, eps=1e-8, fused=True)
    scheduler = run.scheduler(optimizer)
    for step in range(run.steps):
        optimizer.zero_grad()
        output = model(*data.batch(run.seed, step, 4))
        output.objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if run.report(step + 1, train_loss=output.loss.item()):
            return
    run.finish(valid_loss=evaluate(model, data.valid_batches(4, 256)))


if __name__ == "__main__":
    train(rlrs.current_run(), sys.argv[1])
