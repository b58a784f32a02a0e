"""Planted structure: tensors whose gradients are scaled or noisier, in a real run of the reference trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlrs.components import canonical_name, partition
from rlrs.data import TokenData
from rlrs.discovery import RunStatistics, StatisticsProbe
from rlrs.settings import ModelConfig, TrainingConfig
from rlrs.training import RunSpec, StopFlag, World
from rlrs.training.loop import Loop

MATRICES = ("attention", "feed_forward", "experts")


class Planted:
    """Changes gradients before every step: of every third hidden matrix nothing, a factor, or added noise.

    Which is which is drawn from the seed, layer and kind do not tell.

    Args:
        model: that is trained.
        optimizers: of the run.
        scale: factor of the scaled ones' gradients.
        noise: standard deviation of what is added to the noisier ones', over the gradient's root mean square.
        seed: of which tensors, and of the noise.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], *, scale: float, noise: float, seed: int
    ) -> None:
        owner = partition(model).component_of()
        named = {n: w for n, w in model.named_parameters() if owner[n] in MATRICES and w.ndim > 1}
        self.generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(named), generator=self.generator).tolist()
        kinds = ("plain", "scaled", "noisier")
        self.truth = {canonical_name(name): kinds[order[i] % 3] for i, name in enumerate(named)}
        self.weights = [(weight, self.truth[canonical_name(name)]) for name, weight in named.items()]
        self.scale, self.noise = scale, noise
        optimizers[0].register_step_pre_hook(self._change)

    @torch.no_grad()
    def _change(self, *call: Any) -> None:
        for weight, kind in self.weights:
            gradient = weight.grad
            if gradient is None or kind == "plain":
                continue
            gradient.copy_(gradient * self.scale if kind == "scaled" else self._noisy(gradient))

    def _noisy(self, gradient: Tensor) -> Tensor:
        drawn = torch.randn(gradient.shape, generator=self.generator)
        return gradient + self.noise * gradient.square().mean().sqrt() * drawn


def probed(
    model: ModelConfig,
    data: TokenData,
    *,
    steps: int,
    seed: int,
    scale: float = 1.0,
    noise: float = 0.0,
    every: int = 5,
    optimizer: str = "adamw",
) -> tuple[RunStatistics, dict[str, str]]:
    """Train a run with planted structure; its statistics, and tensor -> what was planted."""
    torch.set_num_threads(1)
    spec = RunSpec(
        model=model,
        training=TrainingConfig.model_validate({"dtype": "float32", "optimizer": optimizer}),
        steps=steps,
        batch_size=8,
        seed=seed,
        lr=8e-3,
        final_fraction=0.1,
        ratios={},
        data_hash=data.hash,
    )
    with torch.random.fork_rng(devices=[]):
        loop = Loop(spec, data, None, World(), validate=False, prune=None, stop=StopFlag())
        planted = Planted(loop.state.model, loop.state.optimizers, scale=scale, noise=noise, seed=seed)
        with StatisticsProbe(loop.state.model, loop.state.optimizers, every=every) as probe:
            loop.train(None)
        return probe.statistics(), planted.truth
