"""One optimizer step again, from what it started from, with other rates, decays or gradients.

Nothing of the run is written to: a replay works on copies that take the places of parameters, gradients, state and
groups while it lasts, and the run's own objects go back into their places afterwards, random generators included.
"""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from rlrs.slices import scale_slices

_NARROW = (torch.bfloat16, torch.float16)
"""Dtypes whose rounding hides what a rate does; replayed in float32."""

_NOT_COPIED = ("state", "param_groups", "defaults", "step", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: of a `DTensor` its shard, else the tensor itself, detached."""
    return getattr(tensor, "_local_tensor", tensor).detach()


def is_narrow(parameter: Tensor) -> bool:
    """Whether a parameter is replayed in float32: of 16 bits, and not sharded."""
    return parameter.dtype in _NARROW and not hasattr(parameter, "_local_tensor")


class Replay:
    """What a step of `optimizer` starts from, copied when this is made: just before the step.

    Args:
        optimizer: about to step. Gradients that do not exist yet (a closure makes them) are taken by `take_gradients`.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = list(
            {id(p): p for group in optimizer.param_groups for p in group["params"] if isinstance(p, Tensor)}.values()
        )
        self.before = [local(p).clone() for p in self.parameters]
        memo: dict[int, Any] = {}
        self.groups = [
            {k: v if k == "params" else _copied(v, memo) for k, v in g.items()} for g in optimizer.param_groups
        ]
        self.rates = [_number(group.get("lr")) for group in self.groups]
        self._state = {key: _copied(value, memo) for key, value in optimizer.state.items()}
        self._attributes = {k: _copied(v, memo) for k, v in vars(optimizer).items() if k not in _NOT_COPIED}
        self.take_gradients()

    def take_gradients(self) -> None:
        """Copy the gradients that the step is about to use, and the state of the random generators."""
        self.gradients = [None if p.grad is None else p.grad.detach().clone() for p in self.parameters]
        self._random = _random_state()

    def run(
        self,
        *,
        factors: Sequence[float] | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
        gradient: float = 1.0,
        fresh: bool = False,
    ) -> list[Tensor]:
        """Changes of all parameters in a step that differs from the real one as told, in float32 or wider.

        Args:
            factors: times the rate of every group.
            change: further changes to a (copied) group.
            gradient: times the gradients.
            fresh: from an optimizer that has not stepped yet.

        Raises:
            Exception: whatever the optimizer raises; the run is as before all the same.
        """
        memo: dict[int, Any] = {}
        groups = [{k: v if k == "params" else _copied(v, memo) for k, v in g.items()} for g in self.groups]
        for index, group in enumerate(groups):
            if factors is not None and self.rates[index] is not None:
                group["lr"] = group["lr"] * factors[index]
            if fresh:
                group.update(self._first(index))
            if change is not None:
                change(group)
        state = {} if fresh else {key: self._copied_state(key, memo) for key in self._state}
        attributes = {key: _copied(value, memo) for key, value in self._attributes.items()}
        work = [b.to(torch.float32) if is_narrow(p) else b for p, b in self._pairs()]
        work = [tensor.clone() for tensor in work]
        with _swapped_in(self.optimizer, groups, state, attributes), self._tensors(work, gradient):
            _restore_random(self._random)
            _step(self.optimizer)
        return [_change(after, before) for after, before in zip(work, self.before, strict=True)]

    def _first(self, index: int) -> dict[str, Any]:
        """What the optimizer counts in a group (steps, a largest rate), as its defaults have it; known after a step."""
        before, after, defaults = self.groups[index], self.optimizer.param_groups[index], self.optimizer.defaults
        numbers = {k: v for k, v in before.items() if isinstance(v, int | float) and k not in ("lr", "weight_decay")}
        return {k: defaults[k] for k, v in numbers.items() if k in defaults and after.get(k) != v}

    def is_compensated(self, parameter: Tensor) -> bool:
        """Whether the optimizer keeps what rounding takes from a weight (Kahan's summation), to add it later."""
        state = self.optimizer.state.get(parameter, {})
        return isinstance(state, dict) and any("comp" in str(key) for key in state)

    def moved(self) -> list[Tensor]:
        """Changes of all parameters in the real step, which has just ended."""
        return [_change(local(p), before) for p, before in self._pairs()]

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.parameters, self.before, strict=True)

    def _copied_state(self, key: Any, memo: dict[int, Any]) -> Any:
        return _copied(self._state[key], memo, widen=isinstance(key, Tensor) and is_narrow(key))

    @contextmanager
    def _tensors(self, work: Sequence[Tensor], gradient: float) -> Iterator[None]:
        """Working copies in the places of parameters and gradients."""
        kept = [(p, p.grad, getattr(p, "_local_tensor", p.data)) for p in self.parameters]
        try:
            for p, tensor, grad in zip(self.parameters, work, self.gradients, strict=True):
                p.grad = None  # of another dtype, it could not stay beside the data
                _place(p, tensor)
                if grad is not None:
                    grad = grad.to(torch.float32) if is_narrow(grad) else grad.clone()
                    p.grad = grad.mul_(gradient) if gradient != 1 else grad
            yield
        finally:
            for p, grad, data in kept:
                p.grad = None
                _place(p, data)
                p.grad = grad


