"""Every kind of optimizer under one schedule, each against one optimizer per parameter whose rate is set by hand."""

import copy
import functools
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import rlrs
from rlrs.param_groups import split_groups

TOTAL, WARMUP, ALPHA, LR = 12, 3, 0.1, 0.02
RATIOS = {"embedding": (5.0, 0.666), "attention": (0.5, 2.0), "unembedding": [(0, 1), (0.5, 3), (1, 0.4)]}
SCHEDULE = {"total_steps": TOTAL, "warmup_steps": WARMUP, "final_fraction": ALPHA}

# As the default implementation on CPU runs one tensor after another, it is the same arithmetic bit for bit.
ADAMW = functools.partial(torch.optim.AdamW, weight_decay=0.1)
SINGLE_TENSOR = {
    "AdamW": ADAMW,
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adafactor": functools.partial(torch.optim.Adafactor, weight_decay=0.01),
}
FUSED = {
    "AdamW, fused": functools.partial(ADAMW, fused=True),
    "AdamW, foreach": functools.partial(ADAMW, foreach=True),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Toy(nn.Module):
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


def toy():
    torch.manual_seed(0)
    return Toy()


def backward(model, step):
    tokens = torch.randint(31, (4, 12), generator=torch.Generator().manual_seed(step))
    loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    return loss.item()


def rate_by_hand(component, step, lr=LR):
    """The formula of the paper; for the three knots of the unembedding, the same between neighbours."""
    s, e = {**RATIOS, "unembedding": (1, 0.4)}.get(component, (1, 1))
    if step < WARMUP:
        return lr * s * (step + 1) / WARMUP
    x = (step - WARMUP) / (TOTAL - WARMUP)
    c = 0.5 * (1 + math.cos(math.pi * x))
    if component != "unembedding":
        return lr * (ALPHA * e + (s - ALPHA * e) * c)
    middle = 3 * (0.5 + 0.5 * ALPHA)  # half-way down the cosine the base rate is the mean of its ends
    if x < 0.5:
        return lr * (middle + (s - middle) * (2 * c - 1))
    return lr * (ALPHA * e + (middle - ALPHA * e) * 2 * c)


def train(model, optimizers, scheduler, steps=TOTAL):
    losses = []
    for step in range(steps):
        losses.append(backward(model, step))
        for optimizer in optimizers:
            optimizer.step()
        scheduler.step()
    return losses


def train_by_hand(model, make, decays=None):
    """One optimizer per parameter; `make(name, parameter)` gives it, its base rate by name in `decays` if not `LR`."""
    component = rlrs.partition(model).component_of()
    optimizers = {name: make(name, parameter) for name, parameter in model.named_parameters()}
    losses = []
    for step in range(TOTAL):
        losses.append(backward(model, step))
        for name, optimizer in optimizers.items():
            lr = (decays or {}).get(name, LR)
            optimizer.param_groups[0]["lr"] = rate_by_hand(component[name], step, lr)
            optimizer.step()
    return losses


def same(ours, theirs, **tolerance):
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, **tolerance), name


def no_decay(name):
    return "bias" in name or "norm" in name


@pytest.mark.parametrize("kind", [*SINGLE_TENSOR, *FUSED])
def test_training_in_groups_equals_one_optimizer_per_parameter_with_the_rate_set_by_hand(kind):
    make = {**SINGLE_TENSOR, **FUSED}[kind]
    ours = toy()
    theirs = copy.deepcopy(ours)
    decay = make.keywords["weight_decay"]
    optimizer = make(rlrs.param_groups(ours, RATIOS, lr=LR, weight_decay=decay))
    scheduler = rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE)
    losses = train(ours, [optimizer], scheduler)
    by_hand = train_by_hand(
        theirs, lambda name, p: make([{"params": [p], "weight_decay": decay * (not no_decay(name))}])
    )
    assert losses == pytest.approx(by_hand, rel=1e-5)
    assert losses[-1] < losses[0] - 0.1  # it did train
    same(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_tensor_rate_trains_as_a_float_rate_does():
    runs = []
    for rate in (LR, torch.tensor(LR)):
        model = toy()
        optimizer = ADAMW(rlrs.param_groups(model, RATIOS, lr=rate, weight_decay=0.1))
        runs.append(train(model, [optimizer], rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE)))
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    assert all(isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups)


def test_groups_that_share_one_rate_tensor_are_refused():
    groups = rlrs.param_groups(toy(), RATIOS, lr=LR)
    shared = torch.tensor(LR)
    optimizer = ADAMW([{**group, "lr": shared} for group in groups])
    with pytest.raises(ValueError, match="groups 'embedding' and 'attention' share one rate tensor: give each its own"):
        rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE)


# Muon for matrices, AdamW for the rest: two optimizers, one schedule.


def is_hidden_matrix(group, parameter):
    return parameter.ndim == 2 and group["component"] not in ("embedding", "unembedding")


