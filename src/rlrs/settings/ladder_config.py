"""Settings of a ladder: sizes and horizons below the target."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from rlrs.messages import shown
from rlrs.settings.base import MOST, MOST_STEPS, Count, Positive, Settings, number


def _rung(value: Any) -> Any:
    """A size of a ladder: how many times the proxy, or what differs from the proxy."""
    if not isinstance(value, dict):
        value = number(value)
        if not 0 < value <= MOST:
            raise ValueError(
                f"should be a number above 0, at most {MOST:,.0f}, or settings that differ from the proxy's, not "
                f"{shown(value)}"
            )
    return value


class LadderConfig(Settings):
    """Sizes and horizons below the target that all arms are searched on, for laws of ratios and losses.

    Every size is searched at every horizon, with the same budget for every arm. The proxy is a rung, listed or not, and
    searched once.
    """

    sizes: Annotated[tuple[Annotated[Any, BeforeValidator(_rung)], ...], Field(min_length=3)]
    """Three or more: a number is so many times the proxy's parameters without embeddings, a mapping what differs from
    the proxy's `model`, or from its `set` where the study has a trainer of its own."""
    horizons: Annotated[tuple[Annotated[Count, Field(le=MOST_STEPS)], ...], Field(min_length=2)]
    """Two or more numbers of steps."""
    trials: Annotated[Count, Field(ge=8, le=10_000)] | None = None
    """Runs of each arm's search on each rung; as many as `share` pays for, at most `search.trials`, if not set."""
    seeds: Annotated[Count, Field(ge=2, le=1_000)] = 2
    """Fresh paired seeds on which what was found is measured on each rung."""
    share: Positive = 0.1
    """Most that the ladder may cost, as a share of one run of the target: in FLOPs."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("sizes", "horizons"):
            values = getattr(self, name)
            if any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"{name}={shown(list(values))} names one twice")
        return self
