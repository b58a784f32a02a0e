"""Sound loops: no finding, every component tried, and the run is bit for bit the one without `verify`."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR

import rlrs
from verified_loops import ALL, Decoder, Loop, Muon, groups, loss_of, observe, plain

RATIOS = {"embedding": (5.0, 0.666), "attention": (0.5, 0.2)}


def relative(optimizer, ratios=RATIOS, **options):
    return rlrs.RelativeLR(optimizer, ratios, total_steps=20, warmup_steps=3, **options)


def adamw_with_relative_lr():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, weight_decay=0.1))
    return plain(model, optimizer, scheduler=relative(optimizer))


def adamw_fused():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, weight_decay=0.1), fused=True)
    return plain(model, optimizer, scheduler=relative(optimizer))


def adamw_foreach():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, weight_decay=0.1), foreach=True)
    return plain(model, optimizer, scheduler=relative(optimizer))


def adamw_with_tensor_rates():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, torch.tensor(1e-2), RATIOS, weight_decay=0.1))
    return plain(model, optimizer, scheduler=relative(optimizer))


def independent_decay():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, weight_decay=0.1, decay="independent"))
    return plain(model, optimizer, scheduler=relative(optimizer))


def sgd_with_nesterov_and_decay():
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model, 0.1, RATIOS, weight_decay=0.01), momentum=0.9, nesterov=True)
    return plain(model, optimizer, scheduler=relative(optimizer))


def lambda_lr_per_group():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    curve = [lambda t: 0.9**t, lambda t: 1.0] + [lambda t: 0.5**t] * (len(optimizer.param_groups) - 2)
    return plain(model, optimizer, scheduler=LambdaLR(optimizer, curve))


def warm_up_from_zero():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    return plain(model, optimizer, scheduler=LambdaLR(optimizer, lambda t: t / 10))


def sequential_schedulers():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    warm, cosine = LinearLR(optimizer, 0.1, total_iters=2), CosineAnnealingLR(optimizer, 10)
    return plain(model, optimizer, scheduler=SequentialLR(optimizer, [warm, cosine], [2]))


def one_cycle_with_a_peak_per_group():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    peaks = [0.01 * (i + 1) for i in range(len(optimizer.param_groups))]
    return plain(model, optimizer, scheduler=OneCycleLR(optimizer, peaks, total_steps=20))


def rates_set_by_hand():
    """nanoGPT's loop with a multiplier per group: the schedule is written into the groups at every step."""
    model = Decoder()
    optimizer = torch.optim.AdamW([{**g, "scale": i + 1} for i, g in enumerate(groups(model))])

    def write(i):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * group["scale"] * math.cos(i / 10)

    told = {"rates": lambda t: {"embedding": 1e-2 * math.cos(t / 10)}}
    return plain(model, optimizer, before=write, told=told)


def the_ratios_that_were_promised():
    model = Decoder()
    made = groups(model)
    for group in made:
        group["lr"] *= {"embedding": 5.0, "attention": 0.5}.get(group["component"], 1.0)
    optimizer = torch.optim.AdamW(made)
    scheduler = LambdaLR(optimizer, lambda t: 1 / (t + 1))
    return plain(model, optimizer, scheduler=scheduler, told={"ratios": {"embedding": 5, "attention": 0.5}})


def two_optimizers_under_one_relative_lr():
    model = Decoder()
    matrices, rest = rlrs.split_groups(
        groups(model, ratios=RATIOS, weight_decay=0.1),
        lambda g, p: p.ndim == 2 and "embed" not in g["component"],
        lr=0.02,
    )
    optimizers = [Muon(matrices), torch.optim.AdamW(rest)]
    scheduler = relative(optimizers)

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        scheduler.step()

    return Loop(model, optimizers, step, scheduler)


def torch_muon():
    model = Decoder()
    first, second = rlrs.split_groups(groups(model), lambda g, p: p.ndim == 2 and "embed" not in g["component"])
    optimizers = [torch.optim.Muon(first, weight_decay=0.1), torch.optim.AdamW(second)]

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()

    return Loop(model, optimizers, step)


def adafactor():
    model = Decoder()
    optimizer = torch.optim.Adafactor(groups(model, ratios=RATIOS, weight_decay=0.1))
    return plain(model, optimizer, scheduler=relative(optimizer))


