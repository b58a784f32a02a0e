import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrs.schedules import SHAPES, BaseSchedule, relative_factor

RATIO = st.floats(0, 50, allow_nan=False)


def formula(t, W, T, alpha, s, e):
    """The paper's equation, written out independently of the library; in units of eta."""
    start, end = s, alpha * e
    if t < W:
        return start * (t + 1) / W
    if t < T:
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (t - W) / (T - W)))
    return end


@given(st.data(), st.integers(1, 400), st.floats(0, 1), RATIO, RATIO)
def test_every_step_equals_the_papers_formula(data, total, alpha, s, e):
    warmup = data.draw(st.integers(0, total))
    schedule = BaseSchedule(total_steps=total, warmup_steps=warmup, final_fraction=alpha)
    for t in {0, warmup - 1, warmup, total // 2, total - 1, total, total + 7} - {-1}:
        expected = formula(t, warmup, total, alpha, s, e)
        assert relative_factor(schedule, [(0, s), (1, e)], t) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_values_at_the_phase_boundaries():
    schedule = BaseSchedule(total_steps=12, warmup_steps=2, final_fraction=0.1)
    knots = [(0, 4.0), (1, 0.5)]
    assert relative_factor(schedule, knots, 0) == 2.0  # half of the warm-up
    assert relative_factor(schedule, knots, 1) == 4.0  # its last step is the peak
    assert relative_factor(schedule, knots, 2) == 4.0  # cos(0) = 1
    assert relative_factor(schedule, knots, 7) == pytest.approx(0.5 * (4.0 + 0.05))  # halfway
    assert relative_factor(schedule, knots, 12) == 0.1 * 0.5
    assert relative_factor(schedule, knots, 1000) == 0.1 * 0.5


def test_it_is_not_the_product_of_two_cosines():
    schedule = BaseSchedule(total_steps=100, final_fraction=0.1)
    base = relative_factor(schedule, [(0, 1), (1, 1)], 25)
    cosine = 0.5 * (1 + math.cos(math.pi * 0.25))
    product = base * (0.5 + (3 - 0.5) * cosine)
    assert abs(relative_factor(schedule, [(0, 3), (1, 0.5)], 25) - product) > 0.01


@pytest.mark.parametrize("shape", SHAPES)
@given(total=st.integers(1, 300), share=st.floats(0, 0.7), middle=st.floats(0.05, 0.95))
def test_ratios_of_one_are_the_base_schedule_with_any_number_of_knots(shape, total, share, middle):
    schedule = BaseSchedule(total_steps=total, warmup_steps=int(share * total), shape=shape)
    steps = np.arange(total + 2)
    two = relative_factor(schedule, [(0, 1), (1, 1)], steps)
    three = relative_factor(schedule, [(0, 1), (middle, 1), (1, 1)], steps)
    np.testing.assert_allclose(three, two, rtol=0, atol=1e-12)


def test_linear_and_constant_and_wsd_follow_the_same_rule():
    knots = [(0, 2.0), (1, 0.5)]
    linear = BaseSchedule(total_steps=10, final_fraction=0.2, shape="linear")
    assert relative_factor(linear, knots, 5) == pytest.approx((2.0 + 0.1) / 2)
    constant = BaseSchedule(total_steps=10, shape="constant")
    assert relative_factor(constant, [(0, 1), (1, 1)], 7) == 1.0
    assert relative_factor(constant, knots, 5) == pytest.approx((2.0 + 0.5) / 2)
    assert relative_factor(constant, knots, 10) == 0.5
    wsd = BaseSchedule(total_steps=10, final_fraction=0.2, shape="wsd", decay_fraction=0.4)
    assert relative_factor(wsd, knots, 6) == 2.0  # the last stable step
    assert relative_factor(wsd, knots, 8) == pytest.approx((2.0 + 0.1) / 2)
    assert relative_factor(wsd, knots, 10) == pytest.approx(0.1)


def test_a_knot_scales_the_base_rate_at_its_progress():
    schedule = BaseSchedule(total_steps=100, final_fraction=0.1)
    knots = [(0, 1.0), (0.3, 4.0), (1, 2.0)]
    base = relative_factor(schedule, [(0, 1), (1, 1)], 30)
    assert relative_factor(schedule, knots, 30) == pytest.approx(4.0 * base)
    between = relative_factor(schedule, knots, np.arange(0, 31))
    assert (np.diff(between) > 0).all()  # from 1 up to about 3.2


def test_knots_in_a_stable_phase_move_linearly_in_progress():
    wsd = BaseSchedule(total_steps=100, shape="wsd", decay_fraction=0.2)
    knots = [(0, 1.0), (0.5, 3.0), (1, 3.0)]
    assert relative_factor(wsd, knots, 25) == pytest.approx(2.0)
    assert relative_factor(wsd, knots, 65) == pytest.approx(3.0)


def test_an_array_of_steps_gives_the_scalar_values_bit_for_bit():
    schedule = BaseSchedule(total_steps=50, warmup_steps=5)
    steps = np.arange(60).reshape(6, 10)
    values = relative_factor(schedule, [(0, 5), (0.4, 2), (1, 0.666)], steps)
    assert values.shape == (6, 10)
    assert values[3, 7] == relative_factor(schedule, [(0, 5), (0.4, 2), (1, 0.666)], 37)


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        (1, 0, [3.0, 0.2, 0.2]),
        (1, 1, [3.0, 0.2, 0.2]),
        (2, 2, [1.5, 3.0, 0.2]),
        (2, 0, [3.0, 0.5 * (3.0 + 0.2), 0.2]),
    ],
)
@pytest.mark.parametrize("middle", [[], [(0.5, 1.0)]])
def test_degenerate_lengths_are_defined(total, warmup, expected, middle):
    schedule = BaseSchedule(total_steps=total, warmup_steps=warmup, final_fraction=0.1)
    got = relative_factor(schedule, [(0, 3.0), *middle, (1, 2.0)], np.arange(3))
    if not middle or total == 1 or warmup == 2:
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert np.isfinite(got).all()


