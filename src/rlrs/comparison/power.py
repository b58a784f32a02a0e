"""How many seeds a difference needs to be seen, before or after they are run."""

from __future__ import annotations

import bisect
import math

from rlrs.comparison.sequential import LEAST_SEEDS, boundary
from rlrs.comparison.statistics import LEVEL

POWER = 0.8
"""Chance of seeing a difference that is there, by convention."""
MOST_SEEDS = 1000
"""Beyond which no number is named."""


def power(seeds: int, difference: float, noise: float) -> float:
    """Chance that the 95 % interval of so many paired seeds is wholly on the side of a difference that is there.

    Student's t-test with a number of seeds that is fixed beforehand (Cohen 1988, section 2.5: noncentral t).

    Args:
        seeds: paired, 2 or more.
        difference: true difference of the losses, nats per token.
        noise: standard deviation of the paired differences from seed to seed, nats per token, above 0.

    Examples:
        >>> round(power(4, difference=0.05, noise=0.02), 2)
        0.9
    """
    from scipy import special

    quantile = special.stdtrit(seeds - 1, 0.5 + LEVEL / 2)
    return 1 - float(special.nctdtr(seeds - 1, math.sqrt(seeds) * abs(difference) / noise, quantile))


def seeds_needed(difference: float, noise: float, *, chance: float = POWER, anytime: bool = False) -> int | None:
    """The fewest paired seeds that see a difference.

    Args:
        difference: true difference of the losses, nats per token.
        noise: standard deviation of the paired differences from seed to seed, nats per token.
        chance: of seeing it, with a fixed number of seeds.
        anytime: how many a comparison that stops when it is decided takes, about: as many as it takes until the
            difference is as wide as the confidence sequence's half. `chance` has no part in it.

    Returns:
        A number of seeds; None if 1,000 are too few.

    Raises:
        ValueError: a noise or a chance that cannot be.

    Examples:
        >>> seeds_needed(0.05, 0.02), seeds_needed(0.02, 0.02), seeds_needed(0.05, 0.02, anytime=True)
        (4, 10, 5)
    """
    if not noise >= 0 or not 0 < chance < 1:
        raise ValueError(f"should have noise 0 or more and a chance between 0 and 1, not {noise=}, {chance=}")
    least, size = (LEAST_SEEDS if anytime else 2), abs(difference)
    if noise == 0:
        return least if size else None

    def seen(n: int) -> bool:
        return size * math.sqrt(n) / noise >= boundary(n) if anytime else power(n, size, noise) >= chance

    found = bisect.bisect_left(range(MOST_SEEDS + 1), True, lo=least, key=seen)  # more seeds see no less
    return found if found <= MOST_SEEDS else None


def smallest_difference(seeds: int) -> float:
    """The difference that so many paired seeds see with 80 % power, in units of the noise from seed to seed.

    Args:
        seeds: paired, 2 or more.

    Examples:
        >>> [round(smallest_difference(seeds), 1) for seeds in (2, 3, 4, 8, 12)]
        [11.5, 3.3, 2.1, 1.2, 0.9]
    """
    from scipy import optimize

    return optimize.root_scalar(lambda size: power(seeds, size, 1.0) - POWER, bracket=(0.01, 100.0)).root
