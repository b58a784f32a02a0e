"""How many seeds a difference needs."""

import numpy as np
import pytest
from scipy import stats

from rlrs.comparison import power, seeds_needed, smallest_difference


@pytest.mark.parametrize(("n", "size"), [(3, 2.0), (4, 1.0), (8, 0.7)])
def test_power_is_how_often_the_interval_excludes_zero(n, size):
    values = np.random.default_rng(0).normal(size, 1.0, (40_000, n))
    low = values.mean(1) - stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / np.sqrt(n)
    assert power(n, size, 1.0) == pytest.approx(float((low > 0).mean()), abs=0.012)  # 5 standard errors


def test_seeds_needed_are_the_fewest_with_the_power():
    for size in (0.5, 1.0, 2.5):
        n = seeds_needed(size, 1.0)
        assert power(n, size, 1.0) >= 0.8 > power(n - 1, size, 1.0)
    # Cohen (1988) for a paired t-test, two-sided 5 %, power 0.8: d = 0.5 needs 34 pairs, d = 0.8 needs 15.
    assert (seeds_needed(0.5, 1.0), seeds_needed(0.8, 1.0), seeds_needed(-0.008, 0.01)) == (34, 15, 15)


def test_what_no_number_of_seeds_shows_has_none():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.1, 0.0) == 2
    for noise, chance in ((-1.0, 0.8), (1.0, 1.0), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="noise 0 or more"):
            seeds_needed(0.1, noise, chance=chance)


def test_the_smallest_difference_is_seen_with_a_chance_of_80_percent():
    for seeds in (2, 4, 12):
        assert power(seeds, smallest_difference(seeds), 1.0) == pytest.approx(0.8)
