"""A tiny mixture of experts in a plain loop, healthy or with a planted fault.

Shape suffixes: B sequences, T tokens per sequence, E experts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rlrs
from rlrs.models import build_model, router_statistics
from rlrs.models.moe import MoE
from rlrs.monitoring import Alarm, Guard, Monitor, Thresholds
from rlrs.settings import ModelConfig

VOCAB, BATCH, LENGTH = 64, 8, 16
STEPS, AT, EVERY = 300, 150, 5
"""Steps of a run, the step after which a fault begins, and steps between two observations."""
RATE, CLIP = 6e-3, 1.0
POISON = range(150, 153)
"""Batches of the guard's case of bad data."""
MODEL = ModelConfig(d_model=16, n_layers=1, n_heads=2, d_ff=16, n_experts=4)
RATIOS = rlrs.Ratios.preset("paper-moe")


def chain(seed: int) -> Tensor:
    """Transition probabilities of a Markov chain over the vocabulary, with few likely successors each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(VOCAB, VOCAB, generator=generator), -1)


def sample(chain_VV: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sequences of LENGTH + 1 tokens."""
    tokens = [torch.randint(VOCAB, (count,), generator=generator)]
    for _ in range(LENGTH):
        tokens.append(torch.multinomial(chain_VV[tokens[-1]], 1, generator=generator).squeeze(1))
    return torch.stack(tokens, 1)


@dataclass
class Loop:
    """A run: everything that a fault may touch."""

    seed: int
    rate: float = RATE
    ratios: Any = field(default_factory=lambda: RATIOS)
    steps: int = STEPS

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.generator = torch.Generator().manual_seed(1000 + self.seed)
        self.chain_VV = chain(0)
        self.valid = sample(self.chain_VV, 64, torch.Generator().manual_seed(7))
        self.model = build_model(MODEL, VOCAB)
        groups = rlrs.param_groups(self.model, self.ratios, lr=self.rate, weight_decay=0.1)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        self.scheduler = rlrs.RelativeLR(
            self.optimizer, self.ratios, total_steps=self.steps, warmup_steps=10, final_fraction=0.05
        )
        self.few: Tensor | None = None
        self.losses: list[float] = []
        self.began = time.process_time()
        self.before_backward: Callable[[Tensor], Tensor] = lambda loss: loss
        self.before_clip: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None
        self.batch: Callable[[Tensor, int], Tensor] = lambda tokens, number: tokens
        self.zeroes = True

    def weights(self, component: str) -> list[nn.Parameter]:
        """Of a component."""
        return [p for group in self.optimizer.param_groups if group["component"] == component for p in group["params"]]

    def data(self, number: int) -> Tensor:
        """Batch number so many: a function of seed and number, so that a run that goes back meets it again."""
        generator = torch.Generator().manual_seed(10_000 * (1 + self.seed) + number)
        if self.few is not None:
            return self.few[torch.randint(len(self.few), (BATCH,), generator=generator)]
        return sample(self.chain_VV, BATCH, generator)

    def train(
        self,
        fault: Callable[[Loop, int], None] | None = None,
        *,
        thresholds: Thresholds | None = None,
        record: Path | None = None,
        guard: Callable[[Loop], Guard] | None = None,
        each: Callable[[int], None] | None = None,
        until: int = STEPS,
    ) -> Monitor:
        """Steps up to `until`, with a monitor; `fault(loop, step)` is called before every step, from 0."""
        monitor = Monitor(
            self.optimizer,
            self.scheduler,
            thresholds=thresholds,
            every=EVERY,
            clip=CLIP,
            record=record,
            guard=guard(self) if guard else None,
        )
        # Processor time: what else runs on the machine is no fault of the run's.
        monitor._clock = time.process_time
        step = 0
        with monitor:
            while step < min(until, self.steps) and monitor.stopped is None:
                if fault is not None:
                    fault(self, step)
                loss, norm, loads, entropy = self.step(monitor.guard.batch(step) if monitor.guard else step)
                step += 1
                del self.losses[step - 1 :]  # of steps that a guard went back over
                self.losses.append(loss.item())
                tokens = step * BATCH * LENGTH
                monitor.observe(step, loss, grad_norm=norm, router_loads=loads, router_entropy=entropy, tokens=tokens)
                if step % 20 == 0:
                    monitor.evaluated(step, self.evaluate(), tokens=tokens)
                if each is not None:
                    each(step)
                step = monitor.step
        return monitor

    def step(self, number: int) -> tuple[Tensor, Tensor, Tensor, float]:
        """One step; loss, gradient norm before clipping, tokens of every expert of each block [L, E], entropy."""
        tokens_BT = self.batch(self.data(number), number)
        output = self.model(tokens_BT[:, :-1], tokens_BT[:, 1:])
        self.before_backward(output.objective).backward()
        self.before_clip()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.after_step()
        self.scheduler.step()
        if self.zeroes:
            self.optimizer.zero_grad()
        statistics = router_statistics(output.routings)
        assert statistics is not None
        loads_LE = torch.stack([routing.tokens for routing in output.routings])
        return self.before_backward(output.loss.detach()), norm, loads_LE, statistics.entropy

    @torch.no_grad()
    def evaluate(self) -> float:
        """Held-out loss, nats per token."""
        return self.model(self.valid[:, :-1], self.valid[:, 1:]).loss.item()


