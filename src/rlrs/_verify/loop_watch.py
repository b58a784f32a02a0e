"""A training loop while it is watched: its backward passes, optimizer steps and schedulers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rlrs._verify.measuring import Step, measure, measure_gradients, sample, step_number
from rlrs._verify.replay import Replay, random_untouched
from rlrs.lr_scheduler import RelativeLR


class LoopWatch:
    """Everything seen of a loop, as `steps`; see `rlrs.verify` for the arguments.

    Optimizers are seen by torch's hooks for all of them, also those that nobody named; backward passes by
    `torch.autograd.backward`, through which every `loss.backward()` goes.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], schedulers: Sequence[Any], limit: int
    ) -> None:
        self.model, self.schedulers, self.limit = model, list(schedulers), limit
        self.optimizers = list({id(optimizer): optimizer for optimizer in optimizers}.values())
        self.steps: list[Step] = []
        self.containers: list[Optimizer] = []
        """Optimizers that call others, whose steps are the ones looked at."""
        self.hook_factors: dict[int, list[float]] = {}
        """Parameter (by id) -> by what its gradient hooks multiplied each gradient, where they do just that."""
        self.on_done: Callable[[], None] = lambda: None
        self._trained = {id(p): p for p in model.parameters()}
        self._open: list[tuple[Optimizer, Replay | None]] = []
        self._backwards = 0
        self._arrived: dict[int, Tensor] = {}
        self.moved: dict[int, tuple[Step, Tensor, Tensor]] = {}
        """Parameter (by id) -> its last step, and samples of it before and after that."""
        self._handles: list[Any] = []
        self._backward: Callable[..., Any] | None = None
        self.entry_rates = {id(o): [_rate(g) for g in o.param_groups] for o in self.optimizers}

    def start(self) -> None:
        """Begin to watch."""
        before: Any = self._before_step
        after: Any = self._after_step
        if "torch._dynamo" in sys.modules:  # a compiled step would compile its hooks too
            before, after = torch.compiler.disable(before), torch.compiler.disable(after)
        self._handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        for parameter in self._trained.values():
            self._watch_gradient_hooks(parameter)
        self._backward = original = torch.autograd.backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            self._backwards += 1
            result = original(*args, **kwargs)
            self._arrived.update((id(p), sample(p.grad)) for p in self._trained.values() if p.grad is not None)
            return result

        torch.autograd.backward = backward

    def stop(self) -> None:
        """Watch no more; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._backward is not None:
            torch.autograd.backward = self._backward
            self._backward = None

    def seen(self, optimizer: Optimizer) -> list[Step]:
        """The watched steps of one optimizer, in order."""
        return [step for step in self.steps if step.optimizer is optimizer]

    def _concerns(self, optimizer: Optimizer) -> bool:
        return any(optimizer is o for o in self.optimizers) or any(
            id(p) in self._trained for group in optimizer.param_groups for p in group["params"]
        )

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._open and self._open[-1][0] is optimizer:  # a class's step that calls its parent's
            self._open.append((optimizer, None))
            return None
        self.containers += [outer for outer, _ in self._open if not any(outer is o for o in self.containers)]
        if not self._concerns(optimizer) or len(self.seen(optimizer)) >= self.limit:
            self._open.append((optimizer, None))
            return None
        with random_untouched(), torch.no_grad():
            replay = Replay(optimizer)
            self._look_between(replay)
        self._open.append((optimizer, replay))
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            return None

        def with_gradients(*a: Any, **k: Any) -> Any:
            loss = closure(*a, **k)
            replay.take_gradients()
            return loss

        return (
            ((args[0], with_gradients, *args[2:]), kwargs)
            if len(args) > 1
            else (args, {**kwargs, "closure": with_gradients})
        )

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        while self._open and self._open[-1][0] is not optimizer:  # one that raised
            self._open.pop()
        if not self._open:
            return
        _, replay = self._open.pop()
        if replay is None or any(optimizer is o for o in self.containers) or _skipped(optimizer):
            return
        step = self._step(replay)
        self.steps.append(step)
        for parameter, before in zip(replay.parameters, replay.before, strict=True):
            self.moved[id(parameter)] = step, sample(before), sample(parameter)
            if parameter.grad is not None and id(parameter) in step.gradients:
                # A step hook may have multiplied it after we looked; others may have cleared it since.
                after = sample(parameter.grad)
                if multiple(step.gradients[id(parameter)], after):
                    step.gradients[id(parameter)] = after
        with random_untouched(), torch.no_grad():
            try:
                measure(replay, step)
                if self.hook_factors or any(differs(step, key) for key in step.gradients):
                    measure_gradients(replay, step)
            except Exception as error:  # an optimizer that cannot be replayed is said, and the run goes on
                step.problem = f"{type(error).__name__}: {error}"
        if self._is_done():
            self.stop()
            self.on_done()

    def _look_between(self, replay: Replay) -> None:
        """What is left of the last step of every parameter, now that the next one begins."""
        for parameter in replay.parameters:
            step, before, after = self.moved.get(id(parameter), (None, None, None))
            if step is None or before is None or after is None or step.optimizer is not replay.optimizer:
                continue
            moved, now = after - before, sample(parameter)
            square = float(moved @ moved)
            if square and (seen := step.parameters.get(id(parameter))):
                seen.left = float((now - before) @ moved) / square

    def _is_done(self) -> bool:
        every = [o for o in self.optimizers if not any(o is c for c in self.containers)]
        return all(len(self.seen(o)) >= self.limit for o in every) if every else len(self.steps) >= self.limit

    def _step(self, replay: Replay) -> Step:
        gradients = {
            id(p): sample(g) for p, g in zip(replay.parameters, replay.gradients, strict=True) if g is not None
        }
        states = replay._state.values()
        counts = [s["step"] for s in states if isinstance(s, dict) and "step" in s]
        return Step(
            optimizer=replay.optimizer,
            number=max((int(c) for c in counts), default=0) if step_number(replay.optimizer) is not None else None,
            rates=replay.rates,
            scheduled=["initial_lr" in group for group in replay.groups],
            backwards=self._backwards,
            positions={i: getattr(s, "last_epoch", None) for i, s in enumerate(self.schedulers)},
            promised={i: _promised(s) for i, s in enumerate(self.schedulers)},
            gradients=gradients,
            arrived={id(p): self._arrived.pop(id(p)) for p in replay.parameters if id(p) in self._arrived},
        )

    def _watch_gradient_hooks(self, parameter: Tensor) -> None:
        """Look at gradients before and after the hooks that somebody put on a parameter."""
        hooks = parameter._backward_hooks
        if not hooks:
            return
        seen: list[Tensor] = []
        first = parameter.register_hook(lambda gradient: seen.append(sample(gradient)))

        def compare(gradient: Tensor) -> None:
            if seen and (factor := multiple(seen.pop(), sample(gradient))) is not None:
                self.hook_factors.setdefault(id(parameter), []).append(factor)

        self._handles += [first, parameter.register_hook(compare)]
        # autograd goes by the order of insertion; an OrderedDict's `move_to_end` does not change that.
        items = list(hooks.items())
        hooks.clear()
        hooks.update(sorted(items, key=lambda item: item[0] != first.id))


def multiple(before: Tensor, after: Tensor) -> float | None:
    """`after / before` where one is a multiple of the other, to 1 %; else None."""
    square = float(before @ before)
    if not square or before.shape != after.shape:
        return None
    factor = float(before @ after) / square
    rest = float(torch.linalg.vector_norm(after - factor * before))
    return factor if rest <= 0.01 * abs(factor) * square**0.5 else None


def differs(step: Step, key: int) -> bool:
    """Whether a gradient changed between the backward pass and the step."""
    arrived, used = step.arrived.get(key), step.gradients[key]
    return arrived is not None and not torch.equal(arrived, used)


def _rate(group: dict[str, Any]) -> float | None:
    return None if group.get("lr") is None else float(group["lr"])


def _promised(scheduler: Any) -> list[float]:
    rates = scheduler.get_lr() if isinstance(scheduler, RelativeLR) else scheduler.get_last_lr()
    return [float(rate) for rate in rates]


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer found infinite gradients, by torch's GradScaler, and did nothing."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found)
