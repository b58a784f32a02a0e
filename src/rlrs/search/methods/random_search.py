"""Points drawn evenly from the whole space: what every other method has to beat."""

from __future__ import annotations

import optuna

from rlrs.search.methods.method import Method
from rlrs.search.methods.sampled import sampled
from rlrs.search.space import Space


def random_search(space: Space, *, budget: int, seed: int) -> Method:
    """Draw points uniformly in the logarithms of all parameters, within their bounds; the start is the first.

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the draws.
    """
    return sampled(space, optuna.samplers.RandomSampler(seed=seed), budget=budget, name="random")
