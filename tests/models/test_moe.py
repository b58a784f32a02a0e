"""Routing, capacity and the routers' losses, against a loop over tokens and hand-derived values."""

import math

import pytest
import torch

from rlrs.models.moe import Experts, MoE, Routing, assign, router_statistics

E, D, FF = 3, 8, 5


def moe(capacity_factor=1.0, hidden=FF, **options):
    torch.manual_seed(0)
    module = MoE(D, hidden, E, capacity_factor, **options)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return module


def gated(x, gate_up, down):
    gate, up = (x @ gate_up).chunk(2)
    return (torch.nn.functional.silu(gate) * up) @ down


def by_token(module, x_BTD):
    """The definition, one token and one choice at a time."""
    x_ND, K = x_BTD.flatten(0, 1), module.top_k
    room = [len(x_ND)] * E
    if module.capacity_factor is not None:
        room = [min(math.ceil(module.capacity_factor * len(x_ND) * K / E), len(x_ND))] * E
    rows = []
    for x_D in x_ND:
        probabilities_E = torch.softmax(module.router.weight @ x_D, 0)
        chosen = sorted(range(E), key=lambda e, p=probabilities_E: -p[e].item())[:K]
        total = sum(probabilities_E[e] for e in chosen) if module.normalise_gates else 1.0
        row = torch.zeros(D)
        for expert in chosen:
            if room[expert] == 0:
                continue
            room[expert] -= 1
            weights = module.experts.gate_up[expert], module.experts.down[expert]
            row = row + probabilities_E[expert] / total * gated(x_D, *weights)
        if module.shared_experts is not None:
            row = row + gated(x_D, module.shared_experts.gate_up.weight.T, module.shared_experts.down.weight.T)
        rows.append(row)
    return torch.stack(rows).view_as(x_BTD)


@pytest.mark.parametrize(
    ("capacity_factor", "options"),
    [
        *((factor, {}) for factor in (0.5, 1.0, 1.3, 100.0, None)),
        *((factor, {"top_k": 2}) for factor in (0.5, 1.0, 100.0, None)),
        (0.7, {"top_k": 2, "normalise_gates": True}),
        (None, {"top_k": 3, "normalise_gates": True}),
        (1.0, {"shared_width": 7}),
        (None, {"top_k": 2, "shared_width": 7}),
    ],
)
def test_output_and_gradients_are_those_of_a_loop_over_tokens(capacity_factor, options):
    module = moe(capacity_factor, **options)
    x_BTD = torch.randn(4, 7, D, requires_grad=True)
    upstream = torch.randn(4, 7, D)
    wanted = [x_BTD, *module.parameters()]
    fast, _ = module(x_BTD)
    slow = by_token(module, x_BTD)
    torch.testing.assert_close(fast, slow)
    fast_gradients = torch.autograd.grad(fast, wanted, upstream)
    slow_gradients = torch.autograd.grad(slow, wanted, upstream)
    for got, expected in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_without_a_limit_an_expert_may_take_all_or_none():
    module = moe(capacity_factor=None)
    x_BTD = torch.randn(1, 1, D).expand(1, 6, D)  # all the same: all choose one expert
    y_BTD, routing = module(x_BTD)
    torch.testing.assert_close(y_BTD, by_token(module, x_BTD))
    assert sorted(routing.tokens.tolist()) == [0, 0, 6]
    assert router_statistics([routing]).dropped == 0
    y_BTD.sum().backward()
    assert (module.experts.down.grad.flatten(1).abs().sum(1) > 0).tolist() == (routing.tokens > 0).tolist()


def test_several_choices_count_for_load_balance_and_drops():
    module = moe(capacity_factor=0.5, top_k=2)
    _, routing = module(torch.randn(1, 1, D).expand(1, 6, D))  # two experts get 6 choices each and take 0.5 * 12 / 3
    assert routing.capacity == 2
    assert sorted(routing.tokens.tolist()) == [0, 6, 6]
    assert router_statistics([routing]).dropped == pytest.approx(8 / 12)
    torch.nn.init.zeros_(module.router.weight)
    assert module(torch.randn(2, 6, D))[1].load_balancing.item() == pytest.approx(1.0)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}])
def test_no_token_loses_its_place_to_a_later_one(options):
    module = moe(0.4, **options)
    x_BTD = torch.randn(1, 12, D)
    before, routing = module(x_BTD)
    x_BTD[0, 7:] = torch.randn(5, D)
    after, _ = module(x_BTD)
    assert router_statistics([routing]).dropped > 0
    torch.testing.assert_close(before[0, :7], after[0, :7])


