"""A run that goes on: copies, pickles, states loaded in any order, changed settings, a second phase."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import rlrs
from rlrs.models import build_model
from rlrs.settings import ModelConfig

PER_EXPERT = {"experts": 1.0, "experts/expert.0": 0.0}


def made(lr=1e-2, total=100, ratios=None, **options):
    torch.manual_seed(0)
    model = nn.Module()
    model.embed, model.lm_head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
    ratios = {"embedding": 5.0} if ratios is None else ratios
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=lr))
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=total, schedule="linear", final_fraction=0.0, **options)
    return optimizer, scheduler


def advance(optimizer, scheduler, steps=1):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()


def saved(steps=10, **options):
    optimizer, scheduler = made(**options)
    advance(optimizer, scheduler, steps)
    return copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))


def rates(optimizer):
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


# Copies


def experts():
    torch.manual_seed(0)
    model = build_model(ModelConfig(d_model=16, n_layers=1, n_heads=2, n_experts=4), 32)
    optimizer = torch.optim.SGD(rlrs.param_groups(model, PER_EXPERT, lr=0.1))
    return model, optimizer, rlrs.RelativeLR(optimizer, PER_EXPERT, total_steps=10)


def moved(optimizer, closure=False):
    """How far expert 0 and expert 1 of a fused tensor go in a step."""
    (parameter, *_) = next(group for group in optimizer.param_groups if group.get("slices"))["params"]
    before = parameter.detach().clone()

    def gradients():
        for group in optimizer.param_groups:
            for each in group["params"]:
                each.grad = torch.ones_like(each)

    if closure:
        optimizer.step(gradients)
    else:
        gradients()
        optimizer.step()
    return [(parameter[i] - before[i]).abs().max().item() for i in range(2)]


def test_ratios_per_expert_of_a_flattened_tensor_are_refused():
    _, optimizer, _ = experts()
    group = next(group for group in optimizer.param_groups if group.get("slices"))
    group["params"] = [nn.Parameter(parameter.detach().flatten()) for parameter in group["params"]]
    with pytest.raises(
        RuntimeError, match=r"'experts' has ratios per expert or token, 'experts/expert.0' .* it was flattened"
    ):
        moved(optimizer)


def pickled(parts):
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "torch.save"])
def test_a_copy_keeps_rates_per_expert_loading_by_name_and_its_pace(copied):
    parts = experts()
    _, optimizer, scheduler = copied(parts)
    assert optimizer is scheduler.optimizer
    assert moved(optimizer) == pytest.approx([0.0, 0.1])
    scheduler.step()
    assert moved(parts[1]) == pytest.approx([0.0, 0.1])  # the one that was copied keeps its own
    state = optimizer.state_dict()
    state["param_groups"] = [{**group, "name": group["name"] + "x"} for group in state["param_groups"]]
    with pytest.raises(ValueError, match="parameter groups differ from the saved ones"):
        optimizer.load_state_dict(state)
    with pytest.warns(UserWarning, match="without an optimizer.step"):
        scheduler.step()


def test_a_copy_is_driven_apart_from_what_it_was_copied_from():
    optimizer, scheduler = made()
    advance(optimizer, scheduler, 3)
    other, resumed = copy.deepcopy((optimizer, scheduler))
    advance(other, resumed, 2)
    assert (scheduler.last_epoch, resumed.last_epoch) == (3, 5)
    assert rates(optimizer)["embedding"] == pytest.approx(5e-2 * 0.97)
    assert rates(other)["embedding"] == pytest.approx(5e-2 * 0.95)


def test_an_optimizer_that_is_exchanged_for_another_is_driven_in_its_place():
    model, _, scheduler = experts()
    other = torch.optim.SGD(rlrs.param_groups(model, PER_EXPERT, lr=0.1))
    scheduler.optimizer = other
    assert moved(other) == pytest.approx([0.0, 0.1])
    scheduler.step()
    assert rates(other)["norm/no_decay"] == scheduler.rates()["norm"] < 0.1


def test_gradients_may_come_from_a_closure():
    _, optimizer, _ = experts()
    assert moved(optimizer, closure=True) == pytest.approx([0.0, 0.1])


# States


def test_states_may_be_loaded_in_either_order():
    optimizer_state, scheduler_state = saved()
    for order in (0, 1):
        optimizer, scheduler = made()
        loads = [
            lambda o=optimizer: o.load_state_dict(optimizer_state),
            lambda s=scheduler: s.load_state_dict(scheduler_state),
        ]
        for load in loads if order else loads[::-1]:
            load()
        assert rates(optimizer) == pytest.approx({"embedding": 5e-2 * 0.9, "unembedding": 1e-2 * 0.9})
        advance(optimizer, scheduler)


def test_a_new_peak_rate_is_said_with_both_values_and_has_a_way_to_count():
    optimizer_state, scheduler_state = saved()
    optimizer, scheduler = made(lr=1e-3)
    optimizer.load_state_dict(optimizer_state)
    with pytest.warns(
        UserWarning, match=r"'embedding' \(and 1 more groups\) was 0.01 when it was saved, and is 0.001 here"
    ):
        scheduler.load_state_dict(scheduler_state)
    assert scheduler.base_rate() == pytest.approx(9e-3)

    optimizer, scheduler = made(lr=1e-3)
    scheduler_state["base_lrs"] = scheduler.state_dict()["base_lrs"]
    for order in ((optimizer, optimizer_state), (scheduler, scheduler_state), (optimizer, optimizer_state)):
        order[0].load_state_dict(order[1])
    assert rates(optimizer)["embedding"] == pytest.approx(5e-3 * 0.9)
    advance(optimizer, scheduler)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"total": 200},
            "rates may jump: when it was saved, total_steps was 100 and is 200 here; the present values count",
        ),
        ({"warmup_steps": 5}, "warmup_steps was 0 and is 5 here"),
        (
            {"ratios": {"embedding": 2.0}},
            r"ratio of embedding was \{'start': 5.0, 'end': 5.0\} and is \{'start': 2.0, 'end': 2.0\}",
        ),
    ],
)
def test_another_length_or_other_ratios_are_said(changed, message):
    optimizer_state, scheduler_state = saved()
    optimizer, scheduler = made(**changed)
    optimizer.load_state_dict(optimizer_state)
    with pytest.warns(UserWarning, match=message):
        scheduler.load_state_dict(scheduler_state)


def test_a_state_without_what_it_was_made_with_still_loads():
    _, scheduler_state = saved()
    del scheduler_state["made_with"]
    _, scheduler = made()
    scheduler.load_state_dict(scheduler_state)
    assert scheduler.last_epoch == 10


def test_only_the_optimizers_state_loaded_names_load_state_dict():
    optimizer_state, _ = saved()
    optimizer, scheduler = made()
    optimizer.load_state_dict(optimizer_state)
    with pytest.raises(
        RuntimeError, match=r"the optimizer's state was loaded, and not the scheduler's: .*load_state_dict"
    ):
        advance(optimizer, scheduler)


def test_a_scheduler_made_after_loading_says_what_is_missing_before_the_first_step():
    optimizer_state, scheduler_state = saved()
    torch.manual_seed(0)
    optimizer, _ = made()
    fresh = torch.optim.AdamW([{**g, "params": list(g["params"])} for g in optimizer.param_groups], lr=1e-3)
    fresh.load_state_dict(optimizer_state)
    scheduler = rlrs.RelativeLR(fresh, {"embedding": 5.0}, total_steps=100, schedule="linear", final_fraction=0.0)
    resumed = copy.deepcopy(scheduler)
    with pytest.warns(UserWarning, match=r"loaded after 10 steps .* begins at step 0.*last_epoch=9"):
        fresh.step()
    resumed.load_state_dict(scheduler_state)
    advance(resumed.optimizer, resumed)  # without a word
    assert resumed.base_rate() == pytest.approx(1e-2 * 0.89)


def test_last_epoch_is_the_last_step_that_is_done():
    _, scheduler = made()
    _, other = made(last_epoch=9)
    scheduler.load_state_dict(saved()[1])
    assert other.get_last_lr() == scheduler.get_last_lr()


def test_last_epoch_that_the_optimizers_state_contradicts_is_said():
    optimizer, scheduler = made()
    advance(optimizer, scheduler, 10)
    scheduler = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=100, last_epoch=10)
    with pytest.warns(UserWarning, match="last_epoch=10 .* has 10 steps: after 10 steps it is 9"):
        advance(optimizer, scheduler)


# A second phase


def test_a_second_schedule_starts_from_the_rates_that_the_groups_were_given():
    optimizer, scheduler = made()
    advance(optimizer, scheduler, 10)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    second = rlrs.RelativeLR(optimizer, {"embedding": 2.0}, total_steps=10)
    assert (second.base_rate(), rates(optimizer)["embedding"]) == (1e-4, 2e-4)
    advance(optimizer, second)


@pytest.mark.parametrize("how", ["float", "fill", "replace"])
def test_a_second_schedule_may_start_where_the_first_ended(how):
    optimizer, scheduler = made(lr=1e-2 if how == "float" else torch.tensor(1e-2), ratios={"embedding": (5.0, 1.0)})
    advance(optimizer, scheduler, 90)
    end = scheduler.rates()["unembedding"]
    for group in optimizer.param_groups:
        if how == "fill":
            group["lr"].fill_(end)
        else:
            group["lr"] = end * 1.0 if how == "float" else torch.tensor(end)
    second = rlrs.RelativeLR(optimizer, {}, total_steps=10)
    assert list(rates(optimizer).values()) == pytest.approx([end, end], rel=1e-6)
    advance(optimizer, second)


def test_a_second_schedule_on_a_loaded_state_does_not_take_its_decayed_rates_for_peaks():
    optimizer_state, _ = saved(50)
    optimizer, _ = made()
    optimizer.load_state_dict(optimizer_state)
    second = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=100)
    assert second.base_rate() == pytest.approx(1e-2)
    with pytest.warns(UserWarning, match="state was loaded after 50 steps"):
        optimizer.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_second_schedule_on_a_copy_starts_from_the_first_ones_peak(copied):
    optimizer, scheduler = made()
    advance(optimizer, scheduler, 10)
    optimizer, scheduler = copied((optimizer, scheduler))
    assert rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=10).base_rate() == pytest.approx(1e-2)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_second_schedule_over_untouched_rates_starts_from_the_first_ones_peak(tensor):
    optimizer, scheduler = made(lr=torch.tensor(1e-2) if tensor else 1e-2)
    advance(optimizer, scheduler, 10)
    second = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=10)
    assert second.base_rate() == pytest.approx(1e-2)
    advance(optimizer, second)


def test_rates_that_another_scheduler_has_changed_are_refused():
    optimizer = torch.optim.SGD([{"name": "a", "component": "a", "params": [nn.Parameter(torch.ones(1))], "lr": 1.0}])
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5)
    with pytest.raises(ValueError, match=r"'a' has lr=0.5 and initial_lr=1, of another scheduler: set both"):
        rlrs.RelativeLR(optimizer, {}, total_steps=10)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 0.5
    assert rlrs.RelativeLR(optimizer, {}, total_steps=10).base_rate() == 0.5


# Groups that come and go


def test_a_named_group_that_is_added_is_driven_from_the_next_optimizer_step_on():
    optimizer, scheduler = made(ratios={"embedding": 5.0})
    advance(optimizer, scheduler, 3)
    late = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late], "lr": 1e-2, "name": "norm", "component": "norm", "weight_decay": 0.0})
    advance(optimizer, scheduler)
    assert rates(optimizer)["norm"] == rates(optimizer)["unembedding"] == pytest.approx(1e-2 * 0.96)
    late.grad = torch.full((2,), 1.0)
    assert scheduler.state_dict()["base_lrs"]["norm"] == 1e-2


def test_an_added_group_has_its_ratio_in_the_very_next_step():
    optimizer, scheduler = made(ratios={"embedding": 5.0})
    advance(optimizer, scheduler)
    late = nn.Parameter(torch.zeros(2))
    late.grad = torch.ones(2)
    optimizer.add_param_group(
        {"params": [late], "lr": 1e-2, "name": "more", "component": "embedding", "weight_decay": 0.0}
    )
    optimizer.step()
    assert late.tolist() == pytest.approx([-5e-2 * 0.99] * 2, rel=1e-4)


def test_an_unnamed_group_is_an_error_that_says_what_it_holds_and_what_to_do():
    optimizer, scheduler = made()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 4))]})
    with pytest.raises(ValueError, match=r"group 2 has no 'name'.*include_frozen=True.*\(3, 4\)"):
        optimizer.step()
    assert scheduler.state_dict()["last_epoch"] == 0  # what there is can still be saved


def test_a_group_that_is_gone_is_named():
    optimizer, scheduler = made()
    advance(optimizer, scheduler)
    optimizer.param_groups.pop()
    with pytest.raises(ValueError, match="parameter group 'unembedding' is gone"):
        optimizer.step()
    fresh, other = made()
    fresh.step()
    fresh.param_groups.pop(0)
    with pytest.raises(ValueError, match="parameter group 'embedding' is gone"):
        other.step()
