"""What steps do to weights, against rates and weight decays of their groups: each threshold is beside its use."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from statistics import median

from rlrs._verify.loop_watch import LoopWatch
from rlrs._verify.measuring import ParameterStep, Step
from rlrs._verify.promise import Fault, Faults, Promise, group_label

UNTOLD = 0.3
"""Responses that rounding can move by more say nothing: 1 and 2 are no longer far apart. Chosen here."""

_OWN_STEP = "use an optimizer whose step is proportional to its group's rate, or leave this component's ratio at 1"
_NARROW = "keep float32 weights (autocast to bfloat16 for the forward pass), or round stochastically"


def judge_responses(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """What doubled rates do to a step."""

    def look(step: Step, key: int, seen: ParameterStep) -> Fault | bool | None:
        frozen = key in promise.parameters and not promise.parameters[key].requires_grad
        if frozen and seen.moved:
            return Fault(
                "moved",
                None,
                "frozen (requires_grad is False), and still moved: an old gradient is in its .grad, so that momentum "
                "and weight decay go on",
                "set .grad to None when freezing (zero_grad(set_to_none=True)), or take it out of the optimizer",
            )
        rate = step.rates[seen.group]
        name = type(step.optimizer).__name__
        if rate is None:
            return Fault(
                "inert", 0.0, f"the group has no rate: {name} sets its own", f"give {name} a rate (relative_step=False)"
            )
        if rate and not seen.gradient and key in step.arrived and bool(step.arrived[key].any()):
            cause = "its gradient is cleared between backward() and step()"
            return Fault("inert", 0.0, cause, "call zero_grad() after step(), or before the forward pass")
        if not rate or not seen.gradient:
            return False
        if not seen.expected:
            return Fault("inert", 0.0, f"{name} has a gradient and a rate, and does not move it", _OWN_STEP)
        wide = key in promise.parameters and promise.parameters[key].dtype.itemsize > 2
        if wide and seen.off > 0.05:
            notes.append(
                f"{promise.component(key)}: its step done again is not the same (a step hook, or randomness of the "
                "optimizer's own); what the rate does is judged by the second one"
            )
        return _outside(seen) or _of_rate(step, seen, notes, promise.component(key))

    return _per_parameter(watch, look)


def _outside(seen: ParameterStep) -> Fault | None:
    """Something beside the optimizer: the replay is the same arithmetic, so that 1 % is far outside of its rounding."""
    allowed = 0.01 + (seen.tolerance - 0.02)
    if seen.gain < 0.5:
        cause = "rounding of a 16-bit weight swallows more than half of its step"
        if seen.off > 0.05 * seen.gain or seen.gain < 0.05:
            return Fault("inert", 0.0 if seen.gain < 0.005 else seen.gain, cause, _NARROW)
    if seen.off <= 0.05 * seen.gain and abs(seen.gain - 1) > allowed:
        return Fault(
            "rescaled",
            seen.gain,
            "its step is multiplied beside the optimizer's own: a step hook, or a step() that was replaced",
            "put the factor into the group's rate, where schedules and logs see it",
        )
    return None


def _of_rate(step: Step, seen: ParameterStep, notes: list[str], component: str) -> Fault | None:
    """The number that the responses spell: its own group's, none, another's, or not a number at all."""
    name, code = type(step.optimizer).__name__, seen.group + 1
    if seen.decay and seen.decay.said and abs(seen.decay.response - 2) > 0.1:
        return None  # its decay does not follow the rate, which is said of the decay
    if seen.tolerance > UNTOLD:
        notes.append(f"{component}: steps are too small beside rounding of the weights to tell what the rate does")
        return None
    near = [1 if abs(r - 1) <= seen.tolerance else 2 if abs(r - 2) <= seen.tolerance else None for r in seen.responses]
    spelt = None if None in near else sum(1 << bit for bit, value in enumerate(near) if value == 2)
    if spelt == code:
        return None
    if spelt == 0:
        return Fault("inert", 0.0, f"{name} takes the same step at twice the rate: {_why_inert(step, seen)}", _OWN_STEP)
    if spelt is not None and spelt <= len(step.rates):
        other, own = step.rates[spelt - 1], step.rates[seen.group]
        label = group_label(step.optimizer, spelt - 1)
        return Fault(
            "inert",
            (other or 0.0) / own if own else None,
            f"{name} moves it at the rate of group {label}: its step() reads one group's rate for all",
            "read group['lr'] in the loop over groups of that step()",
        )
    own = [r for bit, r in enumerate(seen.responses) if code >> bit & 1]
    first, grown = seen.fresh_response, max(own)
    if first is None or abs(first - 2) <= seen.tolerance:
        notes.append(
            f"{component}: {name} keeps earlier rates in its state, so that a new rate acts over several steps"
        )
        return None
    if grown > 2 + seen.tolerance:
        cause = f"the step of {name} grows faster than its rate, which counts more than once"
        return Fault("twice", grown / 2, cause, "let the rate multiply the update once")
    cause = f"the step of {name} grows less than its rate: it is cut after the rate, or takes a root of it"
    return Fault("clipped", grown / 2, cause, "clip the update before it is multiplied by the rate, or not at all")


def _why_inert(step: Step, seen: ParameterStep) -> str:
    name, group = type(step.optimizer).__name__, step.optimizer.param_groups[seen.group]
    if "Adafactor" in name:
        return "it caps the rate at 1 / sqrt(step), or sets its own (relative_step)"
    if "Rprop" in name:
        return "it has a step size of its own per weight"
    if "d" in group or "d_coef" in group:
        return "it finds its own"
    return "it reads a rate of its own, cuts the update after the rate, or has none"


def judge_decays(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """What an optimizer's weight decay does to a weight, against what the group says."""

    def look(step: Step, key: int, seen: ParameterStep) -> Fault | bool | None:
        decay, name = seen.decay, type(step.optimizer).__name__
        if decay is None:
            return False
        where, group = f"weight_decay={decay.said:g} in {{group}}", group_label(step.optimizer, seen.group)
        if decay.said and not decay.done and not decay.off:
            if decay.acts:
                return None
            cause = f"{where}, and {name} does not decay it"
            return Fault("decay", 0.0, cause, "apply group['weight_decay'] in step(), or set it to 0", group)
        if not decay.said:
            if decay.off < 0.1 and decay.done > 0:
                cause = f"{where}, and {name} shrinks it by {decay.done:.3g} times the rate a step"
                return Fault("decay", None, cause, "read group['weight_decay'] in step(), not a default", group)
            return None
        if decay.off > 0.1:
            return Fault(
                "decay",
                None,
                f"{name} adds {where} to the gradient (L2), and then divides it by the gradient's size: not a decay by "
                "rate x weight_decay",
                "use decoupled decay (AdamW)",
                group,
            )
        if abs(decay.response - 2) > 0.1:
            cause = f"{where}, and {name} does not multiply it by the rate: it shrinks at the same pace at any rate"
            return Fault("decay", decay.done / decay.said, cause, "multiply the decay by group['lr']", group)
        if not 0.45 < decay.done / decay.said < 2.2:
            notes.append(
                f"{promise.component(key)}: {name} decays by another factor than rate x weight_decay: it has a warm-up "
                "or a trust ratio of its own"
            )
        return None

    return _per_parameter(watch, look)


