"""What learning the ratios costs a step: `LearnedLR` against `RelativeLR`, on the reference trainer.

    python -m benchmarks.learned_step

One thread. Blocks of ten steps of two runs of one spec take turns; a ratio is of the two blocks' times. Nothing is
written by either.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks.pairs import paired, summary, write
from rlrs.data import TokenData
from rlrs.records import Learning
from rlrs.settings import ModelConfig, TrainingConfig
from rlrs.training import RunSpec, StopFlag, World
from rlrs.training.loop import Loop

BLOCK, ROUNDS = 10, 25
MODELS = {
    "dense, d=32, 2 blocks": (ModelConfig(d_model=32, n_layers=2, n_heads=2), 64),
    "dense, d=64, 4 blocks": (ModelConfig(d_model=64, n_layers=4, n_heads=4), 128),
    "experts, d=64, 4 blocks": (ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8), 128),
    "dense, d=256, 4 blocks": (ModelConfig(d_model=256, n_layers=4, n_heads=4), 128),
}
"""Model and sequence length; 8 sequences a step."""


def start(model: ModelConfig, length: int, optimizer: str, *, learns: bool) -> Loop:
    """A run that has taken no step yet."""
    tokens = np.random.default_rng(0).integers(1024, size=200_000).astype(np.uint16)
    data = TokenData(train=tokens, valid=tokens, sequence_length=length, vocab_size=1024, hash="d" * 12)
    spec = RunSpec(
        model=model,
        training=TrainingConfig.model_validate({"optimizer": optimizer}),
        steps=100_000,
        batch_size=8,
        seed=0,
        lr=1e-3,
        final_fraction=0.1,
        ratios={"embedding": [(0.0, 5.0), (1.0, 0.5)]},
        data_hash="d" * 12,
    )
    if learns:
        names = [
            "embedding",
            "attention",
            "unembedding",
            *(["experts", "router"] if model.n_experts else ["feed_forward"]),
        ]
        spec = replace(spec, learn=Learning(knots=dict.fromkeys(names, (0.0, 1.0))))
        spec = replace(spec, training=spec.training.model_copy(update={"warmup_fraction": 0.0}))
    return Loop(spec, data, None, World(), validate=False, prune=None, stop=StopFlag())


def block(run: Loop) -> None:
    """Ten steps."""
    for _ in range(BLOCK):
        run._train_step(log=False)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (model, length) in MODELS.items():
        for optimizer in ("adamw", "muon"):
            on, off = (start(model, length, optimizer, learns=learns) for learns in (True, False))
            block(on), block(off)
            ratios = paired(lambda on=on: block(on), lambda off=off: block(off), ROUNDS)
            row = {"what": f"{name}, {optimizer}", **summary(ratios)}
            print(row, flush=True)
            rows.append({**row, "ratios": ratios})
    print(write("learned_step", rows))


if __name__ == "__main__":
    main()
