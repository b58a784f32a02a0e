"""The one syntax for what is searched, fixed, tied and excluded; and the run of a point."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrs.search import Space, ratios_at, read_space, run_at
from rlrs.settings import ConfigError, ModelConfig, TrainingConfig
from rlrs.training import RunSpec

START = {
    "lr": 8e-3,
    "final_fraction": 0.05,
    "embedding.start": 5.0,
    "embedding.end": 0.5,
    "router.start": 1.0,
    "router.end": 2.0,
}
COMPONENTS = ("embedding", "router", "norm")
DEFAULTS = {
    "weight_decay": 0.1,
    "init_scale": 0.15,
    "warmup_fraction": 0.01,
    "batch_size": 8.0,
    "beta1": 0.9,
    "beta2": 0.95,
}


def read(settings, **options):
    return read_space(settings, START, COMPONENTS, DEFAULTS, **options)


def spec():
    return RunSpec(
        model=ModelConfig(d_model=8, n_heads=2),
        training=TrainingConfig(),
        steps=100,
        batch_size=8,
        seed=0,
        lr=1e-3,
        final_fraction=0.1,
        ratios={},
        data_hash="abc",
    )


def test_without_settings_the_papers_parameters_are_searched_from_the_start():
    space = read({})
    assert space.names == list(START)
    assert space.start() == START


def test_numbers_and_fixed_parameters_stay_and_cost_no_dimension():
    space = read({"router.end": "fixed", "router.start": 3, "lr": 2e-3, "final_fraction": "1e-2"})
    assert space.names == ["embedding.start", "embedding.end"]
    assert space.start() | {} == {**START, "router.start": 3.0, "lr": 2e-3, "final_fraction": 1e-2}


def test_a_tie_follows_its_parameter():
    space = read(
        {"router.end": "= 0.5 * embedding.end", "embedding.end": "= embedding.start"}
        | {"router.end": "= 0.5 * embedding.start"}
    )
    point = space.point(
        [p.coordinate(7.0) if p.name == "embedding.start" else p.coordinate(p.start) for p in space.free]
    )
    assert (point["embedding.end"], point["router.end"]) == (7.0, 3.5)


def test_a_pattern_ties_every_end_to_its_start():
    space = read({"*.end": "= *.start"})
    assert space.names == ["lr", "final_fraction", "embedding.start", "router.start"]
    assert ratios_at(space.start())["embedding"].knots == ((0.0, 5.0), (1.0, 5.0))


def test_an_excluded_component_has_no_ratio():
    space = read({"router": "exclude"})
    assert "router" not in ratios_at(space.start())
    assert "embedding" in ratios_at(space.start())


def test_a_condition_switches_a_parameter_off():
    space = read({"router.end": {"when": "router.start > 1"}})
    on = space.point([p.coordinate({"router.start": 2.0, "router.end": 9.0}.get(p.name, p.start)) for p in space.free])
    off = space.point([p.coordinate({"router.start": 0.5, "router.end": 9.0}.get(p.name, p.start)) for p in space.free])
    assert (on["router.end"], off["router.end"]) == (9.0, 2.0)


def test_bounds_hold_and_default_to_a_reach_around_the_start():
    space = read({"lr": {"low": 4e-3, "high": 1.6e-2}, "weight_decay": "search"})
    low, high = zip(*space.limits(), strict=True)
    lowest, highest = space.point(list(low)), space.point(list(high))
    assert (lowest["lr"], highest["lr"]) == (4e-3, 1.6e-2)
    assert (lowest["weight_decay"], highest["weight_decay"]) == pytest.approx((0.01, 1.0))
    assert highest["final_fraction"] == 1.0
    assert space.moved(space.start(), "lr", 5.0) is None
    assert space.moved(space.start(), "lr", 2.0)["lr"] == 1.6e-2


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_coordinates_are_logarithms_and_come_back(offsets):
    space = Space.around(START)
    coordinates = [x + offset for x, offset in zip(space.coordinates(START), offsets, strict=True)]
    point = space.point(coordinates)
    for name, offset in zip(START, offsets, strict=True):
        low, high = space.parameters[name].low, space.parameters[name].high
        assert point[name] == pytest.approx(min(max(START[name] * math.exp(offset), low), high), rel=1e-5)
    assert space.point(space.coordinates(point)) == point


def test_the_run_of_a_point_has_everything_that_the_point_names():
    settings = {"embedding.50%": 4.0, "router.weight_decay": 0.3, "weight_decay": 0.2, "init_scale": 0.5}
    settings |= {"warmup_fraction": 0.1, "batch_size": 16, "beta1": 0.8, "beta2": 0.99}
    run = run_at(read(settings).start(), spec())
    assert (run.lr, run.final_fraction) == (8e-3, 0.05)
    assert run.ratios["embedding"] == [(0.0, 5.0), (0.5, 4.0), (1.0, 0.5)]
    assert (run.training.weight_decay, run.training.component_weight_decay) == (0.2, {"router": 0.3})
    assert (run.model.init_scale, run.training.warmup_fraction, run.training.betas) == (0.5, 0.1, (0.8, 0.99))
    assert (run.batch_size, run.steps) == (16, 50)  # the same tokens


def test_a_knot_starts_on_the_line_between_start_and_end_and_betas_move_by_their_distance_from_one():
    space = read({"embedding.50%": "search", "beta2": "search"})
    assert space.start()["embedding.50%"] == pytest.approx(math.sqrt(5.0 * 0.5), rel=1e-5)
    assert space.moved(space.start(), "beta2", 5.0)["beta2"] == pytest.approx(0.99)


def test_an_arm_without_a_component_passes_over_what_is_said_of_it():
    settings = {"router.end": "fixed", "*.end": "fixed", "weight_decay": "search", "embedding.end": "= router.end"}
    start = {name: value for name, value in START.items() if "." not in name}
    space = read_space(settings, start, COMPONENTS, DEFAULTS, only=[])
    assert space.names == ["lr", "final_fraction", "weight_decay"]
    start |= {name: value for name, value in START.items() if name.startswith("embedding")}
    space = read_space(settings, start, COMPONENTS, DEFAULTS, only=["embedding"])
    assert space.names == ["lr", "final_fraction", "weight_decay", "embedding.start"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embeding.start": 1}, "search.space: no parameter 'embeding.start'; did you mean 'embedding.start'?"),
        ({"zzz": 1}, "search.space: no parameter 'zzz'; there are lr, final_fraction, embedding.start"),
        (
            {"lr": "fats"},
            "search.space.lr: should be search, fixed, exclude, a number, \"= NAME\" or a mapping, not 'fats'",
        ),
        ({"lr": 20}, "search.space.lr: value should be from 1e-07 to 10, not 20"),
        ({"lr": {"low": 1, "high": 0.1}}, "search.space.lr: start should be within bounds, low below high"),
        ({"lr": {"lo": 1}}, "search.space.lr: unknown key 'lo'; should be low, high, start or when"),
        ({"lr": {"low": "x"}}, "search.space.lr: low should be a number, not 'x'"),
        ({"lr": "exclude"}, "search.space.lr: only ratios can be excluded"),
        (
            {"router.end": "= 2 *"},
            'search.space.router.end: a tie should be "= NAME" or "= FACTOR * NAME", not \'= 2 *\'',
        ),
        (
            {"router.end": "= expert.end"},
            "search.space.router.end: tie names 'expert.end'; should be another parameter",
        ),
        (
            {"router.end": "= router.start", "embedding.end": "= router.end"},
            "search.space.embedding.end: tie names 'router.end', which is tied itself",
        ),
        ({"router.end": {"when": "router.start"}}, 'search.space.router.end: when should be "NAME > VALUE"'),
        ({"router.start": "exclude"}, "search.space.router.end: router has no start, and a ratio needs both: give"),
        (dict.fromkeys(START, "fixed"), "search.space: every parameter is fixed or tied"),
        ({"router.0%": "search"}, "router.0%: a knot should be above 0% and below 100%: those two are router.start"),
        ({"router.100%": "search"}, "router.100%: a knot should be above 0% and below 100%"),
        ({"router.50%": 1, "router.050%": 1}, "router.050%: is the same knot as router.50%: give one of them"),
        ({"router.150%": "search"}, "router.150%: a knot should be above 0% and below 100%"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key_and_what_would_be_right(settings, message):
    with pytest.raises(ConfigError) as caught:
        read(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "bound", "wider"),
    [
        ("final_fraction", 0.05 / 32, "low", 0.05 / 320),
        ("router.end", 2 * 64.0, "high", 2 * 640.0),
        ("final_fraction", 1.0, "high", None),  # more cannot be
        ("embedding.start", 5 / 64 * 1.05, "low", 5 / 640),  # within a hundredth of the range
        ("embedding.start", 5 / 64 * 1.2, None, None),
    ],
)
def test_a_point_at_a_bound_is_told_from_one_inside(name, value, bound, wider):
    space = read({})
    found = space.at_bounds({**space.start(), name: value})
    assert [(at.name, at.bound) for at in found] == ([] if bound is None else [(name, bound)])
    assert [at.wider for at in found] == ([] if bound is None else [wider and pytest.approx(wider, rel=1e-5)])


def test_what_is_fixed_or_tied_is_at_no_bound():
    space = read({"lr": "fixed", "router.end": "= router.start"})
    assert {at.name for at in space.at_bounds({**space.start(), "lr": 1e-7, "router.end": 1e4})} == set()
