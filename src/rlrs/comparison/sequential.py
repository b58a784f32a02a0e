"""Statistics that hold however often one looks: a confidence sequence for the mean of paired differences.

The mixture t-test: under the null hypothesis that the mean is m, and for normal differences of unknown spread,

    E_n(m) = sqrt(g) ((1 + u) / (1 + g u))^(n / 2),   u = t^2 / (n - 1),   t = sqrt(n) (mean_n - m) / sd_n,
    g = 1 / (1 + n TAU^2)

is the likelihood ratio of the differences up to their scale, with the standardised mean drawn from N(0, TAU^2) against
0. It is a martingale that starts at 1, so the chance that it *ever* reaches 1 / alpha is at most alpha (Ville). The set
of all m that it has not refused holds the true mean at all n at once with probability 1 - alpha.

Source: T. L. Lai, "On confidence sequences", Annals of Statistics 4 (1976); H. Wang and A. Ramdas, "Anytime-valid
t-tests and confidence sequences for Gaussian means with unknown variance", arXiv:2310.03722, section 4.

Exact from the first seeds on, where sequences for bounded or for asymptotically normal observations need dozens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlrs.comparison.statistics import LEVEL, PairedTest, moments
from rlrs.records import Interval

TAU = 3.0
"""Spread of the standardised means that the test is best at. Chosen here: our arms differ by 1 to 10 times the spread
of their paired differences; any value is valid, this one needs the fewest seeds from 3 to 12 for such gains."""
LEAST_SEEDS = 3
"""From which on the sequence is finite at the level used, 95 %."""


def boundary(n: int, level: float = LEVEL, tau: float = TAU) -> float:
    """Largest |t| of n differences that does not refuse the mean: half the width is this many standard errors.

    Compare Student's quantile, which holds at one n that was fixed beforehand: 3.18 at n = 4, 2.20 at n = 12.

    Args:
        n: number of paired differences.
        level: coverage, over all n together.
        tau: spread of the standardised means that the test is best at; fixed before the first look.

    Returns:
        A factor; infinite where so few differences can refuse nothing.

    Examples:
        >>> [round(boundary(n), 2) for n in (2, 3, 4, 12)]
        [inf, 14.59, 6.55, 4.02]
    """
    g = 1 / (1 + n * tau**2)
    most = (1 / ((1 - level) * math.sqrt(g))) ** (2 / n)
    return math.sqrt((n - 1) * (most - 1) / (1 - g * most)) if n > 1 and g * most < 1 else math.inf


def confidence_sequence(values: Sequence[float]) -> Interval:
    """The interval of the mean that may be looked at after every seed, and stopped on.

    Args:
        values: paired differences, so far; independent, about normal.

    Raises:
        ValueError: fewer than three values, whose interval would have no ends.

    Examples:
        >>> found = confidence_sequence([-0.06, -0.05, -0.07, -0.06])
        >>> f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
        '-0.060 (-0.087 to -0.033)'
    """
    n = len(values)
    if n < LEAST_SEEDS:
        raise ValueError(f"a confidence sequence needs at least {LEAST_SEEDS} paired seeds, not {n}")
    mean, error = moments(values)
    half = boundary(n) * error
    return Interval(mean=mean, low=mean - half, high=mean + half, level=LEVEL, per_seed=tuple(values))


def anytime_p_value(values: Sequence[float]) -> float:
    """One over the evidence against a mean of 0: its chance to be ever so small, at any n, is at most itself.

    Args:
        values: paired differences, so far; two or more.

    Examples:
        >>> round(anytime_p_value([-0.06, -0.05, -0.07, -0.06]), 4)
        0.0099
    """
    n = len(values)
    mean, error = moments(values)
    g = 1 / (1 + n * TAU**2)
    if error == 0:
        return 1.0 if mean == 0 else g ** ((n - 1) / 2)  # the limit of ever smaller spreads
    u = (mean / error) ** 2 / (n - 1)
    return math.exp(min(0.0, -0.5 * math.log(g) - 0.5 * n * (math.log1p(u) - math.log1p(g * u))))


ANYTIME = PairedTest(confidence_sequence, anytime_p_value)
"""For comparisons that go on until they are decided."""