def test_a_ratio_of_zero_freezes():
    schedule = BaseSchedule(total_steps=9, warmup_steps=3)
    assert (relative_factor(schedule, [(0, 0), (1, 0)], np.arange(12)) == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 0}, "total_steps should be at least 1, at most 1,000,000,000,000, not 0"),
        ({"total_steps": 1.5}, "total_steps should be a whole number of steps, not 1.5"),
        ({"total_steps": 5, "warmup_steps": 6}, "warmup_steps should be from 0 to total_steps=5, not 6"),
        ({"total_steps": 5, "final_fraction": 1.5}, "final_fraction should be from 0 to 1, not 1.5"),
        ({"total_steps": 5, "shape": "cosin"}, "shape should be one of cosine, linear, constant, wsd"),
        ({"total_steps": 5, "shape": "constant", "final_fraction": 0.1}, "ends at its peak"),
        ({"total_steps": 5, "warmup_steps": 3, "shape": "wsd", "decay_fraction": 0.5}, "at most 0.4"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BaseSchedule(**settings)


@pytest.mark.parametrize("knots", [[(0, 1)], [(0, 1), (0.5, 1)], [(0, 1), (0.5, 1), (0.5, 2), (1, 1)], []])
def test_knots_that_do_not_run_from_0_to_1_are_refused(knots):
    with pytest.raises(ValueError, match="knots should run from progress 0 to progress 1"):
        relative_factor(BaseSchedule(total_steps=5), knots, 0)


def test_negative_steps_and_ratios_are_refused():
    with pytest.raises(ValueError, match="step should be 0 or more, not -1"):
        relative_factor(BaseSchedule(total_steps=5), [(0, 1), (1, 1)], -1)
    with pytest.raises(ValueError, match="total_steps should be at least 1, at most 1,000,000,000,000, not"):
        BaseSchedule(total_steps=int("9" * 401))
    with pytest.raises(ValueError, match="the ratio at progress 1 should be 0 or more, at most 1e\\+12, not -2"):
        relative_factor(BaseSchedule(total_steps=5), [(0, 1), (1, -2)], 1)


# A base curve of the user's own


def nanogpt(step, warmup=10, total=100, least=0.1):
    """The schedule of nanoGPT's train.py, over its peak."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step > total:
        return least
    return least + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) * (1 - least)


def test_a_curve_of_ones_own_is_followed_and_ratios_run_along_it():
    schedule = BaseSchedule(total_steps=100, warmup_steps=10, shape=nanogpt)
    assert schedule.final_fraction == 0.1
    for step in (0, 5, 9, 10, 11, 55, 99, 100, 140):
        assert schedule(step) == pytest.approx(nanogpt(step), rel=1e-12)
        start, end = 5.0, 0.1 * 0.5
        c = (nanogpt(step) - 0.1) / 0.9
        expected = 5.0 * nanogpt(step) if step < 10 else end + (start - end) * c
        assert relative_factor(schedule, [(0, 5.0), (1, 0.5)], step) == pytest.approx(expected, rel=1e-12)


def test_knots_on_a_curve_of_ones_own_scale_it_there():
    schedule = BaseSchedule(total_steps=110, warmup_steps=10, shape=lambda t: nanogpt(t, total=110))
    knots = [(0, 1.0), (0.305, 4.0), (1, 2.0)]
    assert relative_factor(schedule, [(0, 1.0), (0.3, 4.0), (1, 2.0)], 40) == pytest.approx(4 * schedule(40))
    assert 3.8 < relative_factor(schedule, knots, 40) / schedule(40) < 4.0


def test_a_curve_that_stays_at_its_peak_leaves_the_ratios_to_progress():
    schedule = BaseSchedule(total_steps=10, shape=lambda t: 1.0)
    assert relative_factor(schedule, [(0, 2.0), (1, 1.0)], 5) == 1.5


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            lambda t: 6e-4,
            {},
            "is 0.0006 at step 0, the end of the warm-up, where it should be 1: divide it",
        ),
        (lambda t: 1.0 - t, {}, "should end between 0 and 1, not at -9"),
        (lambda t: 1.0 / (1 + t), {"final_fraction": 0.1}, "a curve of your own ends where it ends; leave it out"),
        (lambda t: 1.0 if t % 10 == 0 else 0.5, {}, "ends at its peak, but is not there all the time"),
    ],
)
def test_a_curve_that_cannot_be_a_base_is_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        BaseSchedule(total_steps=10, shape=shape, **options)


def test_knots_on_a_curve_that_rises_again_are_refused():
    wave = BaseSchedule(total_steps=10, shape=lambda t: 0.0 if t >= 10 else 1.0 - 0.5 * (t % 3))
    assert relative_factor(wave, [(0, 1), (1, 1)], 1) == 0.5
    with pytest.raises(ValueError, match="does not rise again after its warm-up"):
        relative_factor(wave, [(0, 1), (0.5, 2), (1, 1)], 1)


# Without a scheduler


@pytest.mark.parametrize("shape", [*SHAPES, nanogpt])
def test_rates_without_a_scheduler_are_the_schedulers_at_every_step(shape):
    import torch

    import rlrs

    ratios = rlrs.Ratios({"embedding": (5.0, 0.5), "experts": [(0, 1), (0.4, 3), (1, 2)]})
    names = ["embedding", "experts", "norm"]
    groups = [{"name": n, "component": n, "params": [torch.nn.Parameter(torch.ones(1))], "lr": 3e-3} for n in names]
    optimizer = torch.optim.SGD(groups)
    options = {"total_steps": 100, "warmup_steps": 10, "schedule": shape}
    scheduler = rlrs.RelativeLR(optimizer, ratios, **options)
    for step in range(100):
        rates = ratios.rates(step, lr=3e-3, **options)
        assert [group["lr"] for group in optimizer.param_groups] == [rates[name] for name in names]
        optimizer.step()
        scheduler.step()
