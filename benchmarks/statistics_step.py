"""What measuring a run's tensors costs a step: `StatisticsProbe` on the reference trainer, against nothing.

    python -m benchmarks.statistics_step

As `benchmarks.learned_step`: one thread, processor time, blocks of ten steps of two runs of one spec take turns, which
is one observation each.
"""

from __future__ import annotations

import time

import torch

from benchmarks.learned_step import MODELS, OPTIMIZERS, start
from benchmarks.pairs import paired, summary, write
from rlrs.discovery import StatisticsProbe
from rlrs.training.loop import Loop

BLOCK, ROUNDS = 10, 9


def block(run: Loop) -> None:
    """Some steps."""
    for _ in range(BLOCK):
        run._train_step(log=False)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (model, length) in MODELS.items():
        for optimizer in OPTIMIZERS:
            on, off = (start(model, length, optimizer, learns=False) for _ in range(2))
            StatisticsProbe(on.state.model, on.state.optimizers, every=BLOCK)
            block(on), block(off)
            ratios = paired(lambda on=on: block(on), lambda off=off: block(off), ROUNDS, time.process_time)
            row = {"what": f"{name}, {optimizer}", **summary(ratios)}
            print(row, flush=True)
            rows.append({**row, "ratios": ratios})
    print(write("statistics_step", rows))


if __name__ == "__main__":
    main()