def test_muon_for_matrices_and_adamw_for_the_rest_share_one_schedule():
    muon = functools.partial(torch.optim.Muon, momentum=0.9)
    ours = toy()
    theirs = copy.deepcopy(ours)
    groups = rlrs.param_groups(ours, RATIOS, lr=LR, weight_decay=0.1)
    matrices, rest = split_groups(groups, is_hidden_matrix, lr=3 * LR)
    assert [group["name"] for group in matrices] == ["attention"]
    optimizers = [muon(matrices), ADAMW(rest)]
    scheduler = rlrs.RelativeLR(optimizers, RATIOS, **SCHEDULE)
    losses = train(ours, optimizers, scheduler)

    hidden = {"attention.in_proj_weight", "attention.out_proj.weight"}
    by_hand = train_by_hand(
        theirs,
        lambda name, p: (
            muon([p], weight_decay=0.1) if name in hidden else ADAMW([p], weight_decay=0.1 * (not no_decay(name)))
        ),
        dict.fromkeys(hidden, 3 * LR),
    )
    assert losses == pytest.approx(by_hand, rel=1e-5)
    same(ours, theirs, rtol=1e-4, atol=1e-6)


def test_two_optimizers_and_one_schedule_resume_as_if_never_stopped(tmp_path):
    def build():
        model = toy()
        matrices, rest = split_groups(rlrs.param_groups(model, RATIOS, lr=LR), is_hidden_matrix, lr=0.1)
        optimizers = [torch.optim.Muon(matrices), ADAMW(rest)]
        return model, *optimizers, rlrs.RelativeLR(optimizers, RATIOS, **SCHEDULE)

    whole = build()
    expected = train(whole[0], whole[1:3], whole[3])
    first = build()
    losses = train(first[0], first[1:3], first[3], steps=5)
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    second = build()
    for part, state in zip(second, torch.load(tmp_path / "state.pt"), strict=True):
        part.load_state_dict(state)
    for step in range(5, TOTAL):
        losses.append(backward(second[0], step))
        for part in second[1:]:
            part.step()
    assert losses == expected


def test_the_example_resumes_as_if_never_stopped(tmp_path, monkeypatch):
    examples = Path(__file__).parents[2] / "examples"
    monkeypatch.syspath_prepend(examples)
    main = runpy.run_path(str(examples / "muon_and_adamw.py"))["main"]
    main(["--steps", "8", "--folder", str(tmp_path)])
    whole = (tmp_path / "rates.csv").read_text().splitlines()
    (tmp_path / "rates.csv").unlink()
    main(["--steps", "8", "--folder", str(tmp_path), "--resume"])
    assert (tmp_path / "rates.csv").read_text().splitlines() == [whole[0], *whole[5:]]


def test_splitting_keeps_every_parameter_once_and_names_the_halves_of_a_divided_group():
    groups = rlrs.param_groups(toy(), RATIOS, lr=LR)
    first, second = split_groups(groups, lambda group, p: tuple(p.shape) == (16, 16), lr=0.5)
    assert [group["name"] for group in first] == ["attention"]
    assert "attention/rest" in [group["name"] for group in second]
    kept = [id(p) for group in (*first, *second) for p in group["params"]]
    assert sorted(kept) == sorted(id(p) for group in groups for p in group["params"])
    assert {group["lr"] for group in first} == {0.5}
    assert {group["lr"] for group in second} == {LR}
    rlrs.RelativeLR([torch.optim.SGD(first), torch.optim.SGD(second)], RATIOS, **SCHEDULE)  # names are still unique


# Weight decay.


def shrink(decay, ratios):
    """How much every decayed component shrinks over a run without gradients, in which AdamW does nothing but decay."""
    model = toy()
    groups = rlrs.param_groups(model, ratios, lr=LR, weight_decay=0.5, decay=decay)
    optimizer = torch.optim.AdamW(groups)
    scheduler = rlrs.RelativeLR(optimizer, ratios, **SCHEDULE)
    decayed = {group["component"]: group["params"][0] for group in groups if not group["name"].endswith("/no_decay")}
    before = {component: p.detach().double().norm() for component, p in decayed.items()}
    for _ in range(TOTAL):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step()
    assert torch.equal(model.norm.weight, torch.ones(16))
    return {component: float(p.detach().double().norm() / before[component]) for component, p in decayed.items()}


def test_decoupled_weight_decay_scales_with_the_components_rate():
    shrunk = shrink("rate", RATIOS)
    for component, factor in shrunk.items():
        expected = math.prod(1 - rate_by_hand(component, t) * 0.5 for t in range(TOTAL))
        assert factor == pytest.approx(expected, rel=1e-5)
    assert shrunk["embedding"] < shrunk["attention"] - 0.1


def test_independent_weight_decay_is_that_of_the_base_rate_for_every_component():
    expected = math.prod(1 - rate_by_hand("base", t) * 0.5 for t in range(TOTAL))
    for component, factor in shrink("independent", RATIOS).items():
        assert factor == pytest.approx(expected, rel=1e-5), component