def judge_repeated(watch: LoopWatch) -> Faults:
    """Two steps of one optimizer for one backward pass, with the same gradients."""
    for optimizer in {id(s.optimizer): s.optimizer for s in watch.steps}.values():
        seen = watch.seen(optimizer)
        again: dict[int, int] = {}
        for one, two in itertools.pairwise(seen):
            if one.backwards == two.backwards > 0:
                for key in two.gradients.keys() & one.gradients.keys():
                    if bool(two.gradients[key].any()) and bool((two.gradients[key] == one.gradients[key]).all()):
                        again[key] = again.get(key, 0) + 1
        for key, count in again.items():
            cause = f"{type(optimizer).__name__} is stepped twice for one backward pass ({count} of {len(seen)} steps)"
            remedy = "call step() once: a trainer, GradScaler.step or an automatic optimization may do it already"
            yield key, Fault("twice", 2.0, cause, remedy)


def judge_elsewhere(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """What is left of a step when the next one begins: all of it, unless something else writes to the weight."""
    left: dict[int, list[float]] = {}
    for step in watch.steps:
        for key, seen in step.parameters.items():
            if seen.left is not None:
                left.setdefault(key, []).append(seen.left)
    for key, shares in left.items():
        share = median(shares)
        if not 0.5 <= share <= 2:
            cause = "between steps something else moves it, so that another part of its step is left than all"
            remedy = "look for what writes to the weights: a reset, an average copied back, a renormalisation"
            yield key, Fault("rescaled", share, cause, remedy)
        elif any(abs(share - 1) > 0.05 for share in shares):
            notes.append(f"{promise.component(key)}: something else than an optimizer moves it between steps")


def _per_parameter(watch: LoopWatch, look: Callable[[Step, int, ParameterStep], Fault | bool | None]) -> Faults:
    """Judge parameters step by step; `look` answers None for fine and False for "cannot be judged here"."""
    found: dict[int, list[Fault | None]] = {}
    for step in watch.steps:
        if step.problem is None:
            for key, seen in step.parameters.items():
                if (verdict := look(step, key, seen)) is not False:
                    found.setdefault(key, []).append(verdict or None)  # pyright: ignore[reportArgumentType]
    for key, verdicts in found.items():
        if verdict := _often(verdicts):
            yield key, verdict


def _often(found: list[Fault | None]) -> Fault | None:
    """What is said of a parameter in at least half of the steps that could judge it."""
    counts = Counter(v._replace(factor=None) for v in found if v)
    if not counts:
        return None
    best, count = counts.most_common(1)[0]
    if 2 * count < len(found):
        return None
    factors = [v.factor for v in found if v and v._replace(factor=None) == best and v.factor is not None]
    return best._replace(factor=median(factors) if factors else None)
