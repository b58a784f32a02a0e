"""PyTorch Lightning and Fabric."""

import csv
from types import SimpleNamespace

import pytest
import torch
from running import differing_steps, largest_error, needs, run

import rlrs
from rlrs.integrations.lightning import configure

needs("lightning", extra="lightning")


@pytest.fixture(scope="module", params=["lightning_module", "fabric_loop"])
def example(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, example):
    return tmp_path_factory.mktemp(example)


@pytest.fixture(scope="module")
def whole(example, folder):
    return run(example, folder)[0]


def test_every_rate_is_the_formulas(whole, record_property):
    error = largest_error(whole)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(example, folder, whole, record_property):
    resumed = run(example, folder, resume=True)[0]
    differing = differing_steps(resumed, whole)
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


def test_two_processes_have_the_rates_of_one(example, folder, whole, record_property):
    two = run(example, folder / "two", ranks=2)
    for lines in two:
        assert [line["rates"] for line in lines] == [line["rates"] for line in whole]
    record_property("measured", f"equal to one process in {len(two[1])} steps")


def test_the_learning_rate_monitor_shows_components(tmp_path, record_property):
    lines = run("lightning_module", tmp_path)[0]
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    shown = sorted(key for key in rows[0] if key.startswith("learning_rate/"))
    assert shown == sorted(f"learning_rate/{name}" for name in lines[0]["rates"])
    logged = {(int(row["step"]), float(row[shown[0]])) for row in rows if row[shown[0]]}
    name = shown[0].removeprefix("learning_rate/")
    assert logged == {(line["step"], line["rates"][name]) for line in lines}
    record_property("measured", ", ".join(f"`{key}`" for key in shown[:2]) + ", ...")


def fake(steps):
    return SimpleNamespace(trainer=SimpleNamespace(estimated_stepping_batches=steps))


def optimizer():
    group = {"name": "norm", "component": "norm", "params": [torch.nn.Parameter(torch.ones(1))]}
    return torch.optim.SGD([group], lr=1.0)


@pytest.mark.parametrize("steps", [float("inf"), -1])
def test_a_run_of_unknown_length_is_refused(steps):
    with pytest.raises(ValueError, match="does not know its number of steps: give it max_steps, or give total_steps"):
        configure(fake(steps), optimizer(), {})
    configure(fake(steps), optimizer(), {}, total_steps=5)


def test_the_trainers_estimate_and_the_schedules_options_are_used():
    made = configure(fake(8.0), optimizer(), {"norm": 2}, warmup_steps=4, final_fraction=0.5)
    assert made["lr_scheduler"]["interval"] == "step"
    schedule = made["lr_scheduler"]["scheduler"].schedule
    assert schedule == rlrs.BaseSchedule(total_steps=8, warmup_steps=4, final_fraction=0.5)
