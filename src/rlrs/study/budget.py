"""What a search may spend besides its number of runs: training steps, FLOPs or hours."""

from __future__ import annotations

from collections.abc import Callable

from rlrs.data import TokenData
from rlrs.inspection import meta_model
from rlrs.models import training_flops
from rlrs.search import Budget
from rlrs.settings import SearchConfig
from rlrs.training import RunSpec


def flops_counter(data: TokenData) -> Callable[[RunSpec, int], float]:
    """What says how many FLOPs so many steps of a run take; a model's are counted once."""
    known: dict[str, float] = {}

    def flops(spec: RunSpec, steps: int) -> float:
        shape = spec.model.model_dump_json()
        if shape not in known:
            known[shape] = float(training_flops(meta_model(spec.model, data.vocab_size), data.sequence_length))
        return steps * spec.batch_size * data.sequence_length * known[shape]

    return flops


def budgets(settings: SearchConfig, flops: Callable[[RunSpec, int], float]) -> list[Budget]:
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
