"""Statistics of a run: worked out by hand, without a trace in the run, and back from a file as they were."""

import copy

import numpy as np
import pytest
import torch

from rlrs.discovery import RunStatistics, StatisticsError, StatisticsProbe
from rlrs.discovery.run_statistics import SUMS


class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.ones(3, 4, 2))


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)
        self.experts = Experts()
        self.lm_head = torch.nn.Linear(4, 10, bias=False)

    def forward(self, tokens):
        return self.lm_head(self.embedding(tokens) @ self.experts.gate_up_proj.sum(0) @ torch.ones(2, 4))


def run(model, steps, **options):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = StatisticsProbe(model, optimizer, **options) if options else None
    for step in range(steps):
        tokens = torch.randint(5, (8,), generator=torch.Generator().manual_seed(step))
        torch.nn.functional.cross_entropy(model(tokens), tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe


def fed(gradients, lr=0.1, every=2, weight=(3.0, 4.0)):
    """One tensor under SGD, with gradients that are given."""
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weight]))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    probe = StatisticsProbe(model, optimizer, every=every)
    for gradient in gradients:
        model.weight.grad = torch.tensor([gradient])
        optimizer.step()
    return probe.statistics()


def test_norms_are_those_of_the_second_step_of_a_pair():
    found = fed([(0.0, 5.0), (6.0, 8.0)])
    assert found.steps.tolist() == [2]
    assert found.gradient()[0, 0] == pytest.approx(10 / np.sqrt(2))  # of two numbers
    # The weights are (3, 4) - 0.1 ((0, 5) + (6, 8)), and the update is 0.1 times 10 long.
    assert found.update_ratio()[0, 0] == pytest.approx(1.0 / np.hypot(2.4, 2.7))
    assert np.isnan(found.second_moment()[0, 0])


def test_signal_is_what_two_batches_agree_on():
    always = fed([(1.0, 0.0)] * 20)
    assert np.isinf(always.signal_to_noise()).all()
    never = fed([(1.0, 0.0), (-1.0, 0.0)] * 10)
    assert (never.signal_to_noise() == 0).all()
    # A mean of 1 in each of two numbers, and noise of variance 4 in each: 2 over 8.
    drawn = torch.Generator().manual_seed(0)
    mixed = fed([tuple((1 + 2 * torch.randn(2, generator=drawn)).tolist()) for _ in range(4000)], lr=0.0)
    signal, noise = mixed.sums["product"].mean(), (mixed.sums["gradient"] - mixed.sums["product"]).mean()
    assert signal / noise == pytest.approx(0.25, rel=0.15)


def test_a_trend_is_the_power_of_the_step():
    found = fed([(10.0 / (1 + step), 0.0) for step in range(60)], every=1)
    assert found.steps[0] == 2
    assert found.trend()[0] == pytest.approx(-1.0, abs=1e-6)


def test_experts_and_rows_of_a_table_are_told_apart():
    found = run(Small(), 20, every=5).statistics()
    assert [(row.tensor, row.component, row.expert) for row in found.rows] == [
        ("embedding.weight", "embedding", -1),
        *(("experts.gate_up_proj", "experts", expert) for expert in range(3)),
        ("lm_head.weight", "unembedding", -1),
    ]
    assert found.rows[1].numbers == 8
    # Tokens 5 to 9 are never met; how many of the others is what a batch of 8 has.
    counts = found.row_counts["embedding.weight"]
    assert counts[5:].sum() == 0
    assert (counts[:5] > 0).all()
    assert found.touched()[:, 0].sum() * 10 == counts.sum()
    assert np.isnan(found.touched()[:, 1:]).all()
    assert (found.second_moment() > 0).all()
    equal = found.gradient()[:, 1:4]
    np.testing.assert_allclose(equal, np.repeat(equal[:, :1], 3, axis=1), rtol=1e-5)


@pytest.mark.parametrize("every", [1, 2, 7])
def test_a_run_is_bit_for_bit_what_it_is_without(every):
    torch.manual_seed(0)
    model = Small()
    other = copy.deepcopy(model)
    run(model, 15, every=every)
    run(other, 15)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_curvature_along_the_update_of_a_parabola():
    model = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.ones(2))})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probe = StatisticsProbe(model, optimizer, every=2)

    def loss():
        return 2.0 * model["a"].square().sum() + 0.25 * model["b"].square().sum()  # second derivatives 4 and 1/2

    def closure():
        loss().backward()

    measured = []
    for _ in range(4):
        loss().backward()
        optimizer.step()
        before = [weight.detach().clone() for weight in model.parameters()]
        measured.append(probe.curvature(closure))
        assert all(torch.equal(w, b) for w, b in zip(model.parameters(), before, strict=True))
        optimizer.zero_grad()
    assert measured == [False, True, False, True]
    found = probe.statistics()
    assert found.curvature_steps.tolist() == [2, 4]
    np.testing.assert_allclose(found.curvatures, [[4.0, 0.5]] * 2, rtol=1e-3)


def test_a_file_gives_back_what_was_measured(tmp_path):
    found = run(Small(), 20, every=5).statistics()
    found.save(tmp_path / "run.npz")
    again = RunStatistics.load(tmp_path / "run.npz")
    assert again.rows == found.rows
    assert again.steps.tolist() == found.steps.tolist()
    for name in SUMS:
        np.testing.assert_allclose(again.sums[name], found.sums[name], rtol=1e-6)
    assert again.row_counts["embedding.weight"].tolist() == found.row_counts["embedding.weight"].tolist()
    assert (tmp_path / "run.npz").stat().st_size < 8_000


def test_what_cannot_be_used_is_one_line(tmp_path):
    model = Small()
    with pytest.raises(ValueError, match="every should be a whole number of steps from 1 on, not 0"):
        StatisticsProbe(model, torch.optim.SGD(model.parameters()), every=0)
    with pytest.raises(ValueError, match="no trained weight of this model"):
        StatisticsProbe(model, torch.optim.SGD(Small().parameters()))
    with pytest.raises(ValueError, match="no two steps of the optimizer were seen"):
        run(model, 1, every=5).statistics()
    with pytest.raises(ValueError, match=r"should end in \.npz"):
        run(model, 5, every=2).save(tmp_path / "run.json")
    run(model, 5, every=2).save(tmp_path / "run.npz")
    content = (tmp_path / "run.npz").read_bytes()
    for bad in (b"", b"text", content[: len(content) // 2]):
        (tmp_path / "bad.npz").write_bytes(bad)
        with pytest.raises(StatisticsError, match=r"bad.npz: not a file of statistics, or damaged"):
            RunStatistics.load(tmp_path / "bad.npz")
