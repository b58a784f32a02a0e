"""Ratios learned in one run: what moves them, that nothing is lost on the way, and what comes out."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import rlrs
from rlrs.discovery import EqualUpdates, Hypergradient, LearnedLR
from rlrs.discovery.update_probe import UpdateProbe
from rlrs.ratios import RatiosError

STEPS = 40


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(32, 8)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
        self.norm = torch.nn.LayerNorm(8)
        self.lm_head = torch.nn.Linear(8, 32, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.lm_head(self.norm(x + self.mlp(x)))


def adamw(groups):
    return [torch.optim.AdamW(groups)]


def sgd(groups):
    return [torch.optim.SGD(groups, momentum=0.9)]


def muon(groups):
    matrices, rest = rlrs.split_groups(groups, lambda g, p: g["component"] == "feed_forward" and p.ndim == 2)
    return [torch.optim.Muon(matrices), torch.optim.AdamW(rest)]


def made(optimizers=adamw, lr=1e-2, ratios=None, **options):
    torch.manual_seed(0)
    model = Small()
    made_of = optimizers(rlrs.param_groups(model, ratios or {}, lr=lr))
    options = {"total_steps": STEPS, "warmup_steps": 4, **options}
    return model, made_of, LearnedLR(made_of, ratios, **options)


def train(model, optimizers, scheduler, steps, first=0):
    for step in range(first, first + steps):
        tokens = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(step))
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), (tokens.flatten() * 5 + 1) % 32)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    return [weight.detach().clone() for weight in model.parameters()]


def equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def test_without_a_rule_it_is_relative_lr_bit_for_bit():
    ratios = {"embedding": (5.0, 0.5)}
    model, optimizers, scheduler = made(ratios=ratios, rule=None)
    torch.manual_seed(0)
    plain = Small()
    optimizer = torch.optim.AdamW(rlrs.param_groups(plain, ratios, lr=1e-2))
    other = rlrs.RelativeLR(optimizer, ratios, total_steps=STEPS, warmup_steps=4)
    assert equal(train(model, optimizers, scheduler, STEPS), train(plain, [optimizer], other, STEPS))


def test_a_step_is_the_sign_of_the_alignment_times_the_share_of_the_reach():
    # One weight, gradient 1 throughout: the update goes on as it went, so every normalised alignment is 1.
    weight = torch.nn.Parameter(torch.zeros(1))
    group = {"name": "embedding", "component": "embedding", "params": [weight], "lr": 0.1}
    optimizer = torch.optim.SGD([group])
    rule = Hypergradient(reach=2.0, spread=math.inf, memory=1e-12)  # each is divided by its own size
    scheduler = LearnedLR(optimizer, total_steps=4, schedule="linear", rule=rule)
    logs = []
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        logs.append(scheduler.logarithms[0])
    # Shares of linear decay are 4, 3, 2, 1 tenths; the first step has no update before it.
    assert logs == pytest.approx([0.0, 2 * 0.3, 2 * 0.5, 2 * 0.6])
    assert scheduler.rates()["embedding"] == pytest.approx(0.1 * 0.1 * math.exp(1.2))


def test_a_rate_that_is_too_low_rises_and_one_that_is_too_high_falls():
    low, high = torch.nn.Parameter(torch.full((8,), 5.0)), torch.nn.Parameter(torch.full((8,), 5.0))
    groups = [
        {"name": n, "component": n, "params": [w], "lr": 0.1} for n, w in (("attention", low), ("embedding", high))
    ]
    optimizer = torch.optim.SGD(groups)
    scheduler = LearnedLR(optimizer, {"attention": 0.1, "embedding": 18.0}, total_steps=60, final_fraction=1.0)
    for step in range(60):
        noise = torch.randn(8, generator=torch.Generator().manual_seed(step))
        low.grad, high.grad = low.detach() - noise, high.detach() - noise
        optimizer.step()
        scheduler.step()
    attention, embedding, base = scheduler.logarithms
    assert attention > 0.5  # its gradients keep their sign
    assert embedding < -0.3  # theirs turns at every step
    assert base == 0


@pytest.mark.parametrize("optimizers", [adamw, sgd, muon])
@pytest.mark.parametrize("rule", [Hypergradient(base=True), EqualUpdates()], ids=["hypergradient", "equal"])
def test_a_resumed_run_learns_the_same_bits(optimizers, rule):
    whole = made(optimizers, rule=rule)
    after = train(*whole, STEPS)
    first = made(optimizers, rule=rule)
    train(*first, 17)
    saved = pickle.loads(
        pickle.dumps([first[0].state_dict(), *[o.state_dict() for o in first[1]], first[2].state_dict()])
    )
    model, made_of, scheduler = made(optimizers, rule=rule)
    model.load_state_dict(saved[0])
    for optimizer, state in zip(made_of, saved[1:], strict=False):
        optimizer.load_state_dict(state)
    scheduler.load_state_dict(saved[-1])
    assert equal(train(model, made_of, scheduler, STEPS - 17, first=17), after)
    assert scheduler.logarithms == whole[2].logarithms
    assert scheduler.course() == whole[2].course()
    assert scheduler.learned().provenance == whole[2].learned().provenance


def test_a_copy_goes_on_by_itself():
    parts = made()
    train(*parts, 10)
    other = copy.deepcopy(parts)
    assert equal(train(*other, 10, first=10), train(*parts, 10, first=10))
    assert other[2].logarithms == parts[2].logarithms != [0.0] * 4


def test_what_is_learned_is_held_within_the_bound():
    parts = made(rule=Hypergradient(reach=500.0, spread=math.inf, bound=3.0))
    train(*parts, STEPS)
    course = parts[2].course()[1]
    values = [value for name in parts[2].learning for value in course[name]]
    assert max(values) <= 3.0 + 1e-9
    assert min(values) >= 1 / 3.0 - 1e-9
    assert max(values) > 2.9


def test_norms_follow_the_base_unless_they_are_named():
    assert made()[2].learning == ["embedding", "feed_forward", "unembedding"]
    assert made(components=["norm", "embedding"])[2].learning == ["embedding", "norm"]


@pytest.mark.parametrize("base", [0.0, 0.4, -0.7])
def test_replayed_ratios_give_the_learned_rates(base):
    """Of a course that ratios can express: its multiples do not change."""
    ratios = {"embedding": (5.0, 0.5)}
    parts = made(ratios=ratios, rule=None, final_fraction=0.2)
    parts[2].move_to([0.3, -0.5, 0.0, base])
    rates = []
    for _ in range(STEPS):
        rates.append(parts[2].rates())
        train(*parts, 1)
    found = parts[2].learned()
    settings = found.provenance["base"]
    replayed = rlrs.RelativeLR(
        torch.optim.AdamW(rlrs.param_groups(Small(), found, lr=settings["lr"])),
        found, total_steps=STEPS, warmup_steps=4, final_fraction=settings["final_fraction"],
    )  # fmt: skip
    # The move takes effect with the first step of the scheduler.
    for step in range(1, STEPS):
        replayed.step(step)
        assert replayed.rates() == pytest.approx(rates[step], rel=1e-4)


def test_learned_ratios_are_an_ordinary_file(tmp_path):
    parts = made()
    train(*parts, STEPS)
    parts[2].learned((0.0, 0.5, 1.0)).save(tmp_path / "ratios.yaml")
    found = rlrs.Ratios.load(tmp_path / "ratios.yaml")
    assert [progress for progress, _ in found["embedding"].knots] == [0.0, 0.5, 1.0]
    learned = found.provenance["learned"]
    assert learned["rule"]["name"] == "Hypergradient"
    assert all(len(of["deviations"]) == 3 and min(of["deviations"]) > 0 for of in learned["uncertainty"].values())
    held = parts[2].learned((0.0,))
    assert held["embedding"].start == held["embedding"].end


def test_equal_updates_brings_relative_updates_together():
    def spread(rule):
        model, optimizers, scheduler = made(optimizers=sgd, lr=0.3, rule=rule)
        train(model, optimizers, scheduler, 30)
        sizes = []
        for name in ("embedding", "lm_head"):
            weight = getattr(model, name).weight
            before = weight.detach().clone()
            sizes.append((weight, before))
        train(model, optimizers, scheduler, 1, first=30)
        relative = [float((w.detach() - b).norm() / b.norm()) for w, b in sizes]
        return abs(math.log(relative[0] / relative[1]))

    assert spread(EqualUpdates(memory=0.5, bound=1000)) < 0.5 * spread(None)


def test_ratios_of_parts_of_a_tensor_are_refused():
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    groups = rlrs.param_groups(model, {"embedding/token.4-": 2.0}, lr=1e-2)
    with pytest.raises(RatiosError, match=r"embedding/token\.4-: ratios of parts of one tensor are not learned"):
        LearnedLR(torch.optim.AdamW(groups), {"embedding/token.4-": 2.0}, total_steps=5)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(RatiosError, match="no 'router'; it has embedding"):
        made(components=["router"])
    with pytest.raises(RatiosError, match="'embedding' is 0 somewhere"):
        made(ratios={"embedding": (1.0, 0.0)}, components=["embedding"])
    with pytest.raises(ValueError, match="reach should be a number above 0"):
        Hypergradient(reach=-1)
    with pytest.raises(ValueError, match="after 0 of 40 steps"):
        made()[2].learned()
    state = made(components=["embedding"])[2].state_dict()
    with pytest.raises(ValueError, match="learned embedding, and here are"):
        made()[2].load_state_dict(state)
    parts = made()
    parts[2].rule = None
    with pytest.raises(ValueError, match="4 finite numbers"):
        parts[2].move_to([math.nan] * 4)


def test_a_skipped_step_is_no_warning_and_one_that_no_hook_sees_is():
    def steps(taken):
        model, [optimizer], scheduler = made(warmup_steps=0)
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        for take in taken:
            take(model, optimizer)
            scheduler.step()

    def skipped(model, optimizer):
        """As a gradient scaler does where gradients overflow."""

    def hidden(model, optimizer):
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(weight.grad, alpha=1e-2)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps([skipped] * 4 + [lambda model, optimizer: optimizer.step()] * 2 + [skipped] * 3)
        assert not [one for one in caught if "sees no step" in str(one.message)]
        steps([hidden] * 4)
    assert len([one for one in caught if "sees no step" in str(one.message)]) == 1


def test_weights_on_several_devices_are_summed_on_one():
    with FakeTensorMode():  # a tensor of another device without that device: mixing the two is an error there, too
        weights = [torch.nn.Parameter(torch.ones(3, device=device)) for device in ("cpu", "cuda")]
        probe = UpdateProbe()
        probe.bind(["a", "b"], weights, [0, 1], 1)
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            found = probe.before_step(2)
            probe.after_step()
        assert (found.shape, found.device.type) == ((2,), "cpu")
        assert probe.squares(2).device.type == "cpu"