@dataclass(frozen=True)
class Fault:
    """A planted fault: how, what it is called by, and whether it is there from the first step on."""

    plant: Callable[[Loop, int], None]
    expected: Sequence[tuple[str, str | None]]
    """(check, component) that name it; a component of "*" is any, None is none."""
    start: int = AT
    options: dict[str, Any] = field(default_factory=dict)

    def names(self, alarm: Alarm) -> bool:
        """Whether an alarm says what is wrong, and where."""
        return any(alarm.check == check and where in ("*", alarm.component) for check, where in self.expected)


def _from(start: int, change: Callable[[Loop], None]) -> Callable[[Loop, int], None]:
    return lambda loop, step: change(loop) if step == start else None


def _one_batch(change: Callable[[Loop], None], restore: Callable[[Loop], None]) -> Callable[[Loop, int], None]:
    return lambda loop, step: change(loop) if step == AT else restore(loop) if step == AT + 1 else None


def _plain(loop: Loop) -> None:
    loop.before_backward, loop.batch = (lambda loss: loss), (lambda tokens, number: tokens)


def _nan_loss(loop: Loop) -> None:
    loop.before_backward = lambda loss: loss * float("nan")


def _inf_gradient(loop: Loop) -> None:
    def overflow() -> None:
        gradient = loop.weights("embedding")[0].grad
        assert gradient is not None
        gradient[0, 0] = float("inf")

    loop.before_clip = overflow


def _random(loop: Loop) -> None:
    loop.batch = lambda tokens, number: torch.randint(VOCAB, tokens.shape, generator=loop.generator)


def _other_chain(loop: Loop) -> None:
    loop.chain_VV = chain(1)


