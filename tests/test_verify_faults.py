"""Loops with faults as people write them: every one is named with its component, and goes on bit for bit all the same.

Where a public tracker has the pattern, the comment says which.
"""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import rlrs
from verified_loops import ALL, WIDTH, Decoder, Loop, Muon, groups, loss_of, observe, plain

RATIOS = {"embedding": (5.0, 0.666), "attention": (0.5, 0.2)}


def with_own_rates(model, ratios=None, lr=1e-2):
    ratios = ratios or {"embedding": 5.0, "attention": 0.5}
    made = groups(model, lr)
    for group in made:
        group["lr"] *= ratios.get(group["component"], 1.0)
    return made


def one_rate_written_into_all_groups():  # nanoGPT: `for param_group in optimizer.param_groups: param_group["lr"] = lr`
    model = Decoder()
    optimizer = torch.optim.AdamW(with_own_rates(model))

    def write(i):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (i + 1)

    return plain(model, optimizer, before=write)


def one_cycle_with_a_scalar_peak():  # flairNLP/flair#2641, katsura-jp/pytorch-cosine-annealing-with-warmup#14
    model = Decoder()
    optimizer = torch.optim.AdamW(with_own_rates(model))
    scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=20)
    return plain(model, optimizer, scheduler=scheduler, told={"ratios": {"embedding": 5.0, "attention": 0.5}})


def groups_merged_into_one():  # a trainer that flattens what it is given: optimizer(model.parameters())
    model = Decoder()
    return plain(model, torch.optim.AdamW(model.parameters(), lr=1e-2), told={"ratios": {"embedding": 5.0}})


def a_component_that_no_group_takes():  # bubbliiiing/efficientdet-pytorch#37: weights filtered out by name
    model = Decoder()
    optimizer = torch.optim.AdamW([p for n, p in model.named_parameters() if "proj" in n or "head" in n], lr=1e-2)
    return plain(model, optimizer)


def optimizer_made_before_the_model_was_copied():  # sgl-project/SpecForge#561: parameters before FSDP
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    return plain(copy.deepcopy(model), optimizer)


def head_replaced_after_the_optimizer_was_made():  # resize_token_embeddings, a new classifier
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    model.lm_head = nn.Linear(WIDTH, 11, bias=False)
    return plain(model, optimizer)


def gradients_scaled_in_place_under_adam():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios={}))

    def scale(i):
        model.embed_tokens.weight.grad *= 0.1

    return plain(model, optimizer, before=scale)


def gradients_scaled_by_a_hook_under_adam():  # `p.register_hook(lambda g: g * scale)` as a rate
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios={}))
    model.lm_head.weight.register_hook(lambda gradient: gradient * 0.2)
    return plain(model, optimizer)


def a_parameter_in_two_optimizers():
    model = Decoder()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [*model.lm_head.parameters(), *(p for p in model.parameters() if p.ndim < 2)]
    optimizers = [Muon(matrices), torch.optim.AdamW(rest, lr=1e-2)]

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()

    return Loop(model, optimizers, step)


def a_parameter_in_two_groups():  # appended past add_param_group's check
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model), lr=0.1)
    optimizer.param_groups[-1]["params"].append(model.embed_tokens.weight)
    return plain(model, optimizer)


def stepped_by_the_scaler_and_by_hand():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(i):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        optimizer.step()

    return Loop(model, optimizer, step)


def two_optimizers(model):
    first, second = rlrs.split_groups(groups(model), lambda g, p: p.ndim == 2 and "embed" not in g["component"])
    return [Muon(first), torch.optim.AdamW(second)]


def a_second_optimizer_that_is_not_scheduled():
    model = Decoder()
    optimizers = two_optimizers(model)
    scheduler = LambdaLR(optimizers[1], lambda t: 0.9**t)

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        scheduler.step()

    return Loop(model, optimizers, step, scheduler)


def a_second_optimizer_that_is_not_stepped():
    model = Decoder()
    optimizers = two_optimizers(model)

    def step(i):
        model.zero_grad()
        loss_of(model).backward()
        optimizers[1].step()

    return Loop(model, optimizers, step)


def a_group_added_after_the_scheduler():  # gradual unfreezing
    model = Decoder()
    made = groups(model)
    optimizer = torch.optim.AdamW(made[1:])
    optimizer_scheduler = LambdaLR(optimizer, lambda t: 0.9**t)
    optimizer.add_param_group(made[0])

    def step(i):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, optimizer_scheduler.base_lrs, strict=False):
            group["lr"] = rate * 0.9**i

    return Loop(model, optimizer, step)


