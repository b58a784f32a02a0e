import pytest
import torch
from running import STEPS, differing_steps, largest_error, needs, run

needs("accelerate", extra="accelerate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("accelerate")


@pytest.fixture(scope="module")
def whole(folder):
    return run("accelerate_loop", folder)[0]


@pytest.fixture(scope="module")
def two(folder):
    return run("accelerate_loop", folder / "two", ranks=2)


def test_every_rate_is_the_formulas_while_gradients_accumulate(whole, record_property):
    error = largest_error(whole)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(folder, whole, record_property):
    resumed = run("accelerate_loop", folder, resume=True)[0]
    differing = differing_steps(resumed, whole)
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


def test_two_processes_have_the_rates_of_one(whole, two, record_property):
    assert len(two) == 2
    for lines in two:
        assert [line["rates"] for line in lines] == [line["rates"] for line in whole]
    record_property("measured", f"equal to one process in {len(two[1])} steps")


def test_two_processes_together_have_the_loss_of_one(whole, two):
    for one, a, b in zip(whole, *two, strict=True):
        assert (a["loss"] + b["loss"]) / 2 == pytest.approx(one["loss"], rel=1e-4)
        assert a["loss"] != b["loss"]


def test_a_resumed_run_on_two_processes_is_the_uninterrupted_one(folder, two):
    resumed = run("accelerate_loop", folder / "two", ranks=2, resume=True)
    assert [differing_steps(resumed[rank], two[rank]) for rank in range(2)] == [0, 0]


def test_an_optimizer_that_is_not_prepared_is_refused():
    from accelerate import Accelerator

    from rlrs.integrations.accelerate import prepare_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    with pytest.raises(ValueError, match=r"SGD is not prepared: give what accelerator\.prepare"):
        prepare_scheduler(Accelerator(cpu=True), optimizer, {}, total_steps=STEPS)


def test_a_skipped_step_does_not_move_the_rates():
    from accelerate import Accelerator

    from rlrs.integrations.accelerate import prepare_scheduler

    group = {"name": "norm", "component": "norm", "params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0}
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.SGD([group]))
    scheduler = prepare_scheduler(accelerator, optimizer, {}, total_steps=10)
    optimizer.step()
    optimizer._is_overflow = True  # what fp16's gradient scaler leaves after an overflow
    scheduler.step()
    assert scheduler.get_last_lr() == [1.0]
    optimizer._is_overflow = False
    scheduler.step()
    assert scheduler.get_last_lr()[0] < 1.0
