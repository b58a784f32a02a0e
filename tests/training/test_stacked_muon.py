"""Muon over stacks of matrices: each expert as a tensor of its own; and a base rate of Muon's own."""

import copy
import json

import pytest
import torch
from small import make_spec
from torch import nn

import rlrs
from rlrs import StackedMuon
from rlrs.ratios import Ratios
from rlrs.records import Recipe
from rlrs.report.snippet import snippet
from rlrs.search.space import run_at
from rlrs.settings import ConfigError, StudyConfig, TrainingConfig
from rlrs.study.spaces import search_spaces
from rlrs.training import train
from rlrs.training.distributed import World
from rlrs.training.state import TrainState

OPTIONS = {"momentum": 0.9, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 3, bias=False)
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.randn(3, 8, 12))
        self.experts.down = nn.Parameter(torch.randn(3, 12, 8))


def gradients(model, step):
    noise = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=noise)


@pytest.mark.parametrize("ratios", [{}, {"experts": 0.5, "experts/expert.1": (2.0, 0.5)}])
def test_every_expert_moves_as_under_torchs_muon_alone(ratios):
    """Bit for bit where all experts have one rate; to rounding where they have rates of their own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"moe": Mixture()})
    own = {(n, e): p.detach()[e].clone() for n, p in model.moe.experts.named_parameters() for e in range(3)}
    stacks = [group for group in rlrs.param_groups(model, ratios, lr=0.02) if group["component"] == "experts"]
    optimizer = StackedMuon(stacks, **OPTIONS)
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=6, partial=True)
    single = {key: torch.optim.Muon([weight], **OPTIONS) for key, weight in own.items()}
    for step in range(6):
        rates = scheduler.rates()
        gradients(model, step)
        for (name, e), muon in single.items():
            own[name, e].grad = model.moe.experts.get_parameter(name).grad[e].clone()
            muon.param_groups[0]["lr"] = rates.get(f"experts/expert.{e}", rates["experts"])
            muon.step()
        optimizer.step()
        scheduler.step()
    for (name, e), weight in own.items():
        found = model.moe.experts.get_parameter(name)[e]
        torch.testing.assert_close(found, weight, rtol=0 if not ratios else 1e-5, atol=0 if not ratios else 1e-6)


def test_verify_finds_the_rates_of_stacks_real():
    torch.manual_seed(0)
    model, ratios = nn.ModuleDict({"moe": Mixture()}), {"experts": 0.5, "experts/expert.1": 2.0, "router": 3.0}
    groups = rlrs.param_groups(model, ratios, lr=0.02, weight_decay=0.1)
    stacks, rest = rlrs.split_groups(groups, lambda group, weight: weight.ndim == 3)
    optimizers = [StackedMuon(stacks, **OPTIONS), torch.optim.AdamW(rest)]
    scheduler = rlrs.RelativeLR(optimizers, ratios, total_steps=20)
    with rlrs.verify(model, optimizers, scheduler=scheduler) as check:
        for step in range(3):
            gradients(model, step)
            for each in (*optimizers, scheduler):
                each.step()
    assert check.report.ok, check.report


def test_sharded_stacks_move_as_whole_ones():
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.manual_seed(0)
    plain = Mixture()
    sharded = copy.deepcopy(plain)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        optimizers = [StackedMuon(list(model.experts.parameters()), lr=0.1) for model in (plain, sharded)]
        for step in range(3):
            gradients(plain, step)
            for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
                other.grad = DTensor.from_local(one.grad.clone(), other.device_mesh, other.placements)
            for optimizer in optimizers:
                optimizer.step()
        for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
            assert torch.equal(one, other.full_tensor())
    finally:
        dist.destroy_process_group()


def test_stacks_resume_and_skip_what_has_no_gradient():
    weights = [nn.Parameter(torch.ones(2, 4, 6)), nn.Parameter(torch.ones(2, 4, 6))]
    optimizer = StackedMuon([weights[0]], lr=0.1)
    weights[0].grad = torch.randn(2, 4, 6)
    optimizer.step()
    again = StackedMuon([weights[1]], lr=0.1)
    weights[1].data.copy_(weights[0].data)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    weights[1].grad = weights[0].grad.clone()
    optimizer.step()
    again.step()
    assert torch.equal(*weights)
    weights[0].grad = None
    optimizer.step(lambda: None)
    assert torch.equal(*weights)
    with pytest.raises(ValueError, match=r"takes stacks of matrices, \(matrices, rows, columns\), not \(4, 6\)"):
        StackedMuon([torch.ones(4, 6)])


def test_muon_has_the_hidden_matrices_and_stacks_and_adamw_the_rest():
    ratios = {"attention/layer.0": [(0.0, 2.0), (1.0, 1.0)]}  # finer than a component
    state = TrainState(make_spec(optimizer="muon", muon_rate=3.0, n_experts=2, ratios=ratios), 64, World(), "ddp")
    muon, stacked, adamw = state.optimizers
    assert type(muon) is torch.optim.Muon
    names = {weight: name for name, weight in state.model.named_parameters()}
    taken, stacks = ({names[w] for g in each.param_groups for w in g["params"]} for each in (muon, stacked))
    assert taken == {"blocks.0.attention.query_key_value.weight", "blocks.0.attention.output.weight"}
    assert stacks == {"blocks.0.moe.experts.gate_up", "blocks.0.moe.experts.down"}
    assert len(taken | stacks) + sum(len(group["params"]) for group in adamw.param_groups) == len(names)
    assert state.scheduler.rates()["experts"] == pytest.approx(3e-2)
    assert state.scheduler.rates()["attention/layer.0"] == pytest.approx(6e-2)
    assert state.scheduler.rates()["router"] == pytest.approx(1e-2)


def test_the_rate_of_muon_is_a_part_of_a_run_and_of_a_recipe(data, tmp_path):
    spec = make_spec(optimizer="muon")
    moved = run_at({"lr": 0.02, "muon_rate": 4.0}, spec)
    assert moved.training.muon_rate == 4.0
    assert moved.id != run_at({"lr": 0.02}, spec).id
    assert run_at({"lr": 0.02, "muon_rate": 1.0}, spec).id == run_at({"lr": 0.02}, spec).id
    train(moved, data, tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["components"]["attention"]["lr"] == pytest.approx(4 * line["lr_base"])
    recipe = Recipe.from_settings(spec.training, 0.01).at({"lr": 0.02, "muon_rate": 4.0})
    assert recipe.training(spec.training).muon_rate == 4.0
    assert "muon rate 4 (the study: 1)" in recipe.changes(spec.training)
    again = Recipe.from_ratios(Ratios({}, {"base": recipe.base_settings()}), Recipe.from_settings(spec.training, 0.01))
    assert again.digest == recipe.digest
    assert "split_groups(..., lr=0.08)" in snippet(recipe, 100, spec.training.model_dump())
    assert Recipe.from_settings(TrainingConfig(), 0.01).muon_rate is None


def study(optimizer="muon", arms=("uniform", "per_optimizer", "rlrs"), training=None, **search):
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2}
    return StudyConfig.model_validate(
        {
            "name": "two",
            "data": {"tokenizer": "bytes", "sequence_length": 16},
            "training": {"optimizer": optimizer, **(training or {})},
            "proxy": {"model": model, "steps": 6, "batch_size": 4},
            "target": {"model": model, "steps": 12, "batch_size": 4},
            "search": search,
            "comparison": {"arms": list(arms)},
        }
    )


def test_one_tuned_rate_per_optimizer_is_an_arm():
    spaces = search_spaces(study(training={"muon_rate": 2.0}), ["embedding", "attention"])
    assert spaces["uniform"].names == ["lr", "final_fraction"]
    assert spaces["per_optimizer"].names == ["lr", "final_fraction", "muon_rate"]
    assert spaces["per_optimizer"].start()["muon_rate"] == 2.0
    assert "muon_rate" not in spaces["rlrs"].names
    spaces = search_spaces(study(space={"muon_rate": {"low": 0.5, "high": 8.0}}), ["embedding", "attention"])
    assert {arm for arm, space in spaces.items() if "muon_rate" in space.names} == set(spaces)
    found = spaces["per_optimizer"].parameters["muon_rate"]
    assert (found.low, found.high) == (0.5, 8.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamw"}, "per_optimizer needs two optimizers: training.optimizer should be muon, not adamw"),
        (
            {"optimizer": "sgd", "arms": ("uniform", "rlrs"), "training": {"muon_rate": 2}},
            r"training.muon_rate=2 is for training.optimizer=muon, not sgd",
        ),
    ],
)
def test_a_rate_of_muon_without_muon_is_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        study(**options)
    with pytest.raises(ConfigError, match="no parameter 'muon_rate'"):
        search_spaces(study("adamw", ("uniform", "rlrs"), space={"muon_rate": "search"}), ["embedding"])
