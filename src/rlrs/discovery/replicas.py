"""Ratios learned from losses: antithetic replicas of a run, with the correction of persistent evolution strategies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from rlrs.discovery.learned_lr import LearnedLR
from rlrs.discovery.learning_rules import Memory
from rlrs.ratios import Ratios


class Replicas:
    """Two or more copies of one run that differ in their ratios alone, on the same batches.

    Copies come in pairs with ratios times `exp(+sigma * e)` and `exp(-sigma * e)`, `e` drawn anew for every window of
    steps. What a window's losses say of `e` is a gradient of the loss over that window alone, which favours what pays
    at once: the short-horizon bias (Wu et al., 2018, arXiv:1803.02021). Here every copy goes on from its own weights,
    and its losses count for all that it was perturbed by so far (persistent evolution strategies: Vicol et al., 2021,
    arXiv:2112.13835), which takes the bias out:

        gradient = mean over the copies of  loss_i * xi_i / sigma^2,     xi_i = sum of all perturbations of copy i

    The gradient is divided by its own running root mean square, clipped, and moves all copies' ratios, annealed as the
    base. Costs exactly the copies: no other figures are taken. Memory: nothing beside them.

    In one process give all schedulers, and step with all losses. On several ranks that train a copy each, on the same
    batches and without averaging gradients, give each its own scheduler: losses are gathered over the group.

    Args:
        schedulers: of this process's copies, each `LearnedLR(..., rule=None)` with the same settings.
        window: steps between two perturbations.
        sigma: size of the perturbations, natural log.
        reach: by how much a ratio moves over the run if all gradients agree, natural log.
        clip: of one window's normalised gradient.
        bound: largest factor from the start.
        seed: of the draws: the same on all ranks.
        process_group: of the ranks whose processes hold the other copies; None if they are all here.
        persistent: carry perturbations on; False is the biased estimate of each window by itself.

    Raises:
        ValueError: an odd number of copies, or schedulers that learn by themselves or differ.
    """

    def __init__(
        self,
        schedulers: Sequence[LearnedLR],
        *,
        window: int = 10,
        sigma: float = 0.1,
        reach: float = 6.0,
        clip: float = 3.0,
        bound: float = 32.0,
        seed: int = 0,
        process_group: Any = None,
        persistent: bool = True,
    ) -> None:
        self.schedulers, self._group = list(schedulers), process_group
        self.window, self.sigma, self.reach, self.clip, self.bound = window, sigma, reach, clip, bound
        self.seed, self.persistent = seed, persistent
        ranks, rank = (1, 0) if process_group is None else _place(process_group)
        self.count, self._first = len(self.schedulers) * ranks, rank * len(self.schedulers)
        if self.count < 2 or self.count % 2:
            raise ValueError(f"copies come in pairs: there should be 2, 4, ... of them, not {self.count}")
        if window < 1 or not sigma > 0:
            raise ValueError(f"window should be 1 or more and sigma above 0, not {window} and {sigma}")
        if any(one.rule is not None for one in self.schedulers):
            raise ValueError("a copy's scheduler should be made with rule=None: its ratios are moved from here")
        if any(one.learning != self.schedulers[0].learning for one in self.schedulers):
            raise ValueError("all copies should learn the same components")
        size = len(self.schedulers[0].learning)
        self._mean = [0.0] * size
        self._carried = [[0.0] * size for _ in range(self.count)]
        self._perturbations = [[0.0] * size for _ in range(self.count)]  # of the present window
        self._losses = [0.0] * self.count
        self._memory: Memory = {"count": [0.0], "squares": [0.0] * size}
        self._steps = self._windows = 0
        self._perturb()

    def step(self, losses: Sequence[float]) -> None:
        """All copies have taken an optimizer step: step their schedulers, and learn at the end of a window.

        Args:
            losses: of the step, nats per token, of the copies of this process in their order.
        """
        if len(losses) != len(self.schedulers):
            raise ValueError(f"losses should be {len(self.schedulers)}, one for each copy here, not {len(losses)}")
        for n, loss in enumerate(losses):
            self._losses[self._first + n] += float(loss)
        self._steps += 1
        if self._steps % self.window == 0:
            self._learn()
            self._perturb()
        for scheduler in self.schedulers:
            scheduler.step()

    def _learn(self) -> None:
        losses, scheduler = self._all_losses(), self.schedulers[0]
        gradient = self.gradient(losses)
        self._losses = [0.0] * self.count
        schedule, step = scheduler.schedule, scheduler.last_epoch
        if step < schedule.warmup_steps or not all(map(math.isfinite, gradient)):
            return
        [count] = self._memory["count"]
        self._memory["count"] = [count + 1]
        squares = [0.9 * v + 0.1 * g * g for v, g in zip(self._memory["squares"], gradient, strict=True)]
        self._memory["squares"] = squares
        unbiased = 1 - 0.9 ** (count + 1)
        most = math.log(self.bound)
        pace = self.reach * self.window * scheduler.share()
        for k, (g, v) in enumerate(zip(gradient, squares, strict=True)):
            unit = g / math.sqrt(v / unbiased) if v else 0.0
            moved = self._mean[k] - pace * min(max(unit, -self.clip), self.clip)
            self._mean[k] = min(max(moved, -most), most)

    def gradient(self, losses: Sequence[float]) -> list[float]:
        """The estimate from a window's summed losses of all copies, by component, nats per unit of log rate."""
        mean = math.fsum(losses) / self.count  # the perturbations of a pair cancel, so it changes rounding alone
        return [
            math.fsum((loss - mean) * xi[k] for loss, xi in zip(losses, self._carried, strict=True))
            / (self.count * self.sigma**2)
            for k in range(len(self._mean))
        ]

    def _perturb(self) -> None:
        """Draw the next window's perturbations, the same on all ranks, and give each copy its ratios."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._windows)
        self._windows += 1
        for pair in range(self.count // 2):
            drawn = (torch.randn(len(self._mean), generator=generator, dtype=torch.float64) * self.sigma).tolist()
            for n, sign in ((2 * pair, 1.0), (2 * pair + 1, -1.0)):
                self._perturbations[n] = [sign * e for e in drawn]
                before = self._carried[n] if self.persistent else [0.0] * len(drawn)
                self._carried[n] = [xi + e for xi, e in zip(before, self._perturbations[n], strict=True)]
        self._place_copies()

    def _place_copies(self) -> None:
        """Give each copy of this process its ratios: what is learned, times its own perturbation."""
        for n, scheduler in enumerate(self.schedulers, self._first):
            own = [mean + e for mean, e in zip(self._mean, self._perturbations[n], strict=True)]
            scheduler.move_to([*own, 0.0], [*self._mean, 0.0])

    def _all_losses(self) -> list[float]:
        if self._group is None:
            return self._losses
        weight = self.schedulers[0].optimizer.param_groups[0]["params"][0]
        losses = torch.tensor(self._losses, dtype=torch.float64, device=weight.device)
        dist.all_reduce(losses, group=None if self._group == "default" else self._group)
        return losses.tolist()

    def learned(self, knots: Sequence[float] = (0.0, 1.0)) -> Ratios:
        """What was learned, as `LearnedLR.learned`: between the copies."""
        ratios = self.schedulers[0].learned(knots)
        settings = {name: getattr(self, name) for name in ("window", "sigma", "reach", "clip", "bound", "seed")}
        rule = {"name": "Replicas", "copies": self.count, **settings, "persistent": self.persistent}
        learned = {**ratios.provenance["learned"], "rule": rule}
        return Ratios(dict(ratios), {**ratios.provenance, "learned": learned})

    @property
    def logarithms(self) -> list[float]:
        """What was learned so far: of every component over its starting ratio, between the copies."""
        return list(self._mean)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the schedulers' own state, which is saved with each copy."""
        return {
            "mean": list(self._mean),
            "carried": [list(xi) for xi in self._carried],
            "perturbations": [list(e) for e in self._perturbations],
            "losses": list(self._losses),
            "memory": {name: list(values) for name, values in self._memory.items()},
            "steps": self._steps,
            "windows": self._windows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as if it had not been stopped; the schedulers load their own state, before or after.

        Raises:
            ValueError: the state of another number of copies or components.
        """
        if len(state_dict["carried"]) != self.count or len(state_dict["mean"]) != len(self._mean):
            raise ValueError(
                f"the saved state is of {len(state_dict['carried'])} copies and {len(state_dict['mean'])} components, "
                f"and here are {self.count} and {len(self._mean)}"
            )
        self._mean, self._losses = list(state_dict["mean"]), list(state_dict["losses"])
        self._carried = [list(xi) for xi in state_dict["carried"]]
        self._perturbations = [list(e) for e in state_dict["perturbations"]]
        self._memory = {name: list(values) for name, values in state_dict["memory"].items()}
        self._steps, self._windows = state_dict["steps"], state_dict["windows"]
        self._place_copies()


def _place(group: Any) -> tuple[int, int]:
    of = None if group == "default" else group
    return dist.get_world_size(of), dist.get_rank(of)
