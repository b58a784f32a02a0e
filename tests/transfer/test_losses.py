import numpy as np
import pytest

from rlrs.transfer import Size, band, forecast_gain, forecast_loss, identified, saved_steps

SIZES = [Size(width, 2, tokens) for width in (16, 24, 32) for tokens in (1e5, 2e5)]
TARGET = Size(64, 2, 2e5)
AXES = identified(SIZES)


def product(size, floor=1.5):
    return floor + 1.6 * (size.width / 24) ** -0.25 * (size.tokens / 1.5e5) ** -0.2


def summed(size, floor=1.5):
    return floor + 0.8 * (size.width / 24) ** -0.25 + 0.8 * (size.tokens / 1.5e5) ** -0.2


@pytest.mark.parametrize("truth", [product, summed])
def test_the_loss_at_the_target_lies_in_about_nine_of_ten_intervals(truth):
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        losses = [truth(size) + 0.006 * rng.standard_normal() for size in SIZES]
        _, low, high = band(forecast_loss(SIZES, losses, AXES, TARGET, seed).losses)
        inside += low <= truth(TARGET) <= high
    assert 48 <= inside <= 60


def test_a_gain_that_shrinks_with_size_is_not_carried_over_as_it_was():
    gains = [0.10, 0.11, 0.06, 0.07, 0.03, 0.04]
    middle, low, high = band(forecast_gain(SIZES, gains, AXES, TARGET))
    assert middle < 0
    assert low < -0.03 < high


def test_a_gain_that_stays_is_seen_to_stay():
    gains = [0.10, 0.11, 0.105, 0.10, 0.11, 0.105]
    middle, low, _ = band(forecast_gain(SIZES, gains, AXES, TARGET))
    assert middle == pytest.approx(0.106, abs=0.01)
    assert low > 0.05


def test_saved_steps_are_those_of_a_curve_of_that_slope():
    """A control that falls by 0.3 nats with the logarithm of the steps is 0.1 nats ahead after exp(1/3) as many."""
    assert saved_steps(np.array([0.1]), np.array([0.3]))[0] == pytest.approx(1 - np.exp(-1 / 3))
    assert saved_steps(np.array([-1.0]), np.array([0.0]))[0] == -1.0


def test_too_few_rungs_for_an_interval_are_an_error():
    with pytest.raises(ValueError, match="should have 4 rungs or more for 2 axes, not 3"):
        forecast_gain(SIZES[:3], [0.1, 0.1, 0.1], AXES, TARGET)


def test_a_loss_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="losses should be above 0, not -1"):
        forecast_loss(SIZES, [3.0, 3.0, 3.0, 3.0, 3.0, -1.0], AXES, TARGET)