def test_slots_are_given_first_come_first_served():
    slots_N, tokens_S, chosen_E = assign(torch.tensor([1, 0, 1, 1, 2, 1]), n_experts=3, capacity=2)
    assert slots_N.tolist() == [2, 0, 3, 6, 4, 6]  # expert 1 is full after tokens 0 and 2; 6 is no slot
    assert tokens_S.tolist() == [1, 6, 0, 2, 4, 6]  # 6 is no token
    assert chosen_E.tolist() == [1, 4, 1]


def test_tokens_beyond_capacity_get_zeros():
    module = moe(capacity_factor=1.0)
    x_BTD = torch.randn(1, 1, D).expand(1, 6, D)  # all the same: all choose one expert, which takes 6 / 3
    y_BTD, routing = module(x_BTD)
    assert (y_BTD[0, :2] != 0).all()
    assert (y_BTD[0, 2:] == 0).all()
    assert sorted(routing.tokens.tolist()) == [0, 0, 6]


def test_router_losses_are_one_and_log_e_squared_when_even():
    module = moe()
    torch.nn.init.zeros_(module.router.weight)
    _, routing = module(torch.randn(2, 6, D))
    assert routing.load_balancing.item() == pytest.approx(1.0)  # 3 * sum_e share_e * 1/3
    assert routing.z_loss.item() == pytest.approx(math.log(3) ** 2)


def test_load_balancing_is_the_number_of_experts_when_one_takes_all():
    module = moe()
    with torch.no_grad():
        module.router.weight.zero_()[0] = 100.0
    _, routing = module(torch.ones(2, 6, D))
    assert routing.load_balancing.item() == pytest.approx(3.0)


def test_load_balancing_pushes_the_router_toward_even_use():
    module = moe()
    x_BTD = torch.randn(8, 32, D)
    optimizer = torch.optim.SGD(module.router.parameters(), lr=0.5)
    _, before = module(x_BTD)
    for _ in range(100):
        optimizer.zero_grad()
        module(x_BTD)[1].load_balancing.backward()
        optimizer.step()
    _, after = module(x_BTD)
    assert after.load_balancing.item() < before.load_balancing.item()


def routing(probabilities, tokens, capacity):
    zero = torch.zeros(())
    return Routing(
        probabilities=torch.tensor(probabilities),
        tokens=torch.tensor(tokens),
        capacity=capacity,
        load_balancing=zero,
        z_loss=zero,
    )


def test_statistics_average_over_blocks_with_experts_ranked_by_load():
    blocks = [
        routing([[0.5, 0.5]] * 4, tokens=[1, 3], capacity=2),  # one of four dropped, entropy ln 2
        routing([[1.0, 0.0]] * 4, tokens=[4, 0], capacity=2),  # two of four dropped, entropy 0
    ]
    statistics = router_statistics(blocks)
    assert statistics is not None
    assert statistics.load == [0.875, 0.125]
    assert statistics.dropped == pytest.approx(0.375)
    assert statistics.entropy == pytest.approx(math.log(2) / 2)


def test_a_dense_model_has_no_router_statistics():
    assert router_statistics([]) is None


@pytest.mark.parametrize("capacity_factor", [1.0, None])
def test_the_router_stays_in_fp32_under_autocast(capacity_factor):
    module = moe(capacity_factor, shared_width=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BTD, routing = module(torch.randn(2, 6, D))
    assert routing.probabilities.dtype == torch.float32
    assert y_BTD.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, {"top_k": 2, "normalise_gates": True}])
def test_grouped_products_are_those_of_one_expert_after_another(options, monkeypatch):
    module = moe(capacity_factor=None, hidden=8, **options)  # rows of whole numbers of 16 bytes
    x_BTD = torch.randn(4, 7, D, requires_grad=True)
    upstream, wanted = torch.randn(4, 7, D), [x_BTD, *module.parameters()]
    slow, _ = module(x_BTD)
    slow_gradients = torch.autograd.grad(slow, wanted, upstream)
    monkeypatch.setattr(Experts, "_has_grouped_products", lambda *_: True)
    fast, _ = module(x_BTD)
    torch.testing.assert_close(fast, slow)
    for got, expected in zip(torch.autograd.grad(fast, wanted, upstream), slow_gradients, strict=True):
        torch.testing.assert_close(got, expected)
