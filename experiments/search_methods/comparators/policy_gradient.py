"""Reinforcement learning of a Gaussian policy over log ratios: REINFORCE with a baseline, natural gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlrs.records import Proposal, SearchResult, Trial
from rlrs.search import History, Space
from rlrs.search.method import batches, lowest

Array = NDArray[np.float64]

BATCH = 8
"""Actions per update: the baseline is their mean reward."""
DEVIATION = 0.4
"""First standard deviation of every coordinate, natural log (a factor of 1.5)."""
LEAST = 0.05
RATE = 1.0
"""Step of the mean along its natural gradient. This and that of the deviations as in natural evolution strategies."""


@dataclass(frozen=True)
class PolicyGradient:
    """Draw points from a policy N(mean, deviation^2), and raise the chance of those with a better reward.

    The reward of a point is its negative score; advantages are rewards less the batch's mean, over its standard
    deviation, a diverged run counting as the worst of its batch. With standard draws e and advantages A, the natural
    gradient of the expected reward is mean(A * e) * deviation for the mean, mean(A * (e^2 - 1)) / 2 for the logarithm
    of the deviation (Wierstra et al., 2014, Natural Evolution Strategies, separable case).

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the draws; each batch has draws of its own.
    """

    space: Space
    budget: int
    seed: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """Points drawn from the policy that the history leads to; see `Method.ask`."""
        if not history:
            return [Proposal(params=self.space.start(), move="start")]
        if len(history) >= self.budget:
            return self.result(history, f"the budget of {self.budget} runs is spent")
        low, high = self._box()
        mean_D, deviation_D = self._policy(history)
        draws_BD = self._draws(len(batches(history)), min(BATCH, self.budget - len(history)))
        points = np.clip(mean_D + deviation_D * draws_BD, low, high)
        return [Proposal(params=self.space.point(at.tolist()), move="drawn from the policy") for at in points]

    def result(self, history: History, reason: str) -> SearchResult:
        """The point with the lowest score."""
        return lowest(history, reason, len(batches(history)) - 1)

    def _box(self) -> tuple[Array, Array]:
        low, high = map(np.array, zip(*self.space.limits(), strict=True))
        return low, high

    def _draws(self, batch: int, count: int) -> Array:
        """Standard draws of a batch [b, d], which seed and batch decide."""
        return np.random.default_rng([self.seed, batch]).standard_normal((count, len(self.space)))

    def _policy(self, history: History) -> tuple[Array, Array]:
        """Mean and deviation [d] after all batches."""
        mean_D = np.array(self.space.coordinates(self.space.start()))
        deviation_D = np.full(len(self.space), DEVIATION)
        for number, batch in enumerate(batches(history)[1:], 1):
            mean_D, deviation_D = self._updated(mean_D, deviation_D, batch, self._draws(number, len(batch)))
        return mean_D, deviation_D

    def _updated(
        self, mean_D: Array, deviation_D: Array, batch: Sequence[Trial], draws_BD: Array
    ) -> tuple[Array, Array]:
        """The policy after one batch."""
        low, high = self._box()
        rewards = -np.array([trial.score for trial in batch])
        finite = rewards[np.isfinite(rewards)]
        if len(batch) < 2 or not len(finite):
            return mean_D, np.maximum(deviation_D / 2, LEAST)  # all diverged: closer to the mean
        rewards = np.where(np.isfinite(rewards), rewards, finite.min())
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-9)
        mean_D = np.clip(mean_D + RATE * deviation_D * (advantages @ draws_BD) / len(batch), low, high)
        slope_D = advantages @ (draws_BD**2 - 1) / len(batch)
        d = len(self.space)
        rate = (3 + math.log(d)) / (5 * math.sqrt(d))
        return mean_D, np.maximum(deviation_D * np.exp(np.clip(rate / 2 * slope_D, -0.5, 0.5)), LEAST)
