"""A run small enough to train many times."""

import numpy as np

from rlrs.data import TokenData
from rlrs.settings import ModelConfig, TrainingConfig
from rlrs.training import RunSpec

CLOCK = {"seconds", "tokens_per_second", "flops_per_second"}
"""What two lines of metrics.jsonl of the same run may differ in."""


def make_data():
    """Tokens that are easy to predict: each is the one before plus 1 or 2, of 64."""
    generator = np.random.default_rng(0)
    train, valid = ((generator.integers(1, 3, size).cumsum() % 64).astype(np.uint16) for size in (4_000, 700))
    return TokenData(train=train, valid=valid, sequence_length=8, vocab_size=64, hash="d" * 12)


def make_spec(**changes):
    """A run; with fields of RunSpec, ModelConfig or TrainingConfig to change."""
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 16, "n_experts": 2}
    training = {"eval_tokens": 64, "evaluations": 3, "log_every": 5, "checkpoint_every": 6, "score_steps": 4}
    run = {"steps": 20, "batch_size": 4, "seed": 0, "lr": 1e-2, "final_fraction": 0.1}
    ratios = {"embedding": [(0.0, 5.0), (1.0, 0.5)], "router": [(0.0, 0.5), (1.0, 1.0)]}
    for name, value in changes.items():
        fields = next((d for c, d in ((ModelConfig, model), (TrainingConfig, training)) if name in c.model_fields), run)
        (run if name in run else fields)[name] = value
    return RunSpec(
        model=ModelConfig(**model),
        training=TrainingConfig(**training),
        **{"ratios": ratios, "data_hash": "d" * 12} | run,
    )
