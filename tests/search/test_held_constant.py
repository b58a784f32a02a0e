"""The space of the arm `constant`: of one with free ends, what holds every ratio at its start."""

import pytest

from rlrs.ratios import Ratios
from rlrs.search import held_constant, read_space, start_point
from rlrs.settings import ConfigError

COMPONENTS = ("embedding", "experts")


def held(settings, **ratios):
    first = start_point(1e-3, 0.1, Ratios(ratios), COMPONENTS)
    return held_constant(read_space(settings, first, COMPONENTS, {"weight_decay": 0.1}))


def at(space, **values):
    """The point with these values for free parameters, by names with `_` in the place of dots."""
    values = {name.replace("__", "."): value for name, value in values.items()}
    assert set(values) == set(space.names)
    return space.point([p.coordinate(values[p.name]) for p in space.free])


def test_ends_and_knots_follow_the_start():
    space = held({"embedding.50%": "search"}, embedding=(5.0, 0.5))
    point = at(space, lr=1e-3, final_fraction=0.1, embedding__start=7.0, experts__start=0.3)
    ratios = {name: value for name, value in point.items() if "." in name}
    assert ratios == {
        "embedding.start": 7.0,
        "embedding.50%": 7.0,
        "embedding.end": 7.0,
        "experts.start": 0.3,
        "experts.end": 0.3,
    }


def test_the_search_starts_from_the_start_ratios():
    assert held({}, embedding=(5.0, 0.5)).start()["embedding.end"] == 5.0


def test_what_is_fixed_excluded_or_searched_beside_the_ratios_stays_so():
    space = held({"experts": "exclude", "weight_decay": "search", "embedding.*": 2.0})
    assert space.names == ["lr", "final_fraction", "weight_decay"]
    assert {n: v for n, v in space.start().items() if "." in n} == {"embedding.start": 2.0, "embedding.end": 2.0}


def test_a_component_with_any_free_knot_has_a_free_ratio():
    space = held({"*.start": 1.0})
    assert space.names == ["lr", "final_fraction", "embedding.start", "experts.start"]


def test_ties_between_components_stay_and_those_on_ends_move_to_starts():
    space = held({"experts.start": "= 0.5 * embedding.start", "experts.end": "= 0.25 * embedding.end"})
    point = at(space, lr=1e-3, final_fraction=0.1, embedding__start=4.0)
    assert (point["experts.start"], point["experts.end"], point["embedding.end"]) == (2.0, 2.0, 4.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"*.end": "= *.start"},
        {"*.start": "= 2 * *.end"},
        {"embedding.start": "= experts.end", "experts.start": "= embedding.end"},
    ],
)
def test_ties_within_a_component_or_in_a_circle_leave_one_free_ratio_each(settings):
    space = held(settings)
    assert space.names == ["lr", "final_fraction", "embedding.start", "experts.start"]


def test_conditions_on_ends_are_on_starts():
    space = held({"experts.start": {"when": "embedding.end > 2"}})
    free = {"lr": 1e-3, "final_fraction": 0.1}
    assert at(space, **free, embedding__start=3.0, experts__start=0.5)["experts.end"] == 0.5
    assert at(space, **free, embedding__start=1.5, experts__start=0.5)["experts.end"] == 1.0


def test_nothing_left_to_search_is_one_line():
    with pytest.raises(ConfigError, match="nothing is left to search"):
        held({"lr": "fixed", "final_fraction": "fixed", "*.start": "fixed", "*.end": "fixed"})