def rmsprop_adagrad_and_lion_like():
    model = Decoder()
    parts = groups(model)
    optimizers = [
        torch.optim.RMSprop(parts[:2], momentum=0.9),
        torch.optim.Adagrad(parts[2:4]),
        torch.optim.NAdam(parts[4:], decoupled_weight_decay=True),
    ]

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()

    return Loop(model, optimizers, step)


def autocast_to_bfloat16():
    def loss(model):
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model)

    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    return plain(model, optimizer, scheduler=relative(optimizer), loss=loss)


def bfloat16_weights():
    model = Decoder().bfloat16()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, weight_decay=0.1))
    return plain(model, optimizer, scheduler=relative(optimizer))


def grad_scaler_with_clipping(fused=False):
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS), fused=fused)
    scheduler = relative(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def step(i):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        if not fused:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    return Loop(model, optimizer, step, scheduler, keeps=scaler)


def grad_scaler_of_a_fused_optimizer():
    return grad_scaler_with_clipping(fused=True)


def clipped_sgd():
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model, 0.1), momentum=0.9)
    return plain(model, optimizer, before=lambda i: nn.utils.clip_grad_norm_(model.parameters(), 0.5))


def accumulated_gradients():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    scheduler = relative(optimizer)

    def step(i):
        for _ in range(3):
            loss_of(model, 1 / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    return Loop(model, optimizer, step, scheduler)


def a_closure():
    """As Lightning steps: the backward pass runs inside of step()."""
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    scheduler = relative(optimizer)

    def step(i):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()

    return Loop(model, optimizer, step, scheduler)


def tied_embeddings():
    model = Decoder(tied=True)
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    return plain(model, optimizer, scheduler=relative(optimizer))


def frozen_parameters():
    model = Decoder()
    model.embed_tokens.requires_grad_(False)
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS, include_frozen=True))
    return plain(model, optimizer, scheduler=relative(optimizer))


def one_optimizer_per_parameter_in_the_backward_pass():
    model = Decoder()
    optimizers = [torch.optim.AdamW([p], lr=1e-2) for p in model.parameters()]
    for parameter, optimizer in zip(model.parameters(), optimizers, strict=True):

        def hook(_, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(hook)
    return Loop(model, optimizers, lambda i: loss_of(model).backward())


def resumed():
    model = Decoder()
    first = torch.optim.AdamW(groups(model, ratios=RATIOS))
    earlier = plain(model, first, scheduler=relative(first))
    for i in range(5):
        earlier.step(i)
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    scheduler = relative(optimizer)
    optimizer.load_state_dict(first.state_dict())
    scheduler.load_state_dict(earlier.scheduler.state_dict())
    return plain(model, optimizer, scheduler=scheduler)


def an_averaged_copy():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer.register_step_post_hook(lambda *call: average.update_parameters(model))
    return plain(model, optimizer, keeps=average)


def a_subclass_that_calls_its_parent():
    class Counting(torch.optim.AdamW):
        def step(self, closure=None):
            self.count = getattr(self, "count", 0) + 1
            return super().step(closure)

    model = Decoder()
    return plain(model, Counting(groups(model)))


def random_numbers_in_a_step():
    class Noisy(Muon):
        def step(self, closure=None):
            super().step()
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(torch.randn_like(p) * group["lr"] * 0.1)

    model = Decoder()
    return plain(model, Noisy(groups(model)))


def master_weights():
    """Bfloat16 weights, of which the optimizer has float32 copies."""
    model = Decoder().bfloat16()
    masters = {name: nn.Parameter(p.detach().float()) for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(masters.values(), lr=1e-3)

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for name, p in model.named_parameters():
            masters[name].grad = p.grad.float()
        optimizer.step()
        for name, p in model.named_parameters():
            p.data.copy_(masters[name])

    return Loop(model, optimizer, step)


def bfloat16_weights_with_compensation():
    class Kahan(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    rest = self.state[p].setdefault("compensation", torch.zeros_like(p))
                    rest.sub_(p.grad.sign() * group["lr"])
                    before = p.clone()
                    p.add_(rest)
                    rest.add_(before - p)

    model = Decoder().bfloat16()
    return plain(model, Kahan(groups(model, 1e-6), {}))


def an_optimizer_that_steps_now_and_then():
    model = Decoder()
    first, second = rlrs.split_groups(groups(model), lambda g, p: g["component"] == "embedding")
    optimizers = [torch.optim.SGD(first), torch.optim.AdamW(second)]

    def step(i):
        loss_of(model).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        if i % 2:
            optimizers[0].step()
            optimizers[0].zero_grad()

    return Loop(model, optimizers, step)


def weights_clipped_one_by_one_under_adam():
    model = Decoder()

    def clip(i):
        for p in model.parameters():
            nn.utils.clip_grad_norm_([p], 0.01)

    return plain(model, torch.optim.AdamW(groups(model)), before=clip)


def layer_decay():
    model = Decoder()
    ratios = rlrs.layer_decay(model, 0.5)
    optimizer = torch.optim.AdamW(groups(model, ratios=ratios, weight_decay=0.1))
    return plain(model, optimizer, scheduler=relative(optimizer, ratios))


def a_compiled_model():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    compiled = torch.compile(model, backend="eager")
    return plain(compiled, optimizer, scheduler=relative(optimizer))


def schedule_free():
    schedulefree = pytest.importorskip("schedulefree")
    model = Decoder()
    optimizer = schedulefree.AdamWScheduleFree(groups(model), warmup_steps=2)
    optimizer.train()
    return plain(model, optimizer)


def a_compiled_step():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, torch.tensor(1e-2), RATIOS))
    scheduler = relative(optimizer)
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    return plain(model, optimizer, scheduler=scheduler)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 8, 16) / 3)
        self.down_proj = nn.Parameter(torch.randn(4, 8, 8) / 3)

    def forward(self, x_ND):
        gate, up = torch.einsum("nd,edf->enf", x_ND, self.gate_up_proj).chunk(2, -1)
        return torch.einsum("enf,efd->nd", torch.nn.functional.silu(gate) * up, self.down_proj)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens, self.lm_head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.gate, self.experts = nn.Linear(8, 4, bias=False), Experts()

    def forward(self, tokens_BT):
        x = self.embed_tokens(tokens_BT)
        gates = self.gate(x).softmax(-1).amax(-1, keepdim=True)
        return self.lm_head(x + gates * self.experts(x.flatten(0, 1)).view_as(x))


