"""What a search may spend besides its number of runs: training steps, FLOPs or hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlrs.search import Budget
from rlrs.settings import SearchConfig


def budgets(settings: SearchConfig, flops: Callable[[Any, int], float]) -> list[Budget]:
    """The budgets of one arm's search that its settings name.

    Hours are those of training, summed over runs as the database keeps them: a search that is killed and goes on ends
    where it would have, but another machine ends it elsewhere.
    """
    named = [
        (settings.max_steps, "training steps", lambda spec, steps, seconds: steps),
        (settings.max_flops, "FLOPs", lambda spec, steps, seconds: flops(spec, steps)),
        (settings.max_hours, "hours of training", lambda spec, steps, seconds: seconds / 3600),
    ]
    return [Budget(limit, unit, cost) for limit, unit, cost in named if limit is not None]
