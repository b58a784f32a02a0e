"""Gradients that change between the backward pass and the step: scaling that does nothing, clipping that does."""

from __future__ import annotations

import math
from statistics import median

import torch

from rlrs._verify.loop_watch import LoopWatch, multiple
from rlrs._verify.measuring import Step
from rlrs._verify.promise import Fault, Faults, Promise

SAME = 0.01
"""Factors within 1 % of one another are one factor: gradients of 16 bits are rounded to 0.4 %. Chosen here."""

CUT = 0.5
"""A component whose gradient is cut to less than half of what the others keep is clipped. Chosen here."""

ALL_CUT = 0.1
"""Clipping of everything counts where it leaves less than a tenth in every step that was seen: then the clip and not
the rate decides how far a step goes. Ordinary clipping, now and then or by a few times, is below it. Chosen here."""

INVARIANT = 1.1
"""An optimizer whose first step grows by less than 10 % with doubled gradients does not follow their size: 1 for Adam,
2 for SGD."""


def judge_gradients(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """Every parameter whose gradient has another factor than most have."""
    history = [(step, factors) for step in watch.steps if (factors := _factors(watch, step))]
    commons = {id(step): _common(factors) for step, factors in history}
    by_parameter: dict[int, list[tuple[Step, float, bool]]] = {}
    for step, factors in history:
        for key, (factor, exact) in factors.items():
            by_parameter.setdefault(key, []).append((step, factor / commons[id(step)], exact))
    for key, seen in by_parameter.items():
        step = seen[-1][0]
        answer = step.parameters[key].gradient_response if key in step.parameters else None
        factors = [factor for _, factor, _ in seen]
        if answer is None or all(abs(factor - 1) <= SAME for factor in factors):
            continue
        name, typical = type(step.optimizer).__name__, median(factors)
        constant = all(exact and abs(factor - typical) <= SAME * typical for _, factor, exact in seen)
        if constant and len(seen) > 1 and answer < INVARIANT:
            cause = f"its gradient is multiplied by {typical:.3g}, which {name} divides out again"
            yield key, Fault("inert", 1 / typical, cause, "give it a group with a rate of its own instead")
        elif constant and len(seen) > 1:
            notes.append(
                f"{promise.component(key)}: gradients are multiplied by {typical:.3g}, beside the group's rate"
            )
        elif typical < CUT and answer >= INVARIANT:
            cause = f"its gradient is clipped to {typical:.3g} of what the others keep, and the step of {name} with it"
            yield key, Fault("clipped", typical, cause, "clip all gradients together, or raise this clip's bound")
    yield from _all_cut(history, commons)


def _all_cut(history: list[tuple[Step, dict[int, tuple[float, bool]]]], commons: dict[int, float]) -> Faults:
    """Clipping of everything, under an optimizer that follows the size of gradients."""
    values = [commons[id(step)] for step, _ in history]
    varies = len(values) > 1 and max(values) - min(values) > SAME * max(values)
    if not varies or max(values) >= ALL_CUT or max(values) < 2**-8:  # below: a loss scale of fp16 is taken out
        return
    for step, factors in history[-1:]:
        for key in factors:
            answer = step.parameters[key].gradient_response if key in step.parameters else None
            if answer is not None and answer >= INVARIANT:
                cause = (
                    f"all gradients are clipped to {median(values):.3g} or less in every step, and the steps of "
                    f"{type(step.optimizer).__name__} with them"
                )
                yield (
                    key,
                    Fault("clipped", median(values), cause, "raise the clip's bound, or lower the rate instead"),
                )


def _factors(watch: LoopWatch, step: Step) -> dict[int, tuple[float, bool]]:
    """Parameter -> what its gradient was multiplied by on the way to the step, and whether all its elements were."""
    factors: dict[int, tuple[float, bool]] = {}
    for key, arrived in step.arrived.items():
        if (used := step.gradients.get(key)) is None:
            continue
        before = float(torch.linalg.vector_norm(arrived))
        after = float(torch.linalg.vector_norm(used))
        if not before or not after or not math.isfinite(before) or not math.isfinite(after):
            continue
        exact = multiple(arrived, used)
        factor = after / before if exact is None else exact
        for hook in watch.hook_factors.get(key, ())[-1:]:
            factor *= hook
        factors[key] = (factor, exact is not None)
    return factors


def _common(factors: dict[int, tuple[float, bool]]) -> float:
    """The factor that most parameters have: of averaging, a loss scale, clipping by the norm of all."""
    values = sorted(factor for factor, _ in factors.values())
    groups: list[list[float]] = []
    for value in values:
        if groups and value - groups[-1][0] <= SAME * abs(groups[-1][0]):
            groups[-1].append(value)
        else:
            groups.append([value])
    most = max(groups, key=lambda group: (len(group), group[0]))
    return median(most)
