"""Reinforcement learning of a Gaussian policy over log ratios: REINFORCE with a baseline, natural gradient."""

from __future__ import annotations

import math

import numpy as np

from rlrs.search.methods.method import Method, Proposal, Stop
from rlrs.search.space import Space

BATCH = 8
"""Actions per update: the baseline is their mean reward."""
DEVIATION = 0.4
"""First standard deviation of every coordinate, natural log (a factor of 1.5)."""
LEAST = 0.05
RATE = 1.0
"""Step of the mean along its natural gradient. This and that of the deviations as in natural evolution strategies."""


def policy_gradient(space: Space, *, budget: int, seed: int) -> Method:
    """Draw points from a policy N(mean, deviation^2), and raise the chance of those with a better reward.

    The reward of a point is its negative score; advantages are rewards less the batch's mean, over its standard
    deviation, a diverged run counting as the worst of its batch. With standard draws e and advantages A, the natural
    gradient of the expected reward is mean(A * e) * deviation for the mean, mean(A * (e^2 - 1)) / 2 for the logarithm
    of the deviation (Wierstra et al., 2014, Natural Evolution Strategies, separable case).

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    low, high = map(np.array, zip(*space.limits(), strict=True))
    d = len(space)
    best, rounds = space.start(), 0
    ((first),) = yield [Proposal(best, "start")]
    score, done = first.score, 1
    mean, deviation = np.array(space.coordinates(best)), np.full(d, DEVIATION)
    deviation_rate = (3 + math.log(d)) / (5 * math.sqrt(d))
    while done < budget:
        draws = generator.standard_normal((min(BATCH, budget - done), d))
        points = [space.point(np.clip(mean + deviation * e, low, high).tolist()) for e in draws]
        told = yield [Proposal(p, "drawn from the policy") for p in points]
        done, rounds = done + len(points), rounds + 1
        for point, feedback in zip(points, told, strict=True):
            if feedback.score < score and feedback.status == "finished":
                best, score = point, feedback.score
        rewards = -np.array([feedback.score for feedback in told])
        finite = rewards[np.isfinite(rewards)]
        if len(points) < 2 or not len(finite):
            deviation = np.maximum(deviation / 2, LEAST)  # all diverged: closer to the mean
            continue
        rewards = np.where(np.isfinite(rewards), rewards, finite.min())
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-9)
        mean = np.clip(mean + RATE * deviation * (advantages @ draws) / len(points), low, high)
        slope = advantages @ (draws**2 - 1) / len(points)
        deviation = np.maximum(deviation * np.exp(np.clip(deviation_rate / 2 * slope, -0.5, 0.5)), LEAST)
    return Stop(best, score, rounds, f"the budget of {budget} runs is spent")
