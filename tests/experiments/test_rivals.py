"""The published rivals: factors worked out by hand, and that a factor is one on the rate."""

import pytest
import torch

from experiments.learned.rivals import Grouped, ScaledUpdates, Spectral, tail_exponents


class Held:
    def __init__(self, factors):
        self.held = factors

    def factors(self, step, moments):
        return self.held


class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(16, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, bias=False)
        self.norm = torch.nn.LayerNorm(8)
        self.lm_head = torch.nn.Linear(8, 16, bias=False)


def test_tail_exponents_are_hills_over_the_larger_half():
    # Singular values 1, 1, 2, 4: eigenvalues of the larger half 4 and 16, so 1 + 2 / log(16 / 4).
    exponent = 1 + 2 / torch.log(torch.tensor(4.0))
    matrix = torch.diag(torch.tensor([1.0, 1.0, 2.0, 4.0]))
    torch.testing.assert_close(tail_exponents(matrix), exponent)
    stack = tail_exponents(torch.stack([matrix, matrix.square()]))
    torch.testing.assert_close(stack.reshape(-1), torch.stack([exponent, 1 + (exponent - 1) / 2]))
    assert stack.shape == (2, 1, 1)


def test_the_heaviest_tail_has_the_least_rate_and_tables_the_most():
    model = Pair()
    first, second = model.attention.in_proj_weight, model.attention.out_proj.weight
    with torch.no_grad():
        second.copy_(torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 100])))
    rule = Spectral(model, 160)
    found = rule.factors(0, {})
    assert set(found) == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "embedding.weight",
        "lm_head.weight",
    }
    assert found["embedding.weight"] == 1.0  # it begins at the base rate, and is approached
    found = rule.factors(1, {})
    assert (found["attention.out_proj.weight"], found["attention.in_proj_weight"]) == (1.0, 3.0)
    assert found["embedding.weight"] == 3.0
    with torch.no_grad():
        first.copy_(first.square())
    assert rule.factors(33, {}) == found  # held after a fifth of the run


@pytest.mark.long
def test_groups_that_stand_out_are_brought_back_to_the_layer():
    rule = Grouped(100, clusters=2, memory=0.0)
    # Sizes 1 (six of them) and 8, around a mean of 0: the layer's median deviation is 1.
    moment = torch.tensor([1.0, -1, 1, -1, 1, -1, 8, -8])
    assert rule.factors(0, {"w": moment}) == {}
    factors = rule.factors(5, {"w": moment})["w"]
    torch.testing.assert_close(factors, torch.tensor([1.0] * 6 + [0.125] * 2))
    smooth = Grouped(100, clusters=2, memory=0.5).factors(5, {"w": moment})["w"]
    torch.testing.assert_close(smooth[6:], torch.tensor([0.5625] * 2))


@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_a_factor_is_one_on_the_rate(factor):
    def moved(lr, factors):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4, bias=False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
        ScaledUpdates(model, [optimizer], Held(factors))
        for step in range(4):
            torch.manual_seed(step)
            model.weight.grad = torch.randn(4, 4)
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(moved(0.01, {"weight": factor}), moved(0.01 * factor, {}), rtol=1e-5, atol=1e-7)
