"""Models and data of the phases, in the size of a GPU and in the small for a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.speed.shapes import Shape
from rlrs.data import TokenData
from rlrs.settings import ModelConfig, TrainingConfig
from rlrs.training import RunSpec

RATIOS = {"embedding": [(0.0, 5.0), (1.0, 0.6)]}


def on(device: str) -> torch.device:
    """The device of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


def wait(device: str) -> None:
    """Return when the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def shape(kind: str, device: str) -> Shape:
    """A model and its batch.

    Args:
        kind: `dense 124M` (GPT-2's size), `moe 8x34M` (the paper's proxy: width 512, 8 blocks), `right` and `right moe`
            (of the checks of numbers), `proxy` (width 256).
        device: `cpu` takes the same in the small.
    """
    small = device == "cpu"

    def model(d: int, layers: int, heads: int, experts: int = 0, **more: Any) -> ModelConfig:
        d, layers, heads = (32, 2, 2) if small else (d, layers, heads)
        return ModelConfig(d_model=d, n_layers=layers, n_heads=heads, n_experts=experts, **more)

    def of(config: ModelConfig, batch: int, length: int, vocabulary: int) -> Shape:
        batch, length, vocabulary = (4, 32, 256) if small else (batch, length, vocabulary)
        return Shape(model=config, batch_size=batch, length=length, vocabulary=vocabulary)

    match kind:
        case "dense 124M":
            return of(model(768, 12, 12), 32, 1024, 50_304)
        case "moe 8x34M":
            return of(model(512, 8, 8, 8), 64, 512, 50_304)
        case "right":
            return of(model(256, 4, 4), 16, 128, 1_024)
        case "right moe":
            return of(model(256, 4, 4, 8), 16, 128, 1_024)
        case "right dropless":
            return of(model(256, 4, 4, 8, capacity_factor=None), 16, 128, 1_024)
        case "proxy":
            return of(model(256, 4, 4), 16, 128, 1_024)
    raise ValueError(kind)


def random_data(of: Shape, tokens: int = 2_000_000) -> TokenData:
    """Tokens that can be learnt: each is the one before plus 1 or 2."""
    draws = np.random.default_rng(0).integers(1, 3, tokens)
    text = (draws.cumsum() % of.vocabulary).astype(np.uint16)
    valid = text[: max(of.length * of.batch_size * 2, 1_000) + 1]
    name = f"{of.vocabulary:06d}{of.length:06d}"
    return TokenData(train=text, valid=valid, sequence_length=of.length, vocab_size=of.vocabulary, hash=name)


def spec(of: Shape, data: TokenData, steps: int, *, lr: float = 3e-3, **training: Any) -> RunSpec:
    """A run of a shape."""
    settings = {"log_every": 1, "checkpoint_every": 10**6, "eval_tokens": of.batch_size * of.length, "evaluations": 1}
    return RunSpec(
        model=of.model,
        training=TrainingConfig(**{**settings, **training}),
        steps=steps,
        batch_size=of.batch_size,
        seed=0,
        lr=lr,
        final_fraction=0.1,
        ratios=RATIOS,
        data_hash=data.hash,
    )
