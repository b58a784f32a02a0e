import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

import rlrs
from rlrs.ratios import RatiosError

UNIFORM = rlrs.Ratios.preset("uniform")


def groups(*components, lr=1.0, tensor=False):
    rate = torch.tensor(lr) if tensor else lr
    return [
        {
            "name": name,
            "component": name.partition("/")[0],
            "params": [nn.Parameter(torch.ones(2))],
            "lr": rate.clone() if tensor else rate,
        }
        for name in components
    ]


def advance(optimizer, scheduler):
    optimizer.step()
    scheduler.step()


class Toy(nn.Module):
    """A language model small enough for 200 steps in a second, with every kind of group."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(31, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.unembedding = nn.Linear(16, 31, bias=False)

    def forward(self, tokens):
        h = self.embedding(tokens)
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        return self.unembedding(h)


def train(model, optimizer, scheduler, steps, start=0, losses=None):
    losses = [] if losses is None else losses
    for step in range(start, steps):
        tokens = torch.randint(31, (4, 12), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def test_ratios_of_one_are_torchs_adamw_with_lambda_lr_bit_for_bit():
    total, warmup, alpha, lr = 200, 20, 0.0444, 3e-3

    def plain(t):
        if t < warmup:
            return (t + 1) / warmup
        if t >= total:
            return alpha
        return alpha + 0.5 * (1 - alpha) * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))

    torch.manual_seed(0)
    ours = Toy()
    theirs = copy.deepcopy(ours)
    grouped = rlrs.param_groups(ours, UNIFORM, lr=lr, weight_decay=0.1)
    optimizer = torch.optim.AdamW(grouped)
    scheduler = rlrs.RelativeLR(optimizer, UNIFORM, total_steps=total, warmup_steps=warmup, final_fraction=alpha)
    decayed = {id(p) for g in grouped if g["weight_decay"] for p in g["params"]}
    by_decay = [[], []]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        by_decay[id(mine) in decayed].append(other)
    reference = torch.optim.AdamW(
        [{"params": by_decay[1], "weight_decay": 0.1}, {"params": by_decay[0], "weight_decay": 0.0}], lr=lr
    )
    losses = train(ours, optimizer, scheduler, total)
    assert losses == train(theirs, reference, LambdaLR(reference, plain), total)
    assert losses[-1] < losses[0] - 0.05  # it did train
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_ratios_of_one_are_torchs_sequential_linear_and_cosine_to_1e_12():
    total, warmup, alpha, lr = 300, 30, 0.1, 2e-3
    optimizer = torch.optim.SGD(groups("attention", lr=lr))
    scheduler = rlrs.RelativeLR(optimizer, UNIFORM, total_steps=total, warmup_steps=warmup, final_fraction=alpha)
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps its parts by epoch, which torch itself deprecates
        reference = SequentialLR(
            other,
            [
                LinearLR(other, start_factor=1 / warmup, total_iters=warmup - 1),
                CosineAnnealingLR(other, total - warmup, eta_min=alpha * lr),
            ],
            milestones=[warmup],
        )
        for _ in range(total):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"], abs=1e-12)
            advance(optimizer, scheduler)
            advance(other, reference)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    total=st.integers(1, 60),
    alpha=st.floats(0, 1),
    lr=st.floats(1e-6, 1),
    ratios=st.dictionaries(
        st.sampled_from(["embedding", "experts", "router"]), st.tuples(st.floats(0, 20), st.floats(0, 20))
    ),
)
def test_every_group_follows_the_formula_at_every_step(data, total, alpha, lr, ratios):
    warmup = data.draw(st.integers(0, total))
    optimizer = torch.optim.SGD(groups("embedding", "experts", "router", "norm", lr=lr))
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=total, warmup_steps=warmup, final_fraction=alpha)
    for t in range(total + 2):
        for group in optimizer.param_groups:
            s, e = ratios.get(group["name"], (1, 1))
            start, end = lr * s, lr * alpha * e
            if t < warmup:
                expected = start * (t + 1) / warmup
            elif t < total:
                expected = end + 0.5 * (start - end) * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))
            else:
                expected = end
            assert group["lr"] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if t >= total else "error")  # past its end, on purpose
            scheduler.step()


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_it_drives_any_torch_optimizer(optimizer_class):
    optimizer = optimizer_class(groups("embedding", "norm", lr=0.05))
    scheduler = rlrs.RelativeLR(optimizer, {"embedding": (4, 1)}, total_steps=10)
    advance(optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] > 3.5 * optimizer.param_groups[1]["lr"] > 0.15


def test_tensor_rates_are_written_in_place():
    optimizer = torch.optim.AdamW(groups("embedding", "norm", lr=0.5, tensor=True), foreach=False)
    held = [group["lr"] for group in optimizer.param_groups]
    scheduler = rlrs.RelativeLR(optimizer, {"embedding": 4}, total_steps=10, warmup_steps=2)
    advance(optimizer, scheduler)
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, held, strict=True))
    assert [tensor.item() for tensor in held] == [2.0, 0.5]


def test_several_optimizers_are_driven_together_and_saved_by_name():
    def build():
        one = torch.optim.SGD(groups("attention", lr=0.02))
        two = torch.optim.AdamW(groups("embedding", "norm", lr=1e-3))
        return one, two, rlrs.RelativeLR([one, two], {"embedding": (5, 1), "attention": 2}, total_steps=8)

    one, two, scheduler = build()
    for _ in range(3):
        one.step()
        two.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [g["lr"] for o in (one, two) for g in o.param_groups]
    assert set(scheduler.state_dict()["base_lrs"]) == {"attention", "embedding", "norm"}
    other_one, other_two, other = build()
    other.load_state_dict(scheduler.state_dict())
    assert [g["lr"] for o in (other_one, other_two) for g in o.param_groups] == scheduler.get_last_lr()


def test_save_and_load_in_mid_run_is_bit_for_bit(tmp_path):
    ratios = rlrs.Ratios({"embedding": (5, 0.7), "attention": (0.5, 2), "unembedding": [(0, 1), (0.4, 3), (1, 1)]})

    def build():
        torch.manual_seed(1)
        model = Toy()
        optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))
        return model, optimizer, rlrs.RelativeLR(optimizer, ratios, total_steps=40, warmup_steps=4)

    model, optimizer, scheduler = build()
    losses = train(model, optimizer, scheduler, 15)
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
    whole = train(model, optimizer, scheduler, 40, start=15, losses=list(losses))

    model, optimizer, scheduler = build()
    for part, state in zip((model, optimizer, scheduler), torch.load(tmp_path / "state.pt"), strict=True):
        part.load_state_dict(state)
    assert train(model, optimizer, scheduler, 40, start=15, losses=losses) == whole


def test_rates_come_from_the_step_not_from_the_saved_rates():
    optimizer = torch.optim.SGD(groups("experts", "norm"))
    scheduler = rlrs.RelativeLR(optimizer, {"experts": 2}, total_steps=10)
    state = {**scheduler.state_dict(), "last_epoch": 10}
    optimizer.param_groups[0]["lr"] = 77.0
    scheduler.load_state_dict(state)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.1])


def test_groups_may_come_back_in_another_order():
    scheduler = rlrs.RelativeLR(torch.optim.SGD(groups("experts", "norm")), {"experts": 2}, total_steps=10)
    optimizer = torch.optim.SGD(groups("norm", "experts"))
    other = rlrs.RelativeLR(optimizer, {"experts": 2}, total_steps=10)
    other.load_state_dict(scheduler.state_dict())
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 2.0]


def test_an_optimizers_saved_groups_find_their_parameters_by_name():
    def build(order):
        model = {name: nn.Parameter(torch.ones(3)) for name in ("experts", "norm")}
        rows = [{"name": n, "component": n, "params": [model[n]], "lr": 1.0} for n in order]
        optimizer = torch.optim.AdamW(rows)
        return model, optimizer, rlrs.RelativeLR(optimizer, {"experts": (5, 1)}, total_steps=10)

    model, optimizer, scheduler = build(["experts", "norm"])
    model["experts"].grad, model["norm"].grad = torch.full((3,), 2.0), torch.full((3,), 0.5)
    advance(optimizer, scheduler)
    other, resumed, resumed_scheduler = build(["norm", "experts"])
    resumed.load_state_dict(optimizer.state_dict())
    resumed_scheduler.load_state_dict(scheduler.state_dict())
    for name in model:
        assert torch.equal(resumed.state[other[name]]["exp_avg"], optimizer.state[model[name]]["exp_avg"])
    rates = {group["name"]: group["lr"] for group in resumed.param_groups}
    assert rates == {group["name"]: group["lr"] for group in optimizer.param_groups}
    for group in resumed.param_groups:
        assert group["params"][0] is other[group["name"]]


def test_an_optimizers_state_with_a_renamed_group_is_refused_before_anything_is_restored():
    optimizer, other = torch.optim.SGD(groups("experts", "norm")), torch.optim.SGD(groups("expert", "norm"))
    for each in (optimizer, other):
        rlrs.RelativeLR(each, UNIFORM, total_steps=10)
    with pytest.raises(ValueError, match=r"the saved state alone has experts; only the optimizer has expert$"):
        other.load_state_dict(optimizer.state_dict())
    assert [group["name"] for group in other.param_groups] == ["expert", "norm"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["norm"], "the saved state alone has experts$"),
        (["norm", "experts", "router"], "only the optimizer has router$"),
        (["norm", "expert"], "the saved state alone has experts; only the optimizer has expert"),
    ],
)
def test_missing_added_and_renamed_groups_are_named_on_load(names, message):
    state = rlrs.RelativeLR(torch.optim.SGD(groups("experts", "norm")), UNIFORM, total_steps=10).state_dict()
    other = rlrs.RelativeLR(torch.optim.SGD(groups(*names)), UNIFORM, total_steps=10)
    before = other.get_last_lr()
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
    assert other.get_last_lr() == before


def test_the_state_of_another_scheduler_is_refused():
    optimizer = torch.optim.SGD(groups("norm"))
    scheduler = rlrs.RelativeLR(optimizer, UNIFORM, total_steps=10)
    with pytest.raises(ValueError, match="not a state of RelativeLR"):
        scheduler.load_state_dict(LambdaLR(optimizer, lambda t: 1.0).state_dict())


@pytest.mark.parametrize(("given", "said"), [([], "an empty list"), (object(), "object"), ([None], "NoneType")])
def test_what_is_no_optimizer_is_refused_by_its_type(given, said):
    with pytest.raises(TypeError, match=rf"a torch.optim.Optimizer, or a list of them, not {said}$"):
        rlrs.RelativeLR(given, {}, total_steps=10)


def test_groups_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match=r"group 0 has no 'name': make the groups with rlrs.param_groups"):
        rlrs.RelativeLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1), UNIFORM, total_steps=5)
    with pytest.raises(ValueError, match="two parameter groups are named 'norm'"):
        rlrs.RelativeLR([torch.optim.SGD(groups("norm")), torch.optim.SGD(groups("norm"))], UNIFORM, total_steps=5)


def test_ratios_for_a_component_that_no_group_has_are_refused_unless_it_may_be_on_another_rank():
    optimizer = torch.optim.SGD(groups("norm"))
    with pytest.raises(RatiosError, match="name experts, which the optimizer does not have"):
        rlrs.RelativeLR(optimizer, {"experts": 2}, total_steps=5)
    rlrs.RelativeLR(optimizer, {"experts": 2}, total_steps=5, partial=True)


def test_rates_and_base_rate_are_there_for_logs():
    optimizer = torch.optim.SGD(groups("experts", "norm", "norm/no_decay"))
    scheduler = rlrs.RelativeLR(optimizer, {"experts": (2, 1)}, total_steps=10, final_fraction=0.5)
    assert scheduler.rates() == {"experts": 2.0, "norm": 1.0}
    assert scheduler.base_rate() == 1.0


def test_stepping_before_the_optimizer_warns():
    scheduler = rlrs.RelativeLR(torch.optim.SGD(groups("norm")), UNIFORM, total_steps=10)
    with pytest.warns(UserWarning, match=r"before the first optimizer.step"):
        scheduler.step()


@pytest.mark.parametrize("tensor", [False, True])
def test_a_second_writer_of_the_rates_is_named_at_the_next_step(tensor):
    optimizer = torch.optim.AdamW(groups("experts", "norm", lr=0.1, tensor=tensor), foreach=False)
    scheduler = rlrs.RelativeLR(optimizer, {"experts": (2, 1)}, total_steps=10)
    advance(optimizer, scheduler)
    LambdaLR(optimizer, lambda t: 0.5)
    with pytest.raises(RuntimeError, match=r"something else sets learning rates: parameter group 'experts' has 0.05"):
        advance(optimizer, scheduler)


def test_loading_an_optimizers_state_is_no_second_writer():
    def build():
        optimizer = torch.optim.SGD(groups("experts", "norm"))
        return optimizer, rlrs.RelativeLR(optimizer, {"experts": (2, 1)}, total_steps=10)

    optimizer, scheduler = build()
    advance(optimizer, scheduler)
    for order in (0, 1):
        other, resumed = build()
        loads = [
            lambda o=other: o.load_state_dict(optimizer.state_dict()),
            lambda s=resumed: s.load_state_dict(scheduler.state_dict()),
        ]
        for load in loads if order else reversed(loads):
            load()
        advance(other, resumed)
        assert resumed.last_epoch == 2
