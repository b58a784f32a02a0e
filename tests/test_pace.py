import warnings

import pytest
import torch
from torch import nn

import rlrs


def made(total=20, **options):
    parameter = nn.Parameter(torch.ones(3))
    group = {"name": "norm", "component": "norm", "params": [parameter], "lr": 0.1, **options}
    optimizer = torch.optim.AdamW([group])
    return parameter, optimizer, rlrs.RelativeLR(optimizer, {}, total_steps=total)


def said(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


def test_one_scheduler_step_per_optimizer_step_is_silent():
    _, optimizer, scheduler = made(total=5)

    def run():
        for _ in range(5):
            optimizer.step()
            scheduler.step()

    assert said(run) == []


def test_a_step_per_micro_batch_is_named_once():
    parameter, optimizer, scheduler = made()

    def run():
        for micro in range(40):
            parameter.grad = torch.ones(3)
            if micro % 4 == 3:
                optimizer.step()
            scheduler.step()

    (message,) = said(run)
    assert "before the first optimizer.step(): the first rate of the schedule is skipped" in message
    assert "not in every micro-batch" in message


def test_a_step_per_micro_batch_later_in_the_run_is_named_too():
    _, optimizer, scheduler = made()

    def run():
        for micro in range(8):
            if micro % 4 == 0:
                optimizer.step()
            scheduler.step()

    (message,) = said(run)
    assert "at step 1 without an optimizer.step()" in message


@pytest.mark.parametrize("first", [0, 3])
def test_a_step_that_fp16_left_out_is_told_from_a_micro_batch(first):
    parameter, optimizer, scheduler = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def run():
        for step in range(8):
            scaler.scale(parameter.sum() * (float("inf") if first <= step < first + 3 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad()

    (message,) = said(run)
    assert "gradients overflowed, as a GradScaler does in fp16" in message
    assert "micro-batch" not in message


def test_the_recipe_of_that_warning_keeps_pace():
    parameter, optimizer, scheduler = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def run():
        for step in range(8):
            scaler.scale(parameter.sum() * (float("inf") if step < 3 else 1.0)).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= before:
                scheduler.step()
            optimizer.zero_grad()

    assert said(run) == []
    assert scheduler.last_epoch == 5


def test_a_step_per_epoch_is_named():
    _, optimizer, scheduler = made()

    def run():
        for _ in range(3):
            for _ in range(7):
                optimizer.step()
            scheduler.step()

    assert said(run) == [
        "the optimizer took 7 steps since the last RelativeLR.step(), which counts optimizer steps: call it once after "
        "every optimizer.step(), not once per epoch"
    ]


def test_a_scheduler_that_is_never_stepped_is_named():
    _, optimizer, scheduler = made(total=1000)

    def run():
        for _ in range(250):
            optimizer.step()
        scheduler.step()

    (message,) = said(run)
    assert message.startswith("100 optimizer steps without a RelativeLR.step()")


def test_going_on_past_the_end_is_named():
    _, optimizer, scheduler = made(total=3)

    def run():
        for _ in range(6):
            optimizer.step()
            scheduler.step()

    assert said(run) == [
        "RelativeLR goes on past its end, total_steps=3: rates stay where they ended. Give total_steps in optimizer "
        "steps of the whole run"
    ]


def test_two_optimizers_that_step_together_keep_pace():
    one = torch.optim.SGD([{"name": "a", "component": "norm", "params": [nn.Parameter(torch.ones(1))], "lr": 1.0}])
    two = torch.optim.SGD([{"name": "b", "component": "norm", "params": [nn.Parameter(torch.ones(1))], "lr": 1.0}])
    scheduler = rlrs.RelativeLR([one, two], {}, total_steps=9)

    def run():
        for _ in range(4):
            one.step()
            two.step()
            scheduler.step()

    assert said(run) == []


def test_a_captured_optimizer_whose_replays_run_no_hooks_is_left_alone():
    _, _, scheduler = made(capturable=True)
    assert said(scheduler.step) == []
