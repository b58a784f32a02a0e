"""A stock checkpoint, whose optimizer has other groups: moments go to the parameters of their names."""

import copy

import pytest
import torch
from torch import nn

import rlrs


def model(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, width), nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 8))


def step(module, optimizer, scheduler=None):
    nn.functional.cross_entropy(module(torch.arange(8)), torch.arange(8).roll(1)).backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    optimizer.zero_grad()


def one_group(module):
    return torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1)


def two_groups(module):
    """Weights that decay first, then the others, as nanoGPT and transformers have them."""
    weights = list(module.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.1},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def trained(make, steps=3):
    """A checkpoint of a stock run, and the model after it."""
    module = model()
    optimizer = make(module)
    for _ in range(steps):
        step(module, optimizer)
    return module, optimizer


def relative(module):
    return torch.optim.AdamW(rlrs.param_groups(module, {"embedding": 5.0}, lr=1e-3, weight_decay=0.1))


@pytest.mark.parametrize("make", [one_group, two_groups])
def test_moments_are_those_of_the_same_name_and_rates_are_the_present_ones(make):
    before, stock = trained(make)
    after = model()
    after.load_state_dict(before.state_dict())
    optimizer = relative(after)
    rlrs.load_moments(optimizer, after, stock.state_dict(), order=make(after))
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        for key, value in stock.state[old].items():
            assert torch.equal(value, optimizer.state[new][key]), (name, key)
    assert [group["weight_decay"] for group in optimizer.param_groups if group["name"] == "norm/no_decay"] == [0.0]


def test_with_ratios_of_one_the_run_goes_on_as_the_stock_run_does():
    before, stock = trained(two_groups)
    after = model()
    after.load_state_dict(before.state_dict())
    optimizer = torch.optim.AdamW(rlrs.param_groups(after, {}, lr=1e-3, weight_decay=0.1))
    saved = copy.deepcopy(stock.state_dict())  # torch loads tensors without copying them
    rlrs.load_moments(optimizer, after, saved, order=two_groups(after))
    scheduler = rlrs.RelativeLR(optimizer, {}, total_steps=10, schedule="constant", last_epoch=2)
    assert scheduler.last_epoch == 3
    for _ in range(3):
        step(before, stock)
        step(after, optimizer, scheduler)
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new)


def test_names_in_order_do_in_place_of_an_optimizer_also_those_of_a_wrapper():
    before, stock = trained(one_group)
    optimizer = relative(before)
    rlrs.load_moments(
        optimizer, before, stock.state_dict(), order=[f"module.{name}" for name, _ in before.named_parameters()]
    )
    assert torch.equal(optimizer.state[before[3].weight]["exp_avg"], stock.state[before[3].weight]["exp_avg"])


def test_torchs_own_names_and_states_by_name_need_no_order():
    before, _ = trained(one_group)
    named = torch.optim.AdamW(before.named_parameters(), lr=1e-3)
    step(before, named)
    by_name = {
        "state": {f"_orig_mod.{name}": dict(named.state[weight]) for name, weight in before.named_parameters()},
        "param_groups": [{"params": [f"_orig_mod.{name}" for name, _ in before.named_parameters()]}],
    }
    for state in (named.state_dict(), by_name):
        optimizer = relative(before)
        rlrs.load_moments(optimizer, before, state)
        assert torch.equal(optimizer.state[before[0].weight]["exp_avg_sq"], named.state[before[0].weight]["exp_avg_sq"])


def test_what_does_not_fit_is_one_line_and_loads_nothing():
    before, stock = trained(one_group)
    optimizer, state = relative(before), stock.state_dict()
    names = [name for name, _ in before.named_parameters()]
    for order, said in [
        (None, "the saved state is by position: give order"),
        (names[:-1], "order has 6 parameters, and the saved state 7"),
        (names[::-1], "has the shape"),
        ([*names[:-1], "9.bias"], r"no moments of 3.bias; partial=True"),
        (one_group(model()), "that is not the model's: make it over"),
    ]:
        with pytest.raises(ValueError, match=said) as error:
            rlrs.load_moments(optimizer, before, state, order=order)
        assert "\n" not in str(error.value)
        assert not optimizer.state


def test_a_part_of_the_moments_is_loaded_where_that_is_said():
    before, stock = trained(one_group)
    before[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(rlrs.param_groups(before, {}, lr=1e-3))
    names = [name for name, _ in before.named_parameters()]
    with pytest.raises(ValueError, match=r"does not train what the saved state has moments of: 0\.weight"):
        rlrs.load_moments(optimizer, before, stock.state_dict(), order=names)
    rlrs.load_moments(optimizer, before, stock.state_dict(), order=names, partial=True)
    assert len(optimizer.state) == 6