def rates_per_expert_of_a_fused_tensor():
    ratios = {"embedding": 2.0, "experts/expert.1": 3.0, "experts/expert.2": 0.25}
    model = Mixture()
    rules = [rlrs.Rule("experts", r"^experts\."), rlrs.Rule("router", r"^gate\.")]
    optimizer = torch.optim.AdamW(groups(model, ratios=ratios, rules=rules, weight_decay=0.1))
    assert any("slices" in group for group in optimizer.param_groups)
    return plain(model, optimizer, scheduler=relative(optimizer, ratios), told={"rules": rules})


COMPONENTS = {
    "frozen_parameters": ALL - {"embedding"},
    "tied_embeddings": ALL - {"unembedding"},
    "rates_per_expert_of_a_fused_tensor": {"embedding", "experts", "router", "unembedding"},
}
LOOPS = [
    adamw_with_relative_lr, adamw_fused, adamw_foreach, adamw_with_tensor_rates, independent_decay,
    sgd_with_nesterov_and_decay, lambda_lr_per_group, warm_up_from_zero, sequential_schedulers,
    one_cycle_with_a_peak_per_group, rates_set_by_hand, the_ratios_that_were_promised,
    two_optimizers_under_one_relative_lr, torch_muon, adafactor, rmsprop_adagrad_and_lion_like, autocast_to_bfloat16,
    bfloat16_weights, grad_scaler_with_clipping, grad_scaler_of_a_fused_optimizer, clipped_sgd, accumulated_gradients,
    a_closure, tied_embeddings, frozen_parameters, one_optimizer_per_parameter_in_the_backward_pass, resumed,
    an_averaged_copy, a_subclass_that_calls_its_parent, random_numbers_in_a_step, schedule_free,
    rates_per_expert_of_a_fused_tensor,
    master_weights, bfloat16_weights_with_compensation, an_optimizer_that_steps_now_and_then,
    weights_clipped_one_by_one_under_adam, layer_decay,
    pytest.param(a_compiled_model, marks=pytest.mark.filterwarnings("ignore:.*torch.jit")),
    pytest.param(a_compiled_step, marks=pytest.mark.filterwarnings("ignore:.*torch.jit")),
]  # fmt: skip


@pytest.mark.parametrize("make", LOOPS, ids=lambda make: getattr(make, "__name__", None))
def test_a_sound_loop_has_no_finding_and_goes_on_bit_for_bit(make):
    report, untouched = observe(make)
    assert untouched
    assert report.ok, str(report)
    assert set(report.components) == COMPONENTS.get(make.__name__, ALL), str(report)
