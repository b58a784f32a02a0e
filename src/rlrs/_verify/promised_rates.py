"""Rates of groups against what was promised of them, and schedulers against the optimizers that they drive."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch.optim import Optimizer

from rlrs._verify.loop_watch import LoopWatch
from rlrs._verify.measuring import Step
from rlrs._verify.promise import Fault, Faults, Promise, group_label
from rlrs.lr_scheduler import RelativeLR

SAME = 1e-3
"""Rates that differ by less than 0.1 % are the same: tensor rates are float32, some logs and configs round to four
digits, and no ratio worth setting is this close to 1. Chosen here."""

BEHIND = (3, 0.01)
"""A scheduler and an optimizer whose counts differ by more than 3 steps and 1 % have parted: a few infinite gradients
at the start of fp16 are ordinary. Chosen here."""


def judge_rates(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """Rates that a scheduler, the caller's ratios or the loop's beginning say otherwise."""
    yield from _second_writer(watch)
    yield from _flattened(watch)
    yield from _given(watch, promise, notes)


def judge_pace(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """Schedulers that do not go one step per optimizer step, and groups that none drives."""
    for index, scheduler in enumerate(watch.schedulers):
        if hasattr(scheduler, "mode") and hasattr(scheduler, "patience"):
            continue  # it follows a metric, not the steps
        writes_to = driven(scheduler)
        if not any(watch.seen(optimizer) for optimizer in writes_to):
            cause = f"{type(scheduler).__name__} writes rates into an optimizer that is not stepped"
            verdict = Fault("pace", 0.0, cause, "make the scheduler with the optimizer that is stepped")
            for optimizer in watch.optimizers:
                yield from ((id(p), verdict) for group in optimizer.param_groups for p in group["params"])
        for optimizer in writes_to:
            if verdict := _pace(watch, index, optimizer):
                for group in optimizer.param_groups:
                    yield from ((id(p), verdict) for p in group["params"])
    yield from _unscheduled(watch)


def driven(scheduler: Any) -> list[Optimizer]:
    """The optimizers whose rates a scheduler writes."""
    optimizers = scheduler.optimizers if isinstance(scheduler, RelativeLR) else [getattr(scheduler, "optimizer", None)]
    found = []
    for optimizer in optimizers:
        while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
            optimizer = inner
        found.append(optimizer)
    return [optimizer for optimizer in found if optimizer is not None]


def _differs(rate: float, other: float) -> bool:
    return abs(rate - other) > SAME * max(abs(rate), abs(other))


def _members(step: Step, group: int) -> Iterator[int]:
    return (key for key, seen in step.parameters.items() if seen.group == group)


def _second_writer(watch: LoopWatch) -> Faults:
    """Rates that are not what their scheduler wrote."""
    for index, scheduler in enumerate(watch.schedulers):
        optimizers = driven(scheduler)
        for optimizer in optimizers:
            first = sum(len(o.param_groups) for o in optimizers[: optimizers.index(optimizer)])
            wrong: dict[int, list[tuple[Step, float]]] = {}
            steps = watch.seen(optimizer)
            for step in steps:
                for group, (rate, said) in enumerate(zip(step.rates, step.promised[index][first:], strict=False)):
                    if rate is not None and _differs(rate, said):
                        wrong.setdefault(group, []).append((step, rate / said if said else float("inf")))
            for group, found in wrong.items():
                if 2 * len(found) < len(steps):
                    continue
                cause = f"{{group}}: not the rate that {type(scheduler).__name__} wrote; something else writes rates"
                factor = median(factor for _, factor in found)
                verdict = Fault(
                    "rate",
                    factor,
                    cause,
                    "let one of them go: a second scheduler, a callback, a loop",
                    group_label(optimizer, group),
                )
                yield from ((key, verdict) for key in _members(found[-1][0], group))


def _flattened(watch: LoopWatch) -> Faults:
    """Groups that had different rates when the loop began, and have one in every step."""
    start = [rate for optimizer in watch.optimizers for rate in watch.entry_rates[id(optimizer)]]
    seen = {id(o): watch.seen(o) for o in watch.optimizers}
    if not all(seen.values()) or any(rate is None for rate in start):
        return
    top = max(rate for rate in start if rate is not None)
    for number in range(min(len(steps) for steps in seen.values())):
        now = [rate for o in watch.optimizers for rate in seen[id(o)][number].rates]
        if len(now) != len(start) or None in now or not max(now) or any(_differs(rate, max(now)) for rate in now):  # pyright: ignore[reportArgumentType]
            return
    for optimizer in watch.optimizers:
        for group, rate in enumerate(watch.entry_rates[id(optimizer)]):
            if rate and _differs(rate, top):
                cause = f"{{group}} began at {rate / top:.3g} of the largest rate; one rate is written into all"
                remedy = "multiply each group's own initial_lr by the schedule (LambdaLR does), or use RelativeLR"
                verdict = Fault("rate", top / rate, cause, remedy, group_label(optimizer, group))
                yield from ((key, verdict) for key in _members(seen[id(optimizer)][-1], group))


def _given(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    """Rates against the caller's ratios and rates."""
    found: dict[int, list[tuple[float, str]]] = {}
    wanted: dict[int, int] = {}
    for position, step in enumerate(watch.steps):
        number = (
            step.number
            if step.number is not None
            else sum(s.optimizer is step.optimizer for s in watch.steps[:position])
        )
        for key, seen in step.parameters.items():
            rate = step.rates[seen.group]
            if rate is None or promise.rates is None:
                continue
            said = promise.rates(number).get(promise.component(key))
            if said is not None:
                wanted[key] = wanted.get(key, 0) + 1
                if _differs(rate, said):
                    label = group_label(step.optimizer, seen.group)
                    found.setdefault(key, []).append((rate / said if said else float("inf"), label))
    for key, off in found.items():
        if 2 * len(off) >= wanted[key]:
            remedy = "look for what writes group['lr'], and at which step it believes to be"
            cause = "{group}: another rate than `rates` says"
            yield key, Fault("rate", median(f for f, _ in off), cause, remedy, off[-1][1])
    if promise.ratios is not None:
        yield from _given_ratios(watch, promise, notes)