def clipped_by_component_under_sgd():
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model, 0.1))
    parameters = list(model.layers[0].up_proj.parameters()) + list(model.layers[0].down_proj.parameters())
    return plain(model, optimizer, before=lambda i: nn.utils.clip_grad_norm_(parameters, 1e-2))


def clipped_by_value_under_sgd():
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model, 0.1))
    return plain(model, optimizer, before=lambda i: nn.utils.clip_grad_value_([model.lm_head.weight], 1e-3))


def everything_clipped_hard_under_sgd():
    model = Decoder()
    optimizer = torch.optim.SGD(groups(model, 0.1))
    return plain(model, optimizer, before=lambda i: nn.utils.clip_grad_norm_(model.parameters(), 0.05))


def scheduler_stepped_per_micro_batch():  # huggingface/accelerate#963, huggingface/diffusers#4387, starVLA/starVLA#210
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    scheduler = rlrs.RelativeLR(optimizer, RATIOS, total_steps=100)

    def step(i):
        for batch in range(4):
            loss_of(model, 1 / 4).backward()
            if batch == 3:
                optimizer.step()
                optimizer.zero_grad()
            if i or batch == 3:  # before the first step() torch warns
                scheduler.step()

    return Loop(model, optimizer, step, scheduler)


def scheduler_stepped_twice():  # once by the loop, once by a wrapper
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    scheduler = LambdaLR(optimizer, lambda t: 0.9**t)
    return plain(model, optimizer, scheduler=scheduler, after=lambda i: scheduler.step())


def scheduler_never_stepped():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    loop = plain(model, optimizer)
    loop.scheduler = LambdaLR(optimizer, lambda t: 0.9**t)
    return loop


def resumed_without_the_schedulers_state():
    model = Decoder()
    first = torch.optim.AdamW(groups(model, ratios=RATIOS))
    earlier = plain(model, first)
    for i in range(12):
        earlier.step(i)
    optimizer = torch.optim.AdamW(groups(model, ratios=RATIOS))
    optimizer.load_state_dict(first.state_dict())
    return plain(model, optimizer, scheduler=rlrs.RelativeLR(optimizer, RATIOS, total_steps=100, warmup_steps=5))


def state_loaded_by_position():  # torch restores groups by position, names and rates with them
    torch.manual_seed(1)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens, self.lm_head = nn.Embedding(11, WIDTH), nn.Linear(WIDTH, 11, bias=False)

        def forward(self, tokens):
            return self.lm_head(self.embed_tokens(tokens))

    model = Twin()
    made = groups(model, ratios={})
    made[0]["lr"] = 5e-2
    saved = torch.optim.AdamW(made)
    plain(model, saved).step(0)
    optimizer = torch.optim.AdamW([{"params": g["params"], "lr": 1e-2} for g in reversed(made)])
    optimizer.load_state_dict(saved.state_dict())
    return plain(model, optimizer)


def a_second_writer_of_rates():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    scheduler = LambdaLR(optimizer, lambda t: 0.9**t)

    def write(i):
        optimizer.param_groups[0]["lr"] = 1e-4

    return plain(model, optimizer, scheduler=scheduler, before=write)


def adafactor_that_caps_the_rate():  # torch: min(lr, 1 / sqrt(step))
    model = Decoder()
    optimizer = torch.optim.Adafactor(groups(model, 1e3))
    return plain(model, optimizer)


def rprop():
    model = Decoder()
    return plain(model, torch.optim.Rprop(groups(model)))


def an_optimizer_that_reads_one_groups_rate():
    class OneRate(Muon):
        rate_of = staticmethod(lambda optimizer, group: optimizer.param_groups[0]["lr"])

    model = Decoder()
    return plain(model, OneRate(groups(model)))


def an_optimizer_that_reads_its_default():
    class Default(Muon):
        rate_of = staticmethod(lambda optimizer, group: optimizer.defaults["lr"])

    model = Decoder()
    return plain(model, Default(groups(model)))


def an_optimizer_that_ignores_decay():
    class NoDecay(torch.optim.Optimizer):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(p.grad.sign(), alpha=-group["lr"])

    model = Decoder()
    return plain(model, NoDecay(groups(model, weight_decay=0.1), {}))


