import pytest
import torch
from torch import nn

import rlrs
from rlrs.ratios import RatiosError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.attention_norm = nn.LayerNorm(8)
        self.feed_forward = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))


class Model(nn.Module):
    def __init__(self, tie=False):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        if tie:
            self.lm_head.weight = self.embedding.weight


def members(model, group):
    names = {id(p): n for n, p in model.named_parameters()}
    return [names[id(p)] for p in group["params"]]


def test_every_parameter_is_in_one_group_of_its_component():
    model = Model()
    groups = rlrs.param_groups(model, rlrs.Ratios.preset("paper-dense"), lr=1e-3, weight_decay=0.1)
    names = [name for group in groups for name in members(model, group)]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    assert {g["name"] for g in groups} == {
        *("embedding", "attention", "attention/no_decay", "feed_forward", "feed_forward/no_decay"),
        *("norm/no_decay", "unembedding"),
    }
    assert all(g["lr"] == 1e-3 for g in groups)


def test_norms_and_biases_are_not_decayed():
    groups = rlrs.param_groups(Model(), {}, lr=1e-3, weight_decay=0.1)
    for group in groups:
        matrices = {p.ndim == 2 for p in group["params"]}
        assert matrices == {not group["name"].endswith("/no_decay")}
        assert group["weight_decay"] == (0.1 if matrices == {True} else 0.0)


def test_ratios_for_components_that_the_model_lacks_are_an_error_unless_partial():
    with pytest.raises(RatiosError, match="name router, experts, which the model does not have"):
        rlrs.param_groups(Model(), rlrs.Ratios.preset("paper-moe"), lr=1e-3)
    assert rlrs.param_groups(Model(), rlrs.Ratios.preset("paper-moe"), lr=1e-3, partial=True)


def test_tied_embeddings_take_the_embeddings_rate_and_the_group_says_so():
    ratios = {"embedding": (5, 1), "unembedding": (2, 1)}
    with pytest.warns(UserWarning, match="ratio of unembedding does nothing: its weights are tied to embedding"):
        groups = rlrs.param_groups(Model(tie=True), ratios, lr=1.0)
    rlrs.param_groups(
        Model(tie=True), rlrs.Ratios.preset("paper-dense"), lr=1.0
    )  # a preset's is no mistake: a warning would be an error
    assert groups[0]["ungrouped"] == ["unembedding"]
    assert "unembedding" not in {g["component"] for g in groups}
    optimizer = torch.optim.SGD(groups)
    rlrs.RelativeLR(optimizer, ratios, total_steps=5)
    assert next(g["lr"] for g in optimizer.param_groups if g["name"] == "embedding") == 5.0


def test_frozen_parameters_are_left_out_or_kept_on_request():
    model = Model()
    model.embedding.weight.requires_grad = False
    groups = rlrs.param_groups(model, {"embedding": 5}, lr=1.0)
    assert "embedding" not in {g["name"] for g in groups}
    rlrs.RelativeLR(torch.optim.SGD(groups), {"embedding": 5}, total_steps=5)  # frozen is not missing
    kept = rlrs.param_groups(model, {"embedding": 5}, lr=1.0, include_frozen=True)
    assert "embedding" in {g["name"] for g in kept}


def test_user_rules_and_ready_partitions_are_taken():
    model = Model()
    rules = [rlrs.Rule("head", r"^lm_head")]
    by_rules = rlrs.param_groups(model, {"head": 3}, lr=1.0, rules=rules)
    by_parts = rlrs.param_groups(model, {"head": 3}, lr=1.0, parts=rlrs.partition(model, rules))
    assert [g["name"] for g in by_rules] == [g["name"] for g in by_parts]
    with pytest.raises(ValueError, match="give rules or parts, not both"):
        rlrs.param_groups(model, {}, lr=1.0, rules=rules, parts=rlrs.partition(model))


def test_bad_rates_and_empty_models_are_refused():
    with pytest.raises(ValueError, match="lr should be 0 or more, not -1"):
        rlrs.param_groups(Model(), {}, lr=-1)
    with pytest.raises(ValueError, match="ReLU has no parameter to train"):
        rlrs.param_groups(nn.ReLU(), {}, lr=1.0)
