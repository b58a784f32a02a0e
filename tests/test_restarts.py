"""Several cycles: against torch's and transformers' warm restarts, and against one schedule per cycle."""

import json

import pytest
import torch

import rlrs
from rlrs.integrations.export import ExportError, export

RATIOS = {"embedding": (5.0, 0.5), "unembedding": 1.0}


def optimizer_of(ratios=RATIOS):
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    return torch.optim.SGD(rlrs.param_groups(model, ratios, lr=0.1))


def curve(schedule, knots=((0, 1), (1, 1))):
    return rlrs.relative_factor(schedule, knots, list(range(schedule.total_steps + 2))).tolist()


def test_equal_cycles_without_ratios_are_torchs_warm_restarts():
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 10, T_mult=2, eta_min=0.01)
    ours = rlrs.RelativeLR(optimizer_of(), {}, total_steps=70, final_fraction=0.1, restarts=rlrs.Restarts(at=(10, 30)))
    for _ in range(70):
        assert ours.rates()["embedding"] == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        ours.optimizer.step()
        theirs.step()
        ours.step()
        scheduler.step()


def test_equal_cycles_after_one_warm_up_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_cosine_with_hard_restarts_schedule_with_warmup(theirs, 4, 40, num_cycles=3)
    restarts = rlrs.Restarts(at=(16, 28), warmup_steps=0)
    base = rlrs.BaseSchedule(total_steps=40, warmup_steps=4, final_fraction=0.0, restarts=restarts)
    for step in range(40):
        if step >= 4:  # in its warm-up the first step has rate 0, and ours 1 / W
            assert base(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd", "constant"])
def test_anew_every_cycle_is_a_schedule_of_its_own(shape):
    knots = [(0, 5.0), (0.5, 2.0), (1, 0.5)]
    options = {"shape": shape, "final_fraction": None if shape == "constant" else 0.2}
    restarts = rlrs.Restarts(at=(12, 32), warmup_steps=3, peak=0.5)
    whole = curve(rlrs.BaseSchedule(total_steps=40, warmup_steps=2, restarts=restarts, **options), knots)
    parts = [
        curve(rlrs.BaseSchedule(total_steps=n, warmup_steps=w, **options), knots) for n, w in ((12, 2), (20, 3), (8, 3))
    ]
    expected = [part[step] * 0.5**k for k, part in enumerate(parts) for step in range((12, 20, 8)[k])]
    assert whole[:40] == pytest.approx(expected, rel=1e-12)
    assert whole[40:] == pytest.approx([parts[-1][-1] * 0.25] * 2, rel=1e-12)


def test_on_a_ratio_goes_once_from_start_to_end():
    restarts = rlrs.Restarts(at=(12,), warmup_steps=2, ratios="on")
    settings = {"total_steps": 24, "warmup_steps": 2, "final_fraction": 0.1, "restarts": restarts}
    base = rlrs.BaseSchedule(**settings)
    relative = [value / base(step) for step, value in enumerate(curve(base, [(0, 4.0), (1, 2.0)])[:25])]
    assert relative == sorted(relative, reverse=True)
    assert relative[:3] == [4.0] * 3
    assert relative[12:15] == pytest.approx([3.0] * 3)  # it stands still while the rate is warmed again
    assert relative[24] == pytest.approx(2.0)
    three = rlrs.BaseSchedule(total_steps=30, restarts=rlrs.Restarts(at=(10, 20), ratios="on"))
    knots = [(0, 4.0), (0.5, 1.0), (1, 2.0)]
    at = {step: value / three(step) for step, value in enumerate(curve(three, knots)[:31])}
    assert [at[step] for step in (0, 10, 20, 30)] == pytest.approx([4.0, 2.0, 4 / 3, 2.0])


def test_a_resumed_run_and_a_loop_without_state_have_the_same_rates():
    restarts = rlrs.Restarts(at=(6,), warmup_steps=1, ratios="on")
    settings = {"total_steps": 12, "warmup_steps": 2, "final_fraction": 0.1, "restarts": restarts}
    whole = rlrs.RelativeLR(optimizer_of(), RATIOS, **settings)
    for step in range(12):
        stateless = rlrs.Ratios(RATIOS).rates(step, lr=0.1, **settings)
        assert whole.rates() == {name: pytest.approx(stateless[name], rel=1e-12) for name in RATIOS}
        if step == 7:
            saved = json.loads(json.dumps(whole.state_dict()))
            resumed = rlrs.RelativeLR(optimizer_of(), RATIOS, **settings)
            resumed.load_state_dict(saved)
            assert resumed.rates() == whole.rates()
            other = rlrs.RelativeLR(optimizer_of(), RATIOS, **{**settings, "restarts": None})
            with pytest.warns(UserWarning, match="rates may jump: when it was saved, restarts was"):
                other.load_state_dict(saved)
        whole.optimizer.step()
        whole.step()


def test_optax_has_the_same_curve_and_exports_refuse_it():
    base = rlrs.BaseSchedule(total_steps=12, restarts=rlrs.Restarts(at=(6,), peak=0.5))
    with pytest.raises(ExportError, match="restarts have no form in megatron: export every cycle as a schedule"):
        export(RATIOS, "megatron", schedule=base, lr=0.1)
    optax = pytest.importorskip("rlrs.integrations.optax")
    rate = optax.rate_schedule(base, (5.0, 0.5), 0.1)
    expected = [0.1 * value for value in curve(base, [(0, 5.0), (1, 0.5)])]
    assert [float(rate(step)) for step in range(14)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": ()}, r"at should be whole numbers of steps, one or more, not \(\)"),
        ({"at": (5, 5)}, r"at should be above 0 and increasing, not \(5, 5\)"),
        ({"at": (2.5,)}, "at should be whole numbers of steps"),
        ({"at": (5,), "warmup_steps": -1}, "warmup_steps should be a whole number from 0, not -1"),
        ({"at": (5,), "peak": 0}, "peak should be above 0, not 0"),
        ({"at": (5,), "ratios": "again"}, "ratios should be 'anew' or 'on', not 'again'"),
        ({"at": (8,)}, "the cycle from step 8 to 10 should have more steps than its warm-up, 2"),
        ({"at": (12,)}, "the cycle from step 12 to 10 should have more steps"),
    ],
)
def test_restarts_that_cannot_be_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        rlrs.BaseSchedule(total_steps=10, warmup_steps=2, restarts=rlrs.Restarts(**options))
    with pytest.raises(ValueError, match="restarts are for a named shape"):
        rlrs.BaseSchedule(total_steps=10, shape=lambda t: 1 - t / 20, restarts=rlrs.Restarts(at=(5,)))