def decay_that_ignores_the_rate():
    class FullDecay(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(1 - group["weight_decay"])
                    p.add_(p.grad, alpha=-group["lr"])

    model = Decoder()
    return plain(model, FullDecay(groups(model, weight_decay=0.01)))


def adam_with_coupled_decay():
    model = Decoder()
    return plain(model, torch.optim.Adam(groups(model, weight_decay=0.1)))


def bfloat16_weights_and_a_small_rate():
    model = Decoder().bfloat16()
    return plain(model, torch.optim.AdamW(groups(model, 1e-6, ratios={})))


def frozen_with_an_old_gradient():  # neuralmagic/sparseml#965
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, weight_decay=0.1))

    def step(i):
        optimizer.zero_grad(set_to_none=False)
        loss_of(model).backward()
        optimizer.step()

    step(0)
    model.embed_tokens.requires_grad_(False)
    return Loop(model, optimizer, step)


def a_step_hook_that_multiplies_the_update():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    old = {}

    def keep(*call):
        old["w"] = model.lm_head.weight.detach().clone()

    def scale(*call):
        with torch.no_grad():
            model.lm_head.weight.copy_(torch.lerp(old["w"], model.lm_head.weight, 0.1))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(scale)
    return plain(model, optimizer)


# Those from here on were written after verify was, to see what it says.


def gradients_scaled_by_a_step_hook_under_adam():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, ratios={}))

    def scale(*call):
        model.lm_head.weight.grad.mul_(0.1)

    optimizer.register_step_pre_hook(scale)
    return plain(model, optimizer)


def frozen_by_putting_the_weights_back():  # textual inversion's way to keep an embedding
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    kept = model.embed_tokens.weight.detach().clone()
    return plain(model, optimizer, after=lambda i: model.embed_tokens.weight.data.copy_(kept))


def an_average_copied_back():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    average = [p.detach().clone() for p in model.parameters()]

    def after(i):
        for mean, p in zip(average, model.parameters(), strict=True):
            p.data.copy_(mean.lerp_(p.detach(), 0.01))

    return plain(model, optimizer, after=after)


def an_update_that_is_clamped():
    class Clamped(Muon):
        @torch.no_grad()
        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            before = [p.clone() for p in parameters]
            super().step()
            for old, p in zip(before, parameters, strict=True):
                p.copy_(old + (p - old).clamp(-3e-3, 3e-3))

    model = Decoder()
    return plain(model, Clamped(groups(model, ratios={})))


def a_rate_that_counts_twice():
    class Squared(Muon):
        rate_of = staticmethod(lambda optimizer, group: group["lr"] ** 2)

    model = Decoder()
    return plain(model, Squared(groups(model)))


def a_new_optimizer_at_every_step():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))

    def step(i):
        again = torch.optim.AdamW(groups(model))
        again.zero_grad()
        loss_of(model).backward()
        again.step()

    return Loop(model, optimizer, step)


def an_old_rate_loaded_with_the_state():  # load_state_dict brings the saved rate, whatever was asked for
    model = Decoder()
    saved = torch.optim.AdamW(groups(model, 1e-2, ratios={}))
    plain(model, saved).step(0)
    optimizer = torch.optim.AdamW(groups(model, 1e-4, ratios={}))
    optimizer.load_state_dict(saved.state_dict())
    return plain(model, optimizer, told={"rates": lambda t: dict.fromkeys(ALL, 1e-4)})


def gradients_cleared_before_the_step():
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model, weight_decay=0.1))
    return plain(model, optimizer, before=lambda i: optimizer.zero_grad())


def a_scheduler_of_another_optimizer():
    model = Decoder()
    other = torch.optim.AdamW(groups(model))
    scheduler = LambdaLR(other, lambda t: 0.9**t)
    other._opt_called = True  # it was stepped once, elsewhere
    return plain(model, torch.optim.AdamW(groups(model)), scheduler=scheduler)


