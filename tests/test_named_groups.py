import warnings

import numpy as np
import pytest
import torch
from torch import nn

import rlrs


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))


def drive(optimizer, ratios=None, **options):
    return rlrs.RelativeLR(optimizer, ratios or {}, total_steps=10, **options)


def settings(optimizer, key):
    return {group["name"]: group[key] for group in optimizer.param_groups}


# What the optimizer was given, and what the groups bring


def test_what_param_groups_was_not_told_is_the_optimizers():
    optimizer = torch.optim.AdamW(rlrs.param_groups(model(), {"embedding": 5}), lr=5e-3, weight_decay=0.1)
    assert drive(optimizer, {"embedding": 5}).base_rate() == 5e-3
    assert settings(optimizer, "lr")["embedding"] == 2.5e-2
    assert settings(optimizer, "weight_decay") == {"embedding": 0.1, "unembedding": 0.1, "unembedding/no_decay": 0.0}


def test_the_same_given_to_both_is_no_conflict():
    groups = rlrs.param_groups(model(), {}, lr=5e-3, weight_decay=0.1, weight_decays={"embedding": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=5e-3, weight_decay=0.1)
    drive(optimizer)
    assert settings(optimizer, "weight_decay")["embedding"] == 0.0


@pytest.mark.parametrize(
    ("groups", "given", "message"),
    [
        ({"lr": 1e-3}, {"lr": 5e-3}, "AdamW was given lr=0.005, but .* 'embedding' has lr=0.001"),
        ({"lr": torch.tensor(1e-3)}, {"lr": 5e-3}, "AdamW was given lr=0.005, but .* 'embedding' has lr=0.001"),
        ({"weight_decay": 0.2}, {"weight_decay": 0.1}, "was given weight_decay=0.1, .* has weight_decay=0.2"),
        (
            {"weight_decay": 0.2, "decay": "independent"},
            {"weight_decay": 0.1},
            "was given weight_decay=0.1, .* has weight_decay=0.2",
        ),
    ],
)
def test_what_both_are_told_differently_is_named(groups, given, message):
    optimizer = torch.optim.AdamW(rlrs.param_groups(model(), {}, **{"lr": 1e-3, **groups}), foreach=False, **given)
    with pytest.warns(UserWarning, match=message):
        drive(optimizer)


def test_any_other_option_that_every_group_overrides_is_named():
    groups = [{**group, "betas": (0.9, 0.95)} for group in rlrs.param_groups(model(), {}, lr=1e-3)]
    with pytest.warns(UserWarning, match=r"was given betas=\(0.8, 0.9\), .* has betas=\(0.9, 0.95\)"):
        drive(torch.optim.AdamW(groups, betas=(0.8, 0.9)))


def test_the_optimizers_usual_values_are_no_conflict_and_two_optimizers_are_looked_at_apart():
    groups = rlrs.param_groups(model(), {}, lr=3e-3, weight_decay=0.2)
    first, second = rlrs.split_groups(groups, lambda group, p: group["component"] == "embedding", lr=0.02)
    one = torch.optim.SGD(first, lr=0.02, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rlrs.RelativeLR([one, torch.optim.AdamW(second)], {}, total_steps=5)


def test_independent_decay_wants_its_decay_where_it_is_asked_for():
    with pytest.raises(ValueError, match="decay='independent' starts from weight_decay: give it here"):
        rlrs.param_groups(model(), {}, lr=1e-3, decay="independent")


@pytest.mark.parametrize("lr", ["1e-3", np.float32(1e-3), np.float16(1e-3), np.array(1e-3)])
def test_a_rate_may_be_any_number(lr):
    optimizer = torch.optim.AdamW(rlrs.param_groups(model(), {}, lr=lr, weight_decay="0.1"))
    scheduler = drive(optimizer)
    assert scheduler.base_rate() == pytest.approx(1e-3, rel=1e-3)
    assert type(optimizer.param_groups[0]["lr"]) is float


@pytest.mark.parametrize("lr", ["fast", float("nan"), -1, True, torch.tensor(float("inf")), 10**400])
def test_a_rate_that_is_no_number_is_refused(lr):
    with pytest.raises(ValueError, match="lr should be"):
        rlrs.param_groups(model(), {}, lr=lr)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensor_rates_train_under_any_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        module = model()
        groups = rlrs.param_groups(module, {"embedding": 5.0}, lr=torch.tensor(3e-3), weight_decay=0.1)
        optimizer = torch.optim.AdamW(groups, foreach=False)
        scheduler = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=10)
        for _ in range(10):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            scheduler.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert scheduler.base_rate() == pytest.approx(3e-4, rel=1e-2)


def test_a_group_of_ones_own_with_a_coarse_rate_is_no_second_writer():
    rate = torch.tensor(3e-3, dtype=torch.bfloat16)
    group = {"name": "a", "component": "a", "params": [nn.Parameter(torch.ones(1))], "lr": rate}
    optimizer = torch.optim.AdamW([group], foreach=False)
    scheduler = drive(optimizer)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    rate.fill_(1e-5)
    optimizer.step()
    with pytest.raises(RuntimeError, match="something else sets learning rates"):
        scheduler.step()


# Optimizers that set their own step


class Prodigy(torch.optim.Optimizer):
    """The group of Prodigy 1.1: rate, estimate, its start and its coefficient."""

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "d": 1e-6, "d0": 1e-6, "d_coef": 1.0})


