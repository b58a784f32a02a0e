"""A smaller version of experiments/monitoring, and what its results say."""

import json

import pytest
import torch

from experiments.monitoring import measure
from experiments.monitoring.runs import AT, FAULTS, Loop
from rlrs.monitoring import Thresholds

RESULTS = json.loads(measure.RESULTS.read_text())


@pytest.fixture(scope="module")
def thresholds():
    # Nothing is said of speed: tests run side by side.
    calibrated = Thresholds.model_validate(RESULTS["thresholds"])
    return calibrated.model_copy(update={"disabled": ("throughput",)})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "until"),
    [
        ("ratio of attention 30", 10),
        ("ratio of the unembedding 0.001", 20),
        ("attention gets no gradient", AT + 10),
    ],
)
def test_a_planted_fault_is_named(name, until, thresholds):
    fault = FAULTS[name]
    alarms = Loop(7, **fault.options).train(fault.plant, thresholds=thresholds, until=until).alarms
    assert [alarm for alarm in alarms if fault.names(alarm) and alarm.step > fault.start]
    assert [alarm for alarm in alarms if alarm.step <= fault.start] == []


def test_a_healthy_run_has_no_alarm(thresholds):
    assert Loop(77).train(thresholds=thresholds, until=60).alarms == []


def test_the_tables_are_what_the_results_give():
    page = measure.README.read_text()
    assert measure.document(page, RESULTS) == page, "python -m experiments.monitoring.measure --part tables"


def test_every_fault_was_tried_on_three_seeds_and_every_row_says_where_it_is_from():
    faults = {(row["fault"], row["seed"]) for row in RESULTS["rows"] if row["kind"] == "fault"}
    assert faults == {(name, seed) for name in FAULTS for seed in measure.SEEDS}
    assert len(FAULTS) >= 20
    assert sum(row["kind"] == "healthy" for row in RESULTS["rows"]) == 50
    healthy = [row["alarms"] for row in RESULTS["rows"] if row["kind"] == "healthy"]
    assert sum(map(len, healthy)) <= 1
    assert all(row["commit"] and row["method"] and "seed" in row for row in RESULTS["rows"])


def test_public_rules_are_the_published_ones():
    steady = [2.0, 2.2] * 60
    assert measure.z_score([*steady, 2.5]) == [121]  # mean 2.1, deviation 0.1
    assert measure.z_score([*steady, 2.39]) == []
    assert measure.kill_loss_spike([*steady, *[4.5] * 5]) == [125]  # the fifth in a row at twice the mean
    assert measure.kill_loss_spike([*steady, *[4.5] * 4, 2.0]) == []
    assert measure.kill_loss_spike([11.0] * 201) == [201]