def _given_ratios(watch: LoopWatch, promise: Promise, notes: list[str]) -> Faults:
    assert promise.ratios is not None
    ratio: dict[str, float] = {}
    for name, each in promise.ratios.items():
        if "/" in name or len({value for _, value in each.knots}) > 1:
            notes.append(f"the ratio of {name} changes with time or is finer than a component: give the RelativeLR")
        else:
            ratio[name] = each.start
    changing = set(promise.ratios) - set(ratio)
    last = {id(step.optimizer): step for step in watch.steps}.values()
    bases: dict[int, tuple[float, float, Step, int]] = {}  # parameter -> base rate that it implies, ratio, where
    for step in last:
        for key, seen in step.parameters.items():
            component, rate = promise.component(key), step.rates[seen.group]
            said = ratio.get(component, 1.0)
            if rate and said and component in promise.order and component not in changing:
                bases[key] = (rate / said, said, step, seen.group)
    if not bases:
        return
    weights: dict[float, int] = {}
    for key, (base, _, _, _) in bases.items():
        near = next((b for b in weights if not _differs(b, base)), base)
        weights[near] = weights.get(near, 0) + promise.parameters[key].numel()
    # With one rate for all, what is named is what is wrong, not what is not.
    plain = {base for base, said, _, _ in bases.values() if said == 1}
    base = max(plain or weights, key=lambda b: next(w for near, w in weights.items() if not _differs(near, b)))
    for key, (implied, said, step, group) in bases.items():
        if not _differs(implied, base):
            continue
        label = group_label(step.optimizer, group)
        mixed = {promise.component(k) for k in _members(step, group)}
        if len({ratio.get(c, 1.0) for c in mixed}) > 1:
            cause = f"{{group}}: {', '.join(sorted(mixed))} together; one group, one rate"
            remedy = "make groups by component (rlrs.param_groups), and keep the trainer from merging them"
        else:
            cause = f"{{group}}: {implied * said / base:.3g} times the base rate, not {said:.3g}"
            remedy = "look for what writes group['lr']; RelativeLR keeps the ratio"
        yield key, Fault("rate", implied / base, cause, remedy, label)


def _pace(watch: LoopWatch, index: int, optimizer: Optimizer) -> Fault | None:
    """How many steps the scheduler goes per step of an optimizer."""
    name = type(watch.schedulers[index]).__name__
    steps = watch.seen(optimizer)
    places = [step.positions[index] for step in steps]
    if not steps or None in places:
        return None
    at: list[int] = [place for place in places if place is not None]
    gone = [b - a for a, b in itertools.pairwise(at)]
    passes = [b.backwards - a.backwards for a, b in itertools.pairwise(steps)]
    if gone and sum(step != 1 for step in gone) * 2 > len(gone):
        pace = sum(gone) / len(gone)
        cause, remedy = _why_pace(name, pace, sum(passes) / len(passes))
        return Fault("pace", pace, cause, remedy)
    done = steps[-1].number
    if done is not None and abs(at[-1] - done) > max(BEHIND[0], BEHIND[1] * max(done, at[-1])):
        cause = f"{name} is at step {at[-1]}, and its optimizer has done {done}"
        if at[-1] < done:
            remedy = "load the scheduler's state with the optimizer's, or give last_epoch"
        else:
            remedy = "step the scheduler after optimizer steps only, also where fp16 skips one; load both states"
        return Fault("pace", None, cause, remedy)
    return None


def _why_pace(name: str, pace: float, passes: float) -> tuple[str, str]:
    world = (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )
    if pace == 0:
        return f"{name} is not stepped", f"call {name}.step() after every optimizer.step()"
    if pace > 1 and abs(pace - passes) < 0.01:
        return (
            f"{name} goes {pace:g} steps per optimizer step, one per micro-batch (or also where fp16 skips a step)",
            "step it where the optimizer steps: once per accumulated batch, not after a skipped one",
        )
    if pace == world > 1:
        return (
            f"{name} goes {pace:g} steps per optimizer step, one per process",
            "give accelerate split_batches=True or step_scheduler_with_optimizer=False, or use rlrs' prepare_scheduler",
        )
    return (
        f"{name} goes {pace:g} steps per optimizer step: more than one thing steps it",
        "step it once after optimizer.step(): a trainer, a wrapper or a callback may do it already",
    )


def _unscheduled(watch: LoopWatch) -> Faults:
    """Groups that no scheduler has ever seen, beside groups that one has, and whose rates do not move."""
    last = {id(step.optimizer): step for step in watch.steps}
    if not any(any(step.scheduled) for step in last.values()):
        return
    for step in last.values():
        steps = watch.seen(step.optimizer)
        for group, scheduled in enumerate(step.scheduled):
            rates = {s.rates[group] for s in steps if group < len(s.rates)}
            if scheduled or len(rates) > 1:
                continue
            whole = not any(step.scheduled)
            what = type(step.optimizer).__name__ if whole else "{group}"
            cause = f"{what} has no scheduler, and the rates of others follow one"
            remedy = (
                "give it a scheduler too; one RelativeLR drives several optimizers"
                if whole
                else "add groups before the scheduler is made"
            )
            verdict = Fault("pace", 0.0, cause, remedy, group_label(step.optimizer, group))
            yield from ((key, verdict) for key in _members(step, group))
