"""What a run's records cost its steps: metrics with TensorBoard, and checkpoints, against a run that writes nothing.

    python -m benchmarks.metrics_overhead

One thread. Blocks of ten steps of two runs of one spec take turns; a ratio is of the two blocks' times. Everything is
on: metrics.jsonl with every component's norms, the routers' statistics, TensorBoard. No validation: that is not a
record, and `training.evaluations` sets it.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import paired, summary, write
from rlrs.data import TokenData
from rlrs.settings import ModelConfig, TrainingConfig
from rlrs.training import RunSpec, StopFlag, World
from rlrs.training.loop import Loop

BLOCK = 10
ROUNDS = 25
MODEL = ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8)
"""A mixture of experts: its lines hold most."""


def start(folder: Path | None, log_every: int) -> Loop:
    """A run that has taken no step yet, of 8 x 128 tokens a step."""
    tokens = np.random.default_rng(0).integers(1024, size=200_000).astype(np.uint16)
    data = TokenData(train=tokens, valid=tokens, sequence_length=128, vocab_size=1024, hash="d" * 12)
    spec = RunSpec(
        model=MODEL,
        training=TrainingConfig(log_every=log_every, tensorboard=True),
        steps=100_000,
        batch_size=8,
        seed=0,
        lr=1e-3,
        final_fraction=0.1,
        ratios={"embedding": [(0.0, 5.0), (1.0, 0.5)]},
        data_hash="d" * 12,
    )
    if folder is not None:
        folder.mkdir(parents=True)
    return Loop(spec, data, folder, World(), validate=False, prune=None, stop=StopFlag())


def block(run: Loop) -> None:
    """Ten steps as `Loop.train` takes them, with their lines."""
    for _ in range(BLOCK):
        run._train_step(log=run.metrics is not None and run.is_logged(run.step + 1))


def metrics(place: Path) -> Iterator[dict[str, Any]]:
    """Time of steps with all metrics over that without files."""
    for log_every in (TrainingConfig().log_every, 1):
        on, off = start(place / f"lines-{log_every}", log_every), start(None, log_every)
        ratios = paired(lambda on=on: block(on), lambda off=off: block(off), ROUNDS)
        on.close()
        yield {"what": f"metrics, log_every {log_every}", **summary(ratios), "ratios": ratios}


def checkpoints(place: Path) -> dict[str, Any]:
    """What one checkpoint costs the training, in steps: the copy of the state, and the writing beside the steps."""
    on, off = start(place / "saves", 10), start(None, 10)
    copies: list[float] = []

    def saving() -> None:
        then = time.perf_counter()
        on.save()  # the one before is written by now
        copies.append(time.perf_counter() - then)
        for _ in range(BLOCK):
            on._train_step(log=False)

    ratios = paired(saving, lambda: block(off), ROUNDS)
    on.finish()
    on.close()
    middle = summary(ratios)
    steps = BLOCK * (middle["median"] - 1)
    every = TrainingConfig().checkpoint_every
    return {
        "what": f"a checkpoint every {BLOCK} steps",
        **middle,
        "steps_per_checkpoint": steps,
        "at_checkpoint_every": {"steps": every, "ratio": 1 + steps / every},
        "seconds_of_copy": statistics.median(copies),
        "ratios": ratios,
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for row in itertools.chain(metrics(Path(place)), map(checkpoints, [Path(place)])):
            print({key: value for key, value in row.items() if key != "ratios"}, flush=True)
            rows.append(row)
    print(write("metrics_overhead", rows))


if __name__ == "__main__":
    main()
