"""Intervals and tests that may be looked at after every seed."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from rlrs.comparison import ANYTIME, anytime_p_value, boundary, confidence_sequence, decide, interval
from rlrs.comparison.sequential import LEAST_SEEDS, TAU


def likelihood_ratio(values):
    """Of the differences up to their scale, s: integrated over it and over the standardised mean, on a grid."""
    x = np.array(values)
    s = np.linspace(1e-4, 30, 4001)[:, None]
    delta = np.linspace(-30, 30, 4001)

    def density(delta):  # of the direction of the values, up to a factor
        exponent = -0.5 * sum((s * value - delta) ** 2 for value in x)
        return integrate.trapezoid(s ** (len(x) - 1) * np.exp(exponent), s, axis=0)

    mixed = integrate.trapezoid(density(delta) * stats.norm.pdf(delta, scale=TAU), delta)
    return mixed / density(np.zeros(1))[0]


@pytest.mark.parametrize("values", [[0.3, 1.1], [0.3, 1.1, 0.7], [-1.0, -0.8, -1.3, -0.7, 0.1]])
def test_the_p_value_is_one_over_the_likelihood_ratio(values):
    assert anytime_p_value(values) == pytest.approx(min(1.0, 1 / likelihood_ratio(values)), rel=1e-4)


def test_nothing_is_known_from_one_scale_alone():
    assert [boundary(1), boundary(2)] == [math.inf, math.inf]
    assert next(n for n in range(1, 9) if math.isfinite(boundary(n))) == LEAST_SEEDS


@pytest.mark.parametrize("n", [3, 4, 8, 20])
def test_a_mean_is_in_the_interval_where_its_p_value_is_above_5_percent(n):
    values = np.random.default_rng(n).normal(0.4, 1.0, n)
    got = confidence_sequence(values.tolist())
    for edge in (got.low, got.high):
        assert anytime_p_value((values - edge).tolist()) == pytest.approx(0.05, rel=1e-9)
    assert anytime_p_value((values - 1.01 * got.high + 0.01 * got.low).tolist()) < 0.05


def test_the_price_of_looking_is_a_wider_interval_than_students():
    values = [-0.06, -0.05, -0.07, -0.06]
    fixed, anytime = interval(values), confidence_sequence(values)
    assert (anytime.high - anytime.mean) / (fixed.high - fixed.mean) == pytest.approx(6.55 / 3.182, rel=1e-3)


def test_the_scale_of_the_losses_changes_nothing():
    values = [0.3, 1.1, 0.7, -0.2]
    assert anytime_p_value([1e-3 * v for v in values]) == pytest.approx(anytime_p_value(values))
    assert anytime_p_value([-v for v in values]) == pytest.approx(anytime_p_value(values))


def test_differences_without_spread_are_certain_or_say_nothing():
    assert anytime_p_value([0.0, 0.0, 0.0]) == 1.0
    # As much as three equal signs can say: the limit of ever smaller spreads.
    assert anytime_p_value([0.1, 0.1, 0.1]) == pytest.approx(anytime_p_value([0.1, 0.1 + 1e-9, 0.1]))
    assert anytime_p_value([0.5, 0.5, 0.5]) == pytest.approx(1 / (1 + 3 * TAU**2))
    assert confidence_sequence([0.0, 0.0, 0.0]).standing == "not_different"


def test_two_seeds_have_no_confidence_sequence():
    with pytest.raises(ValueError, match="at least 3 paired seeds, not 2"):
        confidence_sequence([1.0, 2.0])


def test_a_gain_that_students_test_sees_at_once_needs_more_seeds_when_one_looks_at_each():
    losses = {"uniform": [3.60, 3.62, 3.58, 3.61], "rlrs": [3.58, 3.605, 3.57, 3.58]}
    seeds = (1, 2, 3, 4)
    assert decide(losses, seeds).winner == "rlrs"
    assert decide(losses, seeds, rule=ANYTIME).winner == "uniform"
