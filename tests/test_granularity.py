"""Ratios per layer and per expert."""

import math

import pytest
import torch
from torch import nn

import rlrs
from architectures import build
from rlrs.components import PartitionError, refine
from rlrs.ratios import RatiosError

E, D, F = 3, 4, 6


class Fused(nn.Module):
    """Experts in one tensor each, (experts, ...), beside a router."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(D, E, bias=False)
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.randn(E, D, F))
        self.experts.up_bias = nn.Parameter(torch.randn(E, F))
        self.experts.down = nn.Parameter(torch.randn(E, F, D))


def model_of(layers=2):
    torch.manual_seed(0)
    model = nn.Module()
    model.blocks = nn.ModuleList()
    for _ in range(layers):
        block = nn.Module()
        block.moe = Fused()
        model.blocks.append(block)
    return model.double()


RATIOS = {"experts": (1.0, 0.5), "experts/expert.0": (3.0, 0.0), "experts/expert.2-": (0.25, 2.0)}
SETTINGS = {"total_steps": 12, "warmup_steps": 3, "final_fraction": 0.1}


def train(model, optimizers, schedulers, steps, first=0):
    for step in range(first, first + steps):
        noise = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def ours(model, ratios=RATIOS, **options):
    groups = rlrs.param_groups(model, ratios, lr=0.05, weight_decay=0.3)
    optimizer = torch.optim.AdamW(groups, **options)
    return optimizer, rlrs.RelativeLR(optimizer, ratios, **SETTINGS)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
def test_experts_in_one_tensor_train_as_if_each_were_a_tensor_with_its_own_rate(options):
    """Against AdamW on every expert's own tensor, its rate set by hand from the paper's formula, with weight decay."""
    model, single = model_of(), model_of()
    optimizer, scheduler = ours(model, **options)
    experts = {name: p for name, p in single.named_parameters() if "experts" in name}
    own = {(n, e): p.detach()[e].clone().requires_grad_() for n, p in experts.items() for e in range(E)}
    ratio = {0: (3.0, 0.0), 1: (1.0, 0.5), 2: (0.25, 2.0)}
    by_hand = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 0.0 if "bias" in n else 0.3, "expert": e} for (n, e), p in own.items()]
    )
    for step in range(12):
        for group in by_hand.param_groups:
            start, end = 0.05 * ratio[group["expert"]][0], 0.05 * 0.1 * ratio[group["expert"]][1]
            cosine = end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - 3) / 9))
            group["lr"] = start * (step + 1) / 3 if step < 3 else cosine
        noise = torch.Generator().manual_seed(step)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
            for e in range(E if name in experts else 0):
                own[name, e].grad = parameter.grad[e].clone()
        optimizer.step()
        scheduler.step()
        by_hand.step()
    for (name, e), parameter in own.items():
        torch.testing.assert_close(model.get_parameter(name)[e], parameter, rtol=1e-12, atol=1e-12)


def test_an_expert_with_ratio_0_stays_as_it_is_to_the_bit():
    model = model_of()
    before = {name: p.detach()[1].clone() for name, p in model.named_parameters() if "experts" in name}
    optimizer, scheduler = ours(model, {"experts": 1.0, "experts/expert.1": 0.0})
    train(model, [optimizer], [scheduler], 5)
    for name, old in before.items():
        assert torch.equal(model.get_parameter(name)[1], old)
        assert not torch.equal(model.get_parameter(name)[0], old)


def test_equal_ratios_per_expert_are_one_ratio_to_the_bit():
    models = model_of(), model_of()
    for model, ratios in zip(
        models, ({"experts": (2, 1)}, {"experts/expert.0-2": (2, 1), "experts": (2, 1)}), strict=True
    ):
        train(model, *([each] for each in ours(model, ratios)), 6)
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(one, other)


def test_rates_and_ratios_of_every_slice_are_there_for_logs():
    _, scheduler = ours(model_of())
    rates = scheduler.rates()
    assert rates["experts"] == pytest.approx(0.05 / 3)
    assert rates["experts/expert.0"] == pytest.approx(3 * 0.05 / 3)
    assert rates["experts/expert.2-"] == pytest.approx(0.25 * 0.05 / 3)
    assert scheduler.relative_rates()["experts/expert.0"] == pytest.approx(3.0)


def test_a_resumed_run_with_ratios_per_expert_is_the_uninterrupted_one(tmp_path):
    whole, part, later = model_of(), model_of(), model_of()
    optimizer, scheduler = ours(whole)
    train(whole, [optimizer], [scheduler], 12)
    optimizer, scheduler = ours(part)
    train(part, [optimizer], [scheduler], 5)
    state = {"model": part.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer, scheduler = ours(later)
    later.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    train(later, [optimizer], [scheduler], 7, first=5)
    for one, other in zip(whole.parameters(), later.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loaded_state_does_not_bring_its_own_ratios_per_expert():
    model = model_of()
    optimizer, _ = ours(model)
    plain, _ = ours(model_of(), {"experts": 1.0})
    optimizer.load_state_dict(plain.state_dict())
    assert any("slices" in group for group in optimizer.param_groups)
    plain.load_state_dict(ours(model_of())[0].state_dict())
    assert not any("slices" in group for group in plain.param_groups)


def test_a_second_scheduler_for_one_optimizer_scales_once():
    models = model_of(), model_of()
    for model, times in zip(models, (1, 2), strict=True):
        groups = rlrs.param_groups(model, RATIOS, lr=0.05)
        optimizer = torch.optim.AdamW(groups)
        for _ in range(times):
            scheduler = rlrs.RelativeLR(optimizer, RATIOS, **SETTINGS)
        train(model, [optimizer], [scheduler], 4)
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(one, other)


def test_sharded_experts_are_scaled_as_whole_ones():
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    plain, sharded = model_of(), model_of()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        optimizer, scheduler = ours(sharded)
        reference, its_scheduler = ours(plain)
        for step in range(4):
            noise = torch.Generator().manual_seed(step)
            for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
                one.grad = torch.randn(one.shape, generator=noise, dtype=one.dtype)
                other.grad = DTensor.from_local(one.grad.clone(), other.device_mesh, other.placements)
            for each in (optimizer, reference, scheduler, its_scheduler):
                each.step()
        for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
            assert torch.equal(one, other.full_tensor())
    finally:
        dist.destroy_process_group()


def test_layers_have_groups_and_rates_of_their_own():
    model = build("llama").to_empty(device="cpu")
    ratios = {"attention": (1, 0.5), "attention/layer.1-": (4, 2), "norm/layer.0": 3}
    groups = rlrs.param_groups(model, ratios, lr=0.1)
    optimizer = torch.optim.SGD(groups)
    rlrs.RelativeLR(optimizer, ratios, total_steps=10, warmup_steps=1)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(0.1)
    assert rates["model.layers.1.self_attn.q_proj.weight"] == pytest.approx(0.4)
    assert rates["model.layers.1.mlp.up_proj.weight"] == pytest.approx(0.1)
    assert rates["model.layers.0.input_layernorm.weight"] == pytest.approx(0.3)
    assert rates["model.norm.weight"] == pytest.approx(0.1)
    assert {g["weight_decay"] for g in groups if g["component"].startswith("norm")} == {0.0}


def test_layer_decay_is_a_power_of_the_distance_from_the_top():
    model = build("gpt2")  # two layers, tied
    ratios = rlrs.layer_decay(model, 0.5, {"attention": (2, 1), "embedding": 4})
    assert (ratios["attention/layer.0"].start, ratios["attention/layer.0"].end) == (0.5, 0.25)
    assert (ratios["attention/layer.1"].start, ratios["feed_forward/layer.1"].start) == (1.0, 0.5)
    assert ratios["embedding"].start == 4 * 0.125
    assert ratios["norm"].start == 1.0  # the final norm
    assert ratios["norm/layer.0"].start == 0.25
    groups = rlrs.param_groups(model, ratios, lr=0.1)
    rlrs.RelativeLR(torch.optim.SGD(groups), ratios, total_steps=10)
    with pytest.raises(RatiosError, match=r"attention/layer\.0"):
        rlrs.layer_decay(model, 0.5, ratios)


def test_experts_that_are_modules_of_their_own_are_components_of_their_own():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Module()])
    model.blocks[0].moe = moe = nn.Module()
    moe.gate = nn.Linear(D, E, bias=False)
    moe.experts = nn.ModuleList(nn.Sequential(nn.Linear(D, F), nn.Linear(F, D)) for _ in range(E))
    parts = rlrs.partition(model)
    finer = refine(model, parts, ["experts/expert.1-2"])
    assert finer.slices == {}
    assert {name.split(".")[4] for name in finer.parts["experts/expert.1-2"]} == {"1", "2"}
    assert {name.split(".")[4] for name in finer.parts["experts"]} == {"0"}


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"experts/expert.3": 1}, r"'experts/expert.3' holds no parameter: experts has experts 0 to 2"),
        ({"router/layer.2-9": 1}, r"'router/layer.2-9' holds no parameter: router has layers 0 to 1"),
        ({"experts/layers.1": 1}, r"should look like attention/layer.0-3"),
        ({"experts/layer.3-1": 1}, r"ends before it begins"),
        ({"attention/layer.0": 1}, r"no component 'attention'; it has experts, router"),
        ({"router/layer.0-1": 1, "router/layer.1-": 2}, r"overlap"),
        ({"experts/layer.0": 1, "experts/expert.0": 2}, r"both by layer and by expert"),
        ({"router/expert.0": 1}, r"the experts in blocks.0.moe.router.weight of shape \(3, 4\) cannot be told apart"),
    ],
)
def test_what_cannot_be_is_one_clear_line(ratios, message):
    with pytest.raises(PartitionError, match=message):
        rlrs.param_groups(model_of(), ratios, lr=1.0)


def test_on_a_pipeline_stage_a_range_may_hold_nothing():
    rlrs.param_groups(model_of(), {"experts/layer.7-9": 1, "attention/layer.0": 1}, lr=1.0, partial=True)


def test_a_fused_tensor_has_one_independent_decay():
    with pytest.raises(ValueError, match="one weight decay"):
        rlrs.param_groups(model_of(), RATIOS, lr=1.0, weight_decay=0.1, decay="independent")
    model = model_of()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("experts" not in name)
    rlrs.param_groups(model, RATIOS, lr=1.0, weight_decay=0.1, decay="independent")
