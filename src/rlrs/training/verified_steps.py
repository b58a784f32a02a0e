"""Some steps of a run of the reference trainer, watched by `rlrs.verify`."""

from __future__ import annotations

import contextlib

import torch

from rlrs.data import TokenData
from rlrs.training.distributed import World
from rlrs.training.loop import Loop
from rlrs.training.spec import RunSpec
from rlrs.training.stopping import StopFlag
from rlrs.verify import Report, verify


def verified(spec: RunSpec, data: TokenData, steps: int) -> Report:
    """Take a run's first steps in this process, and verify their rates; nothing is written.

    Args:
        spec: the run.
        data: its tokens.
        steps: of every optimizer to look at; those of the run if it has fewer.

    Raises:
        ConfigError: a model that cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        loop = Loop(spec, data, None, World(), validate=False, prune=None, stop=StopFlag())
        with (
            contextlib.closing(loop),
            verify(loop.state.model, loop.state.optimizers, scheduler=loop.state.scheduler, steps=steps) as check,
        ):
            for _ in range(min(steps, spec.steps)):
                loop._train_step(log=False)
    return check.report
