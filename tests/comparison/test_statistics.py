import math

import numpy as np
import pytest

from rlrs.comparison import bootstrap, holm, interval, p_value, speed_up, steps_to_reach


def test_the_interval_is_students_for_three_seeds():
    got = interval([1.0, 2.0, 3.0])
    assert got.mean == 2.0
    assert got.high - got.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t(0.975, 2 df), sd 1
    assert got.low == pytest.approx(2 - 4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 paired seeds, not 1"):
        interval([1.0])


def test_steps_are_interpolated_in_log_steps():
    # halfway in loss between 100 and 400 steps: the geometric mean
    assert steps_to_reach(3.0, {100: 3.2, 400: 2.8}) == (pytest.approx(200.0), "none")


def test_the_shortest_crossing_counts():
    assert steps_to_reach(3.0, {100: 3.1, 200: 3.0, 300: 3.05, 400: 2.9}) == (pytest.approx(200.0), "none")


def test_reaching_it_at_the_shortest_length_is_a_lower_bound_of_the_saving():
    assert steps_to_reach(3.0, {60: 2.9, 100: 2.8}) == (60.0, "lower")


def test_never_reaching_it_is_an_upper_bound():
    assert steps_to_reach(3.0, {60: 3.3, 100: 3.1}) == (100.0, "upper")


def test_a_diverged_shorter_run_counts_as_not_reaching():
    assert steps_to_reach(3.0, {60: math.inf, 100: 2.9}) == (pytest.approx(100.0), "none")


def test_saved_steps_are_a_share_of_the_baselines_not_a_ratio_of_rates():
    got = speed_up([3.0, 3.0], [{50: 3.1, 75: 3.0, 100: 2.9}] * 2, 100)
    assert got.mean == pytest.approx(0.25)  # 1.33x faster is 25 % fewer steps
    assert got.bound == "none"
    assert got.steps_needed == pytest.approx((75.0, 75.0))


def test_bounds_of_any_seed_mark_the_whole():
    lower = {50: 2.9, 100: 2.8}
    assert speed_up([3.0, 3.0], [lower, {50: 3.1, 100: 2.9}], 100).bound == "lower"
    assert speed_up([3.0, 3.0], [lower, {50: 3.3, 100: 3.1}], 100).bound == "upper"


def test_the_p_value_is_5_percent_where_the_interval_ends_at_zero():
    values = [1.0, 2.0, 3.0, 5.0]
    got = interval(values)
    assert p_value([value - got.low for value in values]) == pytest.approx(0.05)
    assert p_value([value - got.high for value in values]) == pytest.approx(0.05)
    assert (p_value([0.0, 0.0]), p_value([0.1, 0.1])) == (1.0, 0.0)


def test_holm_multiplies_the_smallest_by_all_and_the_largest_by_one():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})
    assert holm({"a": 0.5, "b": 0.001}) == {"a": 0.5, "b": 0.002}
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_seldom_refuses_any_of_several_true_hypotheses():
    p_values = np.random.default_rng(0).uniform(size=(20_000, 3))
    refused = sum(min(holm(dict(enumerate(row))).values()) <= 0.05 for row in p_values.tolist()) / len(p_values)
    assert 0.045 < refused < 0.0545  # 1 - (1 - 0.05 / 3)^3 = 4.9 %, standard error 0.15 points


def test_the_bootstrap_is_near_students_interval_for_many_seeds_and_narrower_for_few():
    many = [0.1 + 0.01 * ((7 * k) % 11 - 5) for k in range(44)]
    t, (low, high) = interval(many), bootstrap(many)
    assert (low, high) == pytest.approx((t.low, t.high), abs=0.0006)
    few = many[:4]
    t, (low, high) = interval(few), bootstrap(few)
    assert t.low < low < t.mean < high < t.high
    assert bootstrap(few) == bootstrap(few)


def test_the_two_intervals_of_a_saving_are_checked_against_each_other():
    sure = speed_up([3.0] * 3, [{50: 3.1, 75: 3.0, 100: 2.9}] * 3, 100)
    assert sure.agrees
    lone = speed_up([3.0] * 3, [{50: 3.0, 100: 2.9}, {50: 3.3, 99: 3.0, 100: 2.9}, {50: 3.3, 98: 3.0, 100: 2.9}], 100)
    assert lone.low < 0 < lone.bootstrap[0]
    assert not lone.agrees
