"""What one real optimizer step did to every parameter, and what its replays say the rate has to do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlrs._verify.replay import Replay, is_narrow, local

CLOSE = 0.02
"""How far a response may be from 1 or 2, beside rounding. Doubling gives exactly 2 but for rounding, no effect exactly
1: between them 2 % is far from either. Chosen here."""

PROBE_RATE = 0.1
"""Least rate in a replay that measures weight decay, so that `rate * decay` is well above float32's rounding of the
weight (1e-7) for every decay from 1e-4 on. Chosen here."""


@dataclass
class ParameterStep:
    """One parameter in one step. Sizes are Euclidean norms; with sharded tensors, of this rank's part."""

    group: int
    gradient: float = 0.0
    """Size of the gradient that the step used."""
    moved: float = 0.0
    """Size of the real change."""
    expected: float = 0.0
    """Size of the change in a replay with nothing changed."""
    gain: float = 1.0
    """Real change along the replayed one, over it: 1 where nothing but the optimizer moves the weight."""
    off: float = 0.0
    """Part of the real change that is not along the replayed one, over that."""
    tolerance: float = CLOSE
    """Of responses: `CLOSE` and what rounding of weight and update can do."""
    responses: list[float] = field(default_factory=list)
    """By which factor the change grew in each replay with coded rates."""
    fresh_response: float | None = None
    """The same with twice the rates, for an optimizer without a past; where `responses` were neither 1 nor 2."""
    gradient_response: float | None = None
    """By which factor doubled gradients change the first step of an optimizer without a past; None if not asked."""
    decay: DecayStep | None = None
    left: float | None = None
    """What is left of the change when the optimizer's next step begins, along it; None before that."""


@dataclass
class DecayStep:
    """What a step without gradients does to a weight: the optimizer's own weight decay."""

    said: float
    """The group's `weight_decay`."""
    done: float
    """Share of the weight by which it shrank, over the rate; 0 if it did not move."""
    off: float
    """Part of that change that is not along the weight, over the whole change."""
    response: float
    """By which factor twice the rate changes it; nan if it does not move."""
    acts: bool = True
    """Whether another decay changes the step with its gradients."""


@dataclass
class Step:
    """One real step of one optimizer."""

    optimizer: Optimizer
    number: int | None
    """Steps that the optimizer had done, by the `step` of its state; None if it keeps none."""
    rates: list[float | None]
    scheduled: list[bool]
    """Whether a torch scheduler knows the group."""
    backwards: int
    """Backward passes since the loop is watched."""
    positions: dict[int, int | None]
    """Scheduler (by its place in the list) -> its `last_epoch`."""
    promised: dict[int, list[float]]
    """Scheduler -> the rates it says its optimizers' groups have now."""
    gradients: dict[int, Tensor]
    """Parameter (by id) -> a sample of the gradient that the step used."""
    arrived: dict[int, Tensor]
    """The same as the last backward pass left it, where one was seen."""
    parameters: dict[int, ParameterStep] = field(default_factory=dict)
    problem: str | None = None
    """Why it could not be replayed."""