def _biased_data(loop: Loop) -> None:
    """Half of the tokens never occur in what is trained on, and do in what is held out."""
    chain_VV = loop.chain_VV.clone()
    chain_VV[:, VOCAB // 2 :] = 0
    loop.chain_VV = chain_VV / chain_VV.sum(-1, keepdim=True)


def _summed(loop: Loop) -> None:
    loop.before_backward = lambda loss: loss * BATCH * LENGTH


def _not_zeroed(loop: Loop) -> None:
    loop.zeroes = False


def _anew(component: str) -> Callable[[Loop], None]:
    """Weights of another initialisation, as from a wrong checkpoint."""

    def load(loop: Loop) -> None:
        generator = torch.Generator().manual_seed(loop.seed)
        with torch.no_grad():
            for weight in loop.weights(component):
                weight.copy_(weight.std() * torch.randn(weight.shape, generator=generator))

    return load


def poison(loop: Loop) -> None:
    """The batches of POISON overflow, whenever they are met."""

    def spoil(tokens: Tensor, number: int) -> Tensor:
        loop.before_backward = (lambda loss: loss * float("nan")) if number in POISON else (lambda loss: loss)
        return tokens

    loop.batch = spoil


def _few(loop: Loop) -> None:
    loop.few = sample(loop.chain_VV, 12, torch.Generator().manual_seed(loop.seed))


def _put_first(hooks: Any, hook: Callable[..., None]) -> None:
    """Before the monitor's own hook, which is there already."""
    hooks[-1] = hook
    hooks.move_to_end(-1, last=False)


def _second_writer(loop: Loop) -> None:
    """Multiplies attention's rate for the length of the optimizer's step, so that the scheduler does not see it."""
    groups = [group for group in loop.optimizer.param_groups if group["component"] == "attention"]
    kept: list[float] = []

    def before(*call: Any) -> None:
        kept[:] = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 3 * group["lr"]

    def after(*call: Any) -> None:
        for group, rate in zip(groups, kept, strict=True):
            group["lr"] = rate

    _put_first(loop.optimizer._optimizer_step_pre_hooks, before)
    loop.optimizer.register_step_post_hook(after)


def _base_rate(loop: Loop) -> None:
    peaks = {name: 20 * peak for name, peak in loop.scheduler.state_dict()["base_lrs"].items()}
    loop.scheduler.change(loop.scheduler.ratios, peaks)


def _detached(component: str) -> Callable[[Loop], None]:
    def cut(loop: Loop) -> None:
        for weight in loop.weights(component):
            if weight.grad is not None:
                weight.grad.zero_()

    return lambda loop: setattr(loop, "before_clip", lambda: cut(loop))


def _lost(component: str) -> Callable[[Loop], None]:
    """The optimizer trains a copy that the model does not use: weights stay what they were."""

    def plant(loop: Loop) -> None:
        kept = [weight.detach().clone() for weight in loop.weights(component)]

        def undo(*call: Any) -> None:
            with torch.no_grad():
                for weight, old in zip(loop.weights(component), kept, strict=True):
                    weight.copy_(old)

        _put_first(loop.optimizer._optimizer_step_post_hooks, undo)

    return plant


def _scaled_gradient(component: str, factor: float) -> Callable[[Loop], None]:
    def scale(loop: Loop) -> None:
        for weight in loop.weights(component):
            if weight.grad is not None:
                weight.grad.mul_(factor)

    return lambda loop: setattr(loop, "before_clip", lambda: scale(loop))


def _one_expert(loop: Loop) -> None:
    """A large logit for the first expert."""
    for module in loop.model.modules():
        if isinstance(module, MoE):
            module._route = functools.partial(_biased, module)


def _biased(module: MoE, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    logits_NE = module.router(x_ND) + 30 * torch.eye(module.n_experts)[0]
    log_sum_N = logits_NE.logsumexp(-1)
    return (logits_NE - log_sum_N[:, None]).exp(), log_sum_N


def _dead_router(loop: Loop) -> None:
    with torch.no_grad():
        for weight in loop.weights("router"):
            weight.zero_()
    _detached("router")(loop)


def _growing(loop: Loop) -> None:
    """Weight decay of the wrong sign."""
    for group in loop.optimizer.param_groups:
        if group["component"] == "experts":
            group["weight_decay"] = -20.0


def _slow(loop: Loop) -> None:
    usual = (time.process_time() - loop.began) / AT

    def work() -> None:
        until = time.process_time() + 3 * usual
        while time.process_time() < until:
            pass

    loop.after_step = work


def _nothing(loop: Loop, step: int) -> None:
    pass


LOSS = ("loss_spike", "loss_rise")
FAULTS: dict[str, Fault] = {
    "loss of one step is NaN": Fault(_one_batch(_nan_loss, _plain), [("non_finite", "*")]),
    "gradient of the embedding overflows": Fault(_from(AT, _inf_gradient), [("non_finite", "*")]),
    "five batches of noise": Fault(
        lambda loop, step: _random(loop) if step == AT else _plain(loop) if step == AT + 5 else None,
        [(check, None) for check in LOSS],
    ),
    "targets are noise from here on": Fault(_from(AT, _random), [(check, None) for check in LOSS]),
    "data of another distribution": Fault(_from(AT, _other_chain), [(check, None) for check in LOSS]),
    "the loss is a sum, no longer a mean": Fault(_from(AT, _summed), [(check, "*") for check in LOSS]),
    "biased data": Fault(_from(0, _biased_data), [("generalisation_gap", None)], start=0),
    "gradients are not set to zero": Fault(_from(AT, _not_zeroed), [("gradient_spike", "*"), ("loss_rise", "*")]),
    "the unembedding is another run's": Fault(_from(AT, _anew("unembedding")), [(check, "*") for check in LOSS]),
    "few data, repeated": Fault(_from(0, _few), [("generalisation_gap", None)], start=0),
    "a second writer, rate of attention x 3": Fault(_from(AT, _second_writer), [("rate_off_schedule", "attention")]),
    "base rate x 20": Fault(_from(AT, _base_rate), [("update_ratio_high", "*"), *((check, None) for check in LOSS)]),
    "ratio of attention 30": Fault(
        _nothing,
        [("update_ratio_high", "attention")],
        start=0,
        options={"ratios": {**RATIOS, "attention": 30.0}},
    ),
    "ratio of the unembedding 0.001": Fault(
        _nothing,
        [("update_ratio_low", "unembedding")],
        start=0,
        options={"ratios": {**RATIOS, "unembedding": 0.001}},
    ),
    "attention gets no gradient": Fault(_from(AT, _detached("attention")), [("dead_component", "attention")]),
    "the optimizer has lost the experts": Fault(_from(AT, _lost("experts")), [("dead_component", "experts")]),
    "gradient of the router x 100": Fault(_from(AT, _scaled_gradient("router", 100.0)), [("gradient_spike", "router")]),
    "gradient of attention x 1000": Fault(
        _from(AT, _scaled_gradient("attention", 1000.0)), [("clip_starvation", "attention")]
    ),
    "all tokens to one expert": Fault(_from(AT, _one_expert), [("router_collapse", "router")]),
    "the router is dead": Fault(_from(AT, _dead_router), [("router_uniform", "router"), ("dead_component", "router")]),
    "weights of the experts grow": Fault(_from(AT, _growing), [("weight_growth", "experts")]),
    "each step takes four times as long": Fault(_from(AT, _slow), [("throughput", None)]),
}
