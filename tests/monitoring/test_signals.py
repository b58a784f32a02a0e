"""What the checks compare: values derived by hand from short series."""

import math

import pytest

from rlrs.monitoring import CHECKS, ComponentNumbers, Observation, Thresholds
from rlrs.monitoring.checker import QUIET, Checker
from rlrs.monitoring.signals import ENOUGH, WINDOW, Signals


def feed(signals, observations):
    values = {}
    for observation in observations:
        values = signals.update(observation)
    return values


def losses(*values):
    return [Observation(step=number + 1, loss=loss) for number, loss in enumerate(values)]


def components(step, **numbers):
    return Observation(step=step, components={name: ComponentNumbers(**of) for name, of in numbers.items()})


def test_a_spike_is_counted_in_robust_standard_deviations():
    # Median 2.5, median absolute deviation 0.5: (6.2065 - 2.5) / (1.4826 * 0.5) = 5.
    values = feed(Signals(), losses(*[2.0, 3.0] * 4, 6.2065))
    assert values["loss_spike", None] == pytest.approx(5.0)


def test_equal_losses_leave_a_spread_of_a_thousandth():
    values = feed(Signals(), losses(*[2.0] * 8, 2.01))
    assert values["loss_spike", None] == pytest.approx(5.0)


def test_nothing_is_said_of_a_spike_before_the_window_says_anything():
    assert ("loss_spike", None) not in feed(Signals(), losses(*[2.0] * (ENOUGH - 1), 90.0))


def test_one_high_loss_is_no_rise_and_two_are():
    signals = Signals()
    feed(signals, losses(4.0, 3.0, 2.0, 2.0))  # medians of three: 3, 2
    assert signals.update(Observation(step=5, loss=9.0))["loss_rise", None] == 0.0
    assert signals.update(Observation(step=6, loss=8.0))["loss_rise", None] == 6.0


def test_what_is_not_finite_is_said_of_the_component_while_it_is_not_in_all_of_them():
    numbers = {"a": ComponentNumbers(grad_norm=math.inf), "b": ComponentNumbers(grad_norm=1.0)}
    values = Signals().update(Observation(step=1, loss=math.nan, components=numbers))
    assert [values["non_finite", where] for where in ("a", "b", None)] == [1.0, 0.0, 0.0]
    values = Signals().update(Observation(step=1, components={"a": numbers["a"]}))
    assert [values["non_finite", where] for where in ("a", None)] == [0.0, 1.0]
    assert Signals().update(Observation(step=1, loss=math.nan))["non_finite", None] == 1.0


def test_values_that_are_not_finite_do_not_stay_in_a_window():
    signals = Signals()
    feed(signals, losses(*[2.0, 3.0] * 4, math.nan, math.inf))
    assert signals.update(Observation(step=99, loss=6.2065))["loss_spike", None] == pytest.approx(5.0)


@pytest.mark.parametrize(("lr", "scheduled", "off"), [(0.3, 0.1, 2.0), (0.1, 0.1, 0.0), (0.0, 0.0, 0.0)])
def test_a_rate_is_compared_with_the_scheduled_one(lr, scheduled, off):
    values = Signals().update(components(1, a={"lr": lr, "scheduled_lr": scheduled}))
    assert values["rate_off_schedule", "a"] == pytest.approx(off)


def test_a_rate_where_the_schedule_has_none_is_off_without_limit():
    assert Signals().update(components(1, a={"lr": 0.1, "scheduled_lr": 0.0}))["rate_off_schedule", "a"] == math.inf


def test_clipping_by_one_component_is_what_it_takes_from_the_others():
    # Norm 5 clipped to 1 leaves 1/5; without a (norm 4), b's norm of 3 would leave 1/3: 0.2 / (1/3) = 0.6.
    seen = Observation(
        step=1, clip=1.0, components={"a": ComponentNumbers(grad_norm=4.0), "b": ComponentNumbers(grad_norm=3.0)}
    )
    values = feed(Signals(), [seen] * CHECKS["clip_starvation"].patience)
    assert values["clip_starvation", "a"] == pytest.approx(0.6)
    assert values["clip_starvation", "b"] == 1.0


def test_gradients_within_the_clip_starve_nobody():
    seen = Observation(
        step=1, clip=9.0, components={"a": ComponentNumbers(grad_norm=4.0), "b": ComponentNumbers(grad_norm=0.1)}
    )
    assert feed(Signals(), [seen] * 3)["clip_starvation", "a"] == 1.0


def test_a_gradient_is_compared_with_the_median_of_its_window():
    signals = Signals()
    feed(signals, [components(n, a={"grad_norm": 2.0}) for n in range(ENOUGH)])
    assert signals.update(components(99, a={"grad_norm": 8.0}))["gradient_spike", "a"] == 4.0


@pytest.mark.parametrize("numbers", [{"grad_norm": 0.0}, {"grad_norm": 1.0, "update_ratio": 0.0}])
def test_no_gradient_or_no_update_at_a_rate_is_a_dead_component(numbers):
    assert feed(Signals(), [components(n, a={"lr": 1.0, **numbers}) for n in (1, 2)])["dead_component", "a"] == 0.0


def test_a_component_at_rate_0_is_not_dead():
    seen = components(1, a={"lr": 0.0, "grad_norm": 0.0, "update_ratio": 0.0})
    assert not [key for key in feed(Signals(), [seen, seen]) if key[0] in ("dead_component", "update_ratio_low")]