def sample(tensor: Tensor) -> Tensor:
    """At most 1,024 elements of a tensor, evenly spread, as float32."""
    flat = local(tensor).reshape(-1)
    return flat[:: max(1, flat.numel() // 1024)].to(torch.float32, copy=True)


def step_number(optimizer: Optimizer) -> int | None:
    """Steps that an optimizer's state says it has done: the largest of its parameters'."""
    steps = [s["step"] for s in optimizer.state.values() if isinstance(s, dict) and "step" in s]
    return max((int(s) for s in steps), default=None) if steps else None


def measure(replay: Replay, step: Step) -> None:
    """Fill in `step.parameters`: replays with nothing changed, with coded rates, and without gradients."""
    index = {id(p): g for g, group in enumerate(replay.groups) for p in group["params"]}
    moved, same = replay.moved(), replay.run()
    shown: list[tuple[int, Tensor, ParameterStep]] = []
    for i, parameter in enumerate(replay.parameters):
        here = ParameterStep(group=index[id(parameter)])
        step.parameters[id(parameter)] = here
        here.moved, here.expected = _size(moved[i]), _size(same[i])
        gradient = replay.gradients[i]
        if gradient is None:
            continue
        here.gradient = _size(local(gradient))
        if here.expected:
            if is_narrow(parameter) and replay.is_compensated(parameter):
                moved[i] = same[i]  # what rounding swallows now comes later
            here.gain = _along(moved[i], same[i])
            here.off = _size(moved[i] - here.gain * same[i]) / here.expected
            here.tolerance = CLOSE + _rounding(replay.before[i], parameter, here.expected)
            if replay.rates[here.group]:
                shown.append((i, same[i], here))
    _measure_rates(replay, shown)
    _measure_decays(replay, shown)


def _measure_rates(replay: Replay, shown: Sequence[tuple[int, Tensor, ParameterStep]]) -> None:
    """Replays in which group `g` has twice its rate where bit `b` of `g + 1` is set, for every bit `b`.

    A parameter's responses, 2 or 1, then spell the number of the group whose rate moves it, in about log2 of as many
    replays as there are groups.
    """
    count = len(replay.groups)
    for bit in range(count.bit_length()):
        changes = replay.run(factors=[2.0 if (g + 1) >> bit & 1 else 1.0 for g in range(count)])
        for i, same, here in shown:
            here.responses.append(_along(changes[i], same))
    unclear = [
        (i, here) for i, _, here in shown if any(min(abs(r - 1), abs(r - 2)) > here.tolerance for r in here.responses)
    ]
    if unclear and (first := _try(replay, fresh=True)) and (double := _try(replay, fresh=True, factors=[2.0] * count)):
        for i, here in unclear:
            here.fresh_response = _along(double[i], first[i]) if _size(first[i]) else None


def measure_gradients(replay: Replay, step: Step) -> None:
    """Fill in how the first step of an optimizer without a past answers to doubled gradients."""
    once, twice = _try(replay, fresh=True), _try(replay, fresh=True, gradient=2.0)
    if once is None or twice is None:
        return
    for i, parameter in enumerate(replay.parameters):
        if size := _size(once[i]):
            step.parameters[id(parameter)].gradient_response = _size(twice[i]) / size


def _measure_decays(replay: Replay, shown: Sequence[tuple[int, Tensor, ParameterStep]]) -> None:
    """A step without gradients of an optimizer without a past: what is left is weight decay."""
    factors = [max(1.0, PROBE_RATE / rate) if rate else 1.0 for rate in replay.rates]
    once = _try(replay, fresh=True, gradient=0.0, factors=factors)
    twice = _try(replay, fresh=True, gradient=0.0, factors=[2 * f for f in factors])
    if once is None or twice is None:
        return
    doubtful = []
    for i, _, here in shown:
        said = replay.groups[here.group].get("weight_decay")
        weight = replay.before[i].to(once[i].dtype)
        size = _size(weight)
        rate = replay.rates[here.group]
        if not isinstance(said, int | float) or not size or not rate or not bool(torch.isfinite(once[i]).all()):
            continue
        rate *= factors[here.group]
        noise = 8 * _unit(weight, replay.parameters[i])
        if said and rate * said < 4 * noise:
            continue  # rounding of the weight would hide it
        change = _size(once[i])
        if change <= noise * size:
            here.decay = DecayStep(said=float(said), done=0.0, off=0.0, response=float("nan"))
            doubtful += [(i, here)] if said else []
            continue
        # Experts in one tensor have shares of its rate, and the fastest of them has all of it.
        sliced = bool(replay.groups[here.group].get("slices")) and once[i].ndim > 1
        rows = (once[i].flatten(1), weight.flatten(1)) if sliced else (once[i].reshape(1, -1), weight.reshape(1, -1))
        shares = -(rows[0] * rows[1]).sum(1) / (rows[1] * rows[1]).sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
        off = _size(rows[0] + shares[:, None] * rows[1]) / change
        here.decay = DecayStep(float(said), float(shares.max()) / rate, off, _along(twice[i], once[i]))
    if doubtful:
        _confirm_decays(replay, doubtful)


def _confirm_decays(replay: Replay, doubtful: Sequence[tuple[int, ParameterStep]]) -> None:
    """Whether decay acts beside gradients, where it does not without: one that is masked by the update, say."""

    def set_decay(value: float) -> Callable[[dict[str, Any]], None]:
        def change(group: dict[str, Any]) -> None:
            if isinstance(group.get("weight_decay"), int | float):
                group["weight_decay"] = value

        return change

    factors = [max(1.0, PROBE_RATE / rate) if rate else 1.0 for rate in replay.rates]
    none, much = (_try(replay, factors=factors, change=set_decay(value)) for value in (0.0, 1.0))
    for i, here in doubtful:
        assert here.decay is not None
        here.decay.acts = none is None or much is None or not torch.equal(none[i], much[i])


def _try(replay: Replay, **options: Any) -> list[Tensor] | None:
    """A replay that not every optimizer can do: one whose state is made in its constructor has no first step."""
    try:
        return replay.run(**options)
    except Exception:
        return None


def _size(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.float() if tensor.dtype != torch.float64 else tensor))


def _along(tensor: Tensor, direction: Tensor) -> float:
    """`tensor` along `direction`, in units of it."""
    square = float(torch.sum(direction * direction, dtype=torch.float64))
    return float(torch.sum(tensor * direction, dtype=torch.float64)) / square


def _unit(weight: Tensor, parameter: Tensor) -> float:
    """Relative rounding of a replayed weight."""
    dtype = weight.dtype if is_narrow(parameter) else parameter.dtype
    return torch.finfo(dtype).eps / 2


def _rounding(before: Tensor, parameter: Tensor, change: float) -> float:
    """The most that rounding can do to a response: every new weight is off by at most half a unit in its last place.

    Of three such errors (twice one change against another) and a step's own arithmetic, eight roundings.
    """
    dtype = torch.float32 if is_narrow(parameter) else parameter.dtype
    unit = torch.finfo(dtype).eps / 2
    return 3 * unit * _size(before) / change + 8 * unit