MATRICES = {"attention", "feed_forward"}
# Loop -> components, kind, words of the cause or the remedy.
FAULTS = {
    one_rate_written_into_all_groups: (ALL - {"embedding"}, "rate", "one rate is written into all"),
    one_cycle_with_a_scalar_peak: ({"embedding", "attention"}, "rate", "times the base rate"),
    groups_merged_into_one: ({"embedding"}, "rate", "one group, one rate"),
    a_component_that_no_group_takes: ({"embedding", "norm"}, "missing", "no group takes it"),
    optimizer_made_before_the_model_was_copied: (ALL, "missing", "before it was wrapped"),
    head_replaced_after_the_optimizer_was_made: ({"unembedding"}, "missing", "replaced"),
    gradients_scaled_in_place_under_adam: ({"embedding"}, "inert", "multiplied by 0.1"),
    gradients_scaled_by_a_hook_under_adam: ({"unembedding"}, "inert", "multiplied by 0.2"),
    a_parameter_in_two_optimizers: ({"unembedding"}, "two_groups", "Muon and AdamW"),
    a_parameter_in_two_groups: ({"embedding"}, "two_groups", "in one optimizer"),
    stepped_by_the_scaler_and_by_hand: (ALL, "twice", "stepped twice"),
    a_second_optimizer_that_is_not_scheduled: (MATRICES, "pace", "Muon has no scheduler"),
    a_second_optimizer_that_is_not_stepped: (MATRICES, "inert", "never stepped"),
    a_group_added_after_the_scheduler: ({"embedding"}, "pace", "has no scheduler"),
    clipped_by_component_under_sgd: ({"feed_forward"}, "clipped", "clipped to"),
    clipped_by_value_under_sgd: ({"unembedding"}, "clipped", "clipped to"),
    everything_clipped_hard_under_sgd: (ALL, "clipped", "all gradients"),
    scheduler_stepped_per_micro_batch: (ALL, "pace", "per micro-batch"),
    scheduler_stepped_twice: (ALL, "pace", "goes 2 steps"),
    scheduler_never_stepped: (ALL, "pace", "not stepped"),
    resumed_without_the_schedulers_state: (ALL, "pace", "load the scheduler's state"),
    state_loaded_by_position: ({"embedding", "unembedding"}, "misplaced", "by position"),
    a_second_writer_of_rates: ({"embedding"}, "rate", "something else writes rates"),
    adafactor_that_caps_the_rate: (ALL, "inert", "caps the rate"),
    rprop: (ALL, "inert", "step size of its own"),
    an_optimizer_that_reads_one_groups_rate: (ALL - {"embedding"}, "inert", "one group's rate for all"),
    an_optimizer_that_reads_its_default: (ALL, "inert", "same step at twice the rate"),
    an_optimizer_that_ignores_decay: (ALL - {"norm"}, "decay", "does not decay it"),
    decay_that_ignores_the_rate: (ALL - {"norm"}, "decay", "does not multiply it by the rate"),
    adam_with_coupled_decay: (ALL - {"norm"}, "decay", "L2"),
    bfloat16_weights_and_a_small_rate: (ALL, "inert", "rounding"),
    frozen_with_an_old_gradient: ({"embedding"}, "moved", "frozen"),
    a_step_hook_that_multiplies_the_update: ({"unembedding"}, "rescaled", "step hook"),
    gradients_scaled_by_a_step_hook_under_adam: ({"unembedding"}, "inert", "multiplied by 0.1"),
    frozen_by_putting_the_weights_back: ({"embedding"}, "rescaled", "writes to the weights"),
    an_average_copied_back: (ALL, "rescaled", "an average copied back"),
    an_update_that_is_clamped: (ALL, "clipped", "cut after the rate"),
    a_rate_that_counts_twice: (ALL, "twice", "more than once"),
    gradients_cleared_before_the_step: (ALL, "inert", "cleared between"),
    a_scheduler_of_another_optimizer: (ALL, "pace", "not stepped"),
    a_new_optimizer_at_every_step: (ALL, "inert", "made in the loop"),
    an_old_rate_loaded_with_the_state: (ALL, "rate", "another rate than `rates` says"),
}


@pytest.mark.filterwarnings("ignore:RelativeLR.step")  # which sees a wrong pace by itself
@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)
def test_a_fault_is_named_and_the_run_goes_on_bit_for_bit(make):
    components, kind, words = FAULTS[make]
    report, untouched = observe(make)
    assert untouched
    named = [finding for finding in report.findings if finding.kind == kind]
    assert {finding.component for finding in named} == components, str(report)
    for finding in named:
        assert words in finding.cause + finding.remedy, str(report)
    assert {finding.kind for finding in report.findings} == {kind}, str(report)