def test_growth_is_over_the_first_norm_that_is_not_zero():
    signals = Signals()
    feed(signals, [components(1, a={"weight_norm": 0.0}), components(2, a={"weight_norm": 2.0})])
    assert signals.update(components(3, a={"weight_norm": 5.0}))["weight_growth", "a"] == 2.5


@pytest.mark.parametrize(
    ("load", "evenness"), [((5, 5, 5, 5), 1.0), ((9, 0, 0, 0), 0.0), ((0.5, 0.5, 0, 0), 0.5), ((1, 1), 1.0)]
)
def test_collapse_is_the_entropy_of_the_load_over_that_of_an_even_one(load, evenness):
    seen = Observation(step=1, router_loads=(load,))
    assert feed(Signals(), [seen] * 3)["router_collapse", "router"] == pytest.approx(evenness)


def test_the_worst_of_several_routers_counts():
    seen = Observation(step=1, router_loads=((1.0, 1.0), (1.0, 0.0)))
    assert feed(Signals(), [seen] * 3)["router_collapse", "router"] == 0.0


def test_a_router_may_be_uniform_at_first():
    seen = Observation(step=1, router_loads=((1.0, 1.0),), router_entropy=math.log(2))
    signals = Signals()
    assert ("router_uniform", "router") not in feed(signals, [seen] * 2 * WINDOW)
    assert feed(signals, [seen] * 3)["router_uniform", "router"] == pytest.approx(1.0)


def test_the_gap_is_over_its_smallest():
    signals = Signals()
    feed(signals, losses(2.0, 2.0, 2.0))
    for valid in (2.5, 2.2, 2.6):  # gaps 0.5, 0.2, 0.6
        values = signals.update(Observation(step=9, valid_loss=valid))
    assert values["generalisation_gap", None] == pytest.approx(0.0)  # the milder of 0 and 0.4
    assert signals.update(Observation(step=9, valid_loss=2.7))["generalisation_gap", None] == pytest.approx(0.4)


def test_a_slow_step_is_no_alarm_and_three_are():
    watch = Checker(Thresholds())
    for step in range(1, ENOUGH + 1):
        watch.look(Observation(step=step, speed=100.0))
    found = [len(watch.look(Observation(step=9, speed=40.0))) for _ in range(3)]
    assert found == [0, 0, 1]


def test_windows_come_back_from_their_state():
    signals, other = Signals(), Signals()
    series = [
        Observation(
            step=n, loss=2 + n % 2, speed=9.0, components={"a": ComponentNumbers(grad_norm=1.0, weight_norm=2.0)}
        )
        for n in range(9)
    ]
    feed(signals, series)
    other.load_state_dict(signals.state_dict())
    after = Observation(
        step=10, loss=4.0, speed=3.0, components={"a": ComponentNumbers(grad_norm=3.0, weight_norm=3.0)}
    )
    assert other.update(after) == signals.update(after)


def test_an_alarm_is_raised_once_and_again_after_the_check_was_well():
    watch = Checker(Thresholds())
    bad, well = Observation(step=1, loss=math.nan), Observation(step=2, loss=1.0)
    assert [len(watch.look(bad)) for _ in range(3)] == [1, 0, 0]
    for _ in range(QUIET - 1):
        watch.look(well)
    assert watch.look(bad) == []
    for _ in range(QUIET):
        watch.look(well)
    assert [alarm.check for alarm in watch.look(bad)] == ["non_finite"]


def rise(watch, *, updates, gradients):
    """The first alarm of the loss when these are the factors of components in the step before it rises."""
    for step in range(1, 12):
        numbers = {name: {"grad_norm": 1.0, "update_ratio": 1e-3, "lr": 1.0} for name in updates}
        watch.look(Observation(step=step, loss=2.0, components=components(1, **numbers).components))
    factors = {
        name: {"grad_norm": gradients[name], "update_ratio": 1e-3 * updates[name], "lr": 1.0} for name in updates
    }
    seen = Observation(step=12, loss=9.0, components=components(1, **factors).components)
    return next(alarm for alarm in watch.look(seen) if alarm.check == "loss_spike")


STILL = {"attention": 1.0, "router": 1.0, "norm": 1.0}


def test_the_component_that_moves_further_than_usual_is_named():
    alarm = rise(Checker(Thresholds()), updates={**STILL, "attention": 5.0}, gradients=STILL)
    assert alarm.component == "attention"
    assert alarm.cause == "attention moves at 5 times its usual update: its rate is too high"


def test_all_components_that_move_further_than_usual_are_the_base_rate():
    alarm = rise(Checker(Thresholds()), updates=dict.fromkeys(STILL, 5.0), gradients=STILL)
    assert alarm.component is None
    assert "the base rate is too high" in alarm.cause


def test_a_gradient_alone_names_its_component():
    alarm = rise(Checker(Thresholds()), updates=STILL, gradients={**STILL, "router": 4.0})
    assert alarm.component == "router"
    assert alarm.cause.startswith("the gradient of router is 4 times its usual, its update is not")


def test_gradients_that_are_all_up_are_the_data():
    alarm = rise(Checker(Thresholds()), updates=STILL, gradients={"attention": 1.5, "router": 1.5, "norm": 5.0})
    assert alarm.component is None
    assert "gradients of all components are up" in alarm.cause


def test_a_loss_without_a_component_that_stands_out_is_the_data():
    alarm = rise(Checker(Thresholds()), updates=STILL, gradients=STILL)
    assert alarm.component is None
    assert "the data are another" in alarm.cause


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_says_where_its_default_is_from_and_has_a_section_in_the_docs(check):
    from pathlib import Path

    assert check.source
    assert check.default != check.tightest or not check.calibrated
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert f"### {check.name}\n" in page
