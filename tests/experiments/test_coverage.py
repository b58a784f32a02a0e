"""The intervals and tests of a comparison keep their word on measured noise: the experiment, smaller."""

import math

import numpy as np
import pytest

from experiments.coverage import measure, noise, store
from rlrs.comparison import boundary, confidence_sequence, interval

STUDIES = 20_000
"""Standard error of a share of 95 %: 0.15 points."""


@pytest.fixture(scope="module", params=["demo", "search methods"])
def pool(request):
    return noise.POOLS[request.param]()


@pytest.mark.parametrize("seeds", [4, 8])
def test_students_interval_covers_93_to_97_percent(pool, seeds):
    values = measure.drawn(pool, STUDIES, seeds, np.random.default_rng(1))
    held = np.abs(measure.t_statistics(values)[:, -1]) <= measure.quantile(seeds)
    assert 0.93 < held.mean() < 0.97


def test_looking_after_every_seed_gives_false_gains_to_students_test_and_not_to_the_sequence(pool):
    t = measure.t_statistics(measure.drawn(pool, STUDIES, 20, np.random.default_rng(2)))
    ever = {
        kind: (np.abs(t) > measure.boundaries(kind, 3, 20)).any(axis=1).mean() for kind in (measure.quantile, boundary)
    }
    assert ever[boundary] < 0.055  # 5 %, and three standard errors
    assert ever[measure.quantile] > 0.15


def test_the_simulation_judges_as_the_library_does():
    values = measure.drawn(noise.demo(), 20, 6, np.random.default_rng(3)) - 1.0
    t = measure.t_statistics(values)[:, -1]
    for row, got in zip(values.tolist(), t, strict=True):
        assert (interval(row).standing == "not_different") == (abs(got) <= measure.quantile(6))
        assert (confidence_sequence(row).standing == "not_different") == (abs(got) <= boundary(6))


def test_whole_decisions_between_equal_arms_are_seldom_false_gains():
    (_, _, anytime), *_ = zip(*[iter(measure.decisions(noise.demo(), np.random.default_rng(4), 100))] * 3, strict=False)
    assert anytime["method"] == "stop: anytime"
    assert anytime["value"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


def test_the_figures_come_back_from_the_same_seed():
    one, two = (measure.measured("demo", studies=200, bootstraps=50, whole=2) for _ in range(2))
    assert one == two
    assert {key for row in one for key in row} <= set(store.SCHEMA.names)


def test_committed_figures_are_within_what_was_promised():
    rows = store.load()
    assert all(row["commit"] and "seed" in row and row["method"] for row in rows)
    by_name = {(r["noise"], r["measure"], r["method"], r["seeds"]): r["value"] for r in rows}
    for name in noise.POOLS:
        for seeds in (4, 8):
            assert 0.93 < by_name[name, "coverage", "Student's t", seeds] < 0.97
        assert by_name[name, "coverage at every look", "confidence sequence", 20] > 0.945
        assert by_name[name, "false gains, two arms", "confidence sequence", 20] < 0.05
        assert by_name[name, "false gains, four arms", "stop: anytime", 12] < 0.05