class DAdaptLion(torch.optim.Optimizer):
    """The group of D-Adaptation's Lion."""

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "d": 1e-6, "k": 0, "numerator_weighted": 0.0})


class MyAdafactor(torch.optim.Optimizer):
    """Transformers' and fairseq's Adafactor as they are by default."""

    def __init__(self, params, lr=None, relative_step=True):
        super().__init__(params, {"lr": lr, "relative_step": relative_step, "scale_parameter": True})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Prodigy, r"Prodigy estimates its own step \(d\)"),
        (DAdaptLion, r"DAdaptLion estimates its own step \(d\)"),
        (MyAdafactor, "MyAdafactor with relative_step=True sets its own step and reads no rate"),
        (torch.optim.Rprop, "Rprop adapts a step size per weight"),
    ],
)
def test_an_optimizer_that_sets_its_own_step_is_refused_by_name(kind, message):
    with pytest.raises(ValueError, match=message):
        drive(kind(rlrs.param_groups(model(), {"embedding": 2.0}, lr=1e-3)), {"embedding": 2.0})


@pytest.mark.parametrize("kind", [Prodigy, DAdaptLion])
def test_what_estimates_one_step_for_all_takes_the_base_schedule_as_a_multiplier_and_frozen_components(kind):
    for ratios in ({}, {"embedding": 0.0}):
        optimizer = kind(rlrs.param_groups(model(), ratios, lr=1.0))
        assert {group["lr"] for group in drive(optimizer, ratios).optimizer.param_groups} <= {0.0, 1.0}
    with pytest.raises(ValueError, match="takes no rate per component, but for 0: use the optimizer"):
        drive(kind(rlrs.param_groups(model(), {"unembedding": (1, 0.5)}, lr=1.0)), {"unembedding": (1, 0.5)})


def test_schedule_free_takes_held_ratios_alone():
    schedulefree = pytest.importorskip("schedulefree")

    def driven(ratios, **settings):
        optimizer = schedulefree.AdamWScheduleFree(rlrs.param_groups(model(), ratios, lr=1e-3))
        return rlrs.RelativeLR(optimizer, ratios, total_steps=10, **settings)

    driven({"embedding": 2.0}, schedule="constant")
    with pytest.raises(ValueError, match=r"AdamWScheduleFree averages its steps .* not a schedule that decays"):
        driven({"embedding": 2.0})
    with pytest.raises(ValueError, match="not the ratio of embedding, which changes"):
        driven({"embedding": (2.0, 1.0)}, schedule="constant")


def test_the_cap_of_torchs_adafactor_is_warned_of_where_a_rate_is_above_it():
    def driven(lr):
        optimizer = torch.optim.Adafactor(rlrs.param_groups(model(), {"embedding": 5.0}, lr=lr))
        return rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=1000, warmup_steps=10)

    driven(1e-3)
    with pytest.warns(UserWarning, match=r"at step \d+ that of embedding is 0\.\d+ in the place of 0\.\d+\. Lower"):
        driven(2e-2)


def test_without_its_own_step_it_is_driven():
    optimizer = MyAdafactor(rlrs.param_groups(model(), {}, lr=1e-3), relative_step=False)
    assert drive(optimizer).base_rate() == 1e-3


def test_a_group_without_a_rate_is_named():
    with pytest.raises(ValueError, match="parameter group 'embedding' has no 'lr' that a schedule could set"):
        drive(MyAdafactor(rlrs.param_groups(model(), {}), relative_step=False))


def test_a_rate_of_whole_numbers_is_refused():
    group = {"name": "a", "component": "a", "params": [nn.Parameter(torch.ones(1))], "lr": torch.tensor(1)}
    with pytest.raises(ValueError, match=r"'a' has a rate of torch.int64, which has no fractions"):
        drive(torch.optim.SGD([group], foreach=False))
