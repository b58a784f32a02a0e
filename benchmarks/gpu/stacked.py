"""Several trials as one program: the same weights at the start, the same batches, other rates.

Shape suffixes: S trials; other dimensions follow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.gpu.gpu_shapes import on, random_data, shape, wait
from benchmarks.gpu.nano import NanoModel
from benchmarks.speed.shapes import BETAS, CLIP, WEIGHT_DECAY

WARM_UP = 5
SECONDS = {"cuda": 5.0, "cpu": 0.3}
"""Of steps that are timed, for each number of trials."""


class StackedTrials:
    """Models whose weights are one tensor per name, [S, ...], with AdamW and clipping of each by itself.

    Args:
        models: of one class and size, one per trial.
        lr_S: rate of every trial.
    """

    def __init__(self, models: list[NanoModel], lr_S: Tensor) -> None:
        self.model = models[0]
        weights, self.buffers = stack_module_state(models)  # pyright: ignore[reportArgumentType]
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        self.lr_S, self.step = lr_S, 0
        self.moments = [{name: torch.zeros_like(w) for name, w in self.weights.items()} for _ in range(2)]

    def gradients(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients [S, ...] by name, and losses [S]."""

        def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return functional_call(self.model, (weights, buffers), (inputs_BT, targets_BT))

        return vmap(grad_and_value(loss), randomness="different")(self.weights, self.buffers)

    def update(self, gradients: dict[str, Tensor]) -> None:
        """One step of AdamW after clipping, each trial by its own norm and rate."""
        self.step += 1
        squares_S = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
        scale_S = (CLIP / (squares_S.sqrt() + 1e-6)).clamp(max=1.0)
        first, second = self.moments
        correction = math.sqrt(1 - BETAS[1] ** self.step) / (1 - BETAS[0] ** self.step)
        for name, weight in self.weights.items():
            ones = (-1, *[1] * (weight.ndim - 1))
            gradient, rate = gradients[name] * scale_S.view(ones), self.lr_S.view(ones)
            first[name].lerp_(gradient, 1 - BETAS[0])
            second[name].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            weight.mul_(1 - rate * WEIGHT_DECAY)
            weight.sub_(rate * correction * first[name] / (second[name].sqrt() + 1e-8))


def stepper(trials: int, device: str, *, compile: bool) -> Callable[[int], Tensor]:
    """Something that takes a step of all trials, from the same weights, and gives their losses [S]."""
    of = shape("proxy", device)
    data = random_data(of)

    def model() -> NanoModel:
        torch.manual_seed(0)
        return NanoModel(of).to(on(device))

    lr_S = torch.logspace(-3.5, -2.5, trials, device=on(device))
    stack = StackedTrials([model() for _ in range(trials)], lr_S)

    def gradients(inputs_BT: Tensor, targets_BT: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return stack.gradients(inputs_BT, targets_BT)

    if compile:
        gradients = torch.compile(gradients)

    def step(number: int) -> Tensor:
        batch = (rows.to(on(device)) for rows in data.batch(0, number, of.batch_size))
        found, losses_S = gradients(*batch)
        stack.update(found)
        return losses_S

    return step


def side_by_side(trials: int, device: str, *, compile: bool, steps: int = 1_000) -> dict[str, Any]:
    """Proxies per minute of device, each of `steps` steps, where so many are one program."""
    step = stepper(trials, device, compile=compile)
    losses_S = step(0)
    for number in range(1, WARM_UP):
        step(number)
    wait(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS[device]:
        for _ in range(5):
            losses_S = step(WARM_UP + done)
            done += 1
        wait(device)
    seconds = (time.perf_counter() - started) / done
    finite = bool(losses_S.isfinite().all())
    return {
        "passed": finite,
        "trials": trials,
        "seconds_per_step": round(seconds, 6),
        "proxies_per_minute": round(60 * trials / (seconds * steps), 3),
    }