def test_a_component_at_rate_zero_is_frozen_and_not_decayed():
    ratios = {"embedding": (0, 1), "attention": 0}
    for decay in ("rate", "independent"):
        shrunk = shrink(decay, ratios)
        assert shrunk["attention"] == 1
        assert shrunk["embedding"] < 1  # it thaws after the warm-up


def test_independent_decay_survives_the_loading_of_an_optimizers_state():
    def build():
        model = toy()
        groups = rlrs.param_groups(model, RATIOS, lr=LR, weight_decay=0.1, decay="independent")
        optimizer = torch.optim.AdamW(groups)
        return model, optimizer, rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE)

    whole = build()
    expected = train(whole[0], [whole[1]], whole[2])
    first = build()
    losses = train(first[0], [first[1]], first[2], steps=6)
    second = build()
    for part, other in zip(second, first, strict=True):
        part.load_state_dict(copy.deepcopy(other.state_dict()))
    for step in range(6, TOTAL):
        losses.append(backward(second[0], step))
        second[1].step()
        second[2].step()
    assert losses == expected


def test_an_unknown_kind_of_decay_is_refused():
    with pytest.raises(ValueError, match="decay should be 'rate' or 'independent', not 'none'"):
        rlrs.param_groups(toy(), RATIOS, lr=LR, decay="none")


# Compiled optimizers: how many graphs a whole schedule makes.


def graphs(rate, decay="rate", **options):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    model = toy()
    groups = rlrs.param_groups(model, RATIOS, lr=rate, weight_decay=0.1, decay=decay)
    optimizer = torch.optim.AdamW(groups, **options)
    scheduler = rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE)
    counter = CompileCounter()  # dynamo's eager back end, which counts
    step = torch.compile(optimizer.step, backend=counter)
    compiled = []
    for t in range(TOTAL):
        backward(model, t)
        step()
        scheduler.step()
        compiled.append(counter.frame_count)
    torch._dynamo.reset()
    return compiled


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces its optimizers
@pytest.mark.parametrize("capturable", [False, True])  # on CPU torch takes it in compiled optimizers only
def test_with_a_tensor_rate_the_schedule_causes_no_recompilation(capturable):
    assert graphs(torch.tensor(LR), capturable=capturable) == [1] * TOTAL


@pytest.mark.filterwarnings("ignore")
def test_with_a_float_rate_it_does_which_is_what_the_tensor_is_for():
    assert graphs(LR)[-1] > 1


@pytest.mark.filterwarnings("ignore")
def test_independent_decay_costs_a_compiled_optimizer_some_graphs_at_first_and_none_later():
    compiled = graphs(torch.tensor(LR), decay="independent")
    assert 1 < compiled[-1] <= 4
    assert compiled[TOTAL // 2 :] == [compiled[-1]] * (TOTAL - TOTAL // 2)


# Optimizers of other packages.


def test_schedule_free_keeps_its_own_warm_up_and_takes_the_ratios_from_us():
    schedulefree = pytest.importorskip("schedulefree")
    make = functools.partial(schedulefree.AdamWScheduleFree, warmup_steps=WARMUP, weight_decay=0.1)
    held = {"embedding": 5.0, "attention": 0.5}
    ours = toy()
    theirs = copy.deepcopy(ours)
    optimizer = make(rlrs.param_groups(ours, held, lr=LR, weight_decay=0.1))
    scheduler = rlrs.RelativeLR(optimizer, held, total_steps=TOTAL, schedule="constant")
    optimizer.train()
    losses = train(ours, [optimizer], scheduler)
    assert {group["component"]: group["lr"] / LR for group in optimizer.param_groups} == {
        **{"embedding": 5.0, "attention": 0.5},
        **{"norm": 1.0, "unembedding": 1.0},
    }

    component = rlrs.partition(theirs).component_of()
    each = [
        make([p], lr=LR * held.get(component[name], 1), weight_decay=0.1 * (not no_decay(name)))
        for name, p in theirs.named_parameters()
    ]
    for one in each:
        one.train()
    by_hand = []
    for step in range(TOTAL):
        by_hand.append(backward(theirs, step))
        for one in each:
            one.step()
    for one in (optimizer, *each):
        one.eval()  # both at the average of the iterates, which is the model to keep
    assert losses == pytest.approx(by_hand, rel=1e-5)
    same(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_eight_bit_adamw_follows_the_schedule():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make = functools.partial(bitsandbytes.optim.AdamW8bit, min_8bit_size=1)
    ours = toy()
    theirs = copy.deepcopy(ours)
    optimizer = make(rlrs.param_groups(ours, RATIOS, lr=LR, weight_decay=0.1))
    losses = train(ours, [optimizer], rlrs.RelativeLR(optimizer, RATIOS, **SCHEDULE))
    by_hand = train_by_hand(theirs, lambda name, p: make([p], lr=LR, weight_decay=0.1 * (not no_decay(name))))
    assert losses == pytest.approx(by_hand, rel=1e-5)
    assert {s["state1"].dtype for p in ours.parameters() if (s := optimizer.state[p])} == {torch.uint8}
    same(ours, theirs, rtol=1e-4, atol=1e-6)