def _number(rate: Any) -> float | None:
    return None if rate is None else float(rate)


def _place(parameter: Tensor, data: Tensor) -> None:
    if hasattr(parameter, "_local_tensor"):
        parameter._local_tensor = data  # pyright: ignore[reportAttributeAccessIssue]
    else:
        parameter.data = data


def _change(after: Tensor, before: Tensor) -> Tensor:
    wide = torch.float64 if before.dtype == torch.float64 else torch.float32
    return after.detach().to(wide) - before.to(wide)


def _copied(value: Any, memo: dict[int, Any], *, widen: bool = False) -> Any:
    """A copy of what a step may write to: tensors, and containers of them. One tensor at two places stays one."""
    if isinstance(value, Tensor):
        if isinstance(value, nn.Parameter) or value.requires_grad:
            return value
        if id(value) not in memo:
            copy = value.detach().clone()
            memo[id(value)] = copy.to(torch.float32) if widen and is_narrow(copy) else copy
        return memo[id(value)]
    if type(value) in (dict, defaultdict, OrderedDict):
        copy = value.copy()
        copy.update((key, _copied(v, memo, widen=widen)) for key, v in value.items())
        return copy
    if type(value) in (list, tuple, set):
        return type(value)(_copied(v, memo, widen=widen) for v in value)
    return value


@contextmanager
def _swapped_in(
    optimizer: Optimizer, groups: list[dict[str, Any]], state: dict[Any, Any], attributes: dict[str, Any]
) -> Iterator[None]:
    """Copied groups, state and attributes in the places of the optimizer's own; hooks of slices alone."""
    own = dict(vars(optimizer))
    group_items = [dict(group) for group in optimizer.param_groups]
    hooks: list[dict[int, Any]] = [_global_optimizer_pre_hooks, _global_optimizer_post_hooks]
    global_hooks = [list(each.items()) for each in hooks]
    try:
        for each in hooks:
            each.clear()
        vars(optimizer).update(attributes)
        for group, copy in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(copy)
        optimizer.state = defaultdict(dict, state)
        # A step that calls its parent class's would run hooks in there.
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            mine = ((key, hook) for key, hook in own.get(name, {}).items() if _scales_slices(hook))
            setattr(optimizer, name, OrderedDict(mine))
        yield
    finally:
        for group, items in zip(optimizer.param_groups, group_items, strict=True):
            group.clear()
            group.update(items)
        vars(optimizer).clear()
        vars(optimizer).update(own)
        for each, items in zip(hooks, global_hooks, strict=True):
            each.update(items)


def _scales_slices(hook: Any) -> bool:
    """Whether a hook is of `rlrs.slices`: part of the step, where others may count or write."""
    hook = hook.func if isinstance(hook, partial) else hook
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module == scale_slices.__module__


def _step(optimizer: Optimizer) -> None:
    """The class's own step, without torch's wrapper, the scheduler's, or a compiled one; slices scaled around it."""
    step = type(optimizer).step
    while getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    before, after = (
        list(optimizer._optimizer_step_pre_hooks.values()),
        list(optimizer._optimizer_step_post_hooks.values()),
    )
    optimizer._optimizer_step_pre_hooks = OrderedDict()
    optimizer._optimizer_step_post_hooks = OrderedDict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for hook in before:
            hook(optimizer, (optimizer,), {})
        step(optimizer)
        for hook in after:
            hook(optimizer, (optimizer,), {})


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()


def _restore_random(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    random.setstate(state[2])
    np.random.set_state(state[3])


@contextmanager
def random_untouched() -> Iterator[None]:
    """Leave all random generators as they were."""
    state = _random_state()
    try:
        yield
    finally:
        _restore_random(state)
