"""Which optimizers and groups hold which parameters: none, several, the wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch.optim import Optimizer

from rlrs._verify.loop_watch import LoopWatch
from rlrs._verify.measuring import sample
from rlrs._verify.promise import Fault, Faults, Promise, group_label
from rlrs.components import canonical_name


def adopt_masters(watch: LoopWatch, promise: Promise) -> int:
    """Give float32 master copies of 16-bit weights these weights' names; returns how many there are.

    A tensor is one if it is stepped, is not the model's, and has the shape and values of a weight that no optimizer
    has: a copy that was left behind is not stepped.
    """
    stepped = {id(p): p for s in watch.steps for g in s.optimizer.param_groups for p in g["params"]}
    moved = {key for step in watch.steps for key, seen in step.parameters.items() if seen.moved}
    spare = [p for key, p in stepped.items() if key not in promise.names and key in moved and p.dtype == torch.float32]
    count = 0
    for key, parameter in list(promise.parameters.items()):
        if key in stepped or parameter.dtype not in (torch.bfloat16, torch.float16):
            continue
        values = sample(parameter)
        for master in spare:
            if master.shape != parameter.shape:
                continue
            # The weight has the copy's values of before its last step, or of after it, rounded to 8 or 11 bits.
            near = (torch.linalg.vector_norm(seen - values) for seen in watch.moved[id(master)][1:])
            if min(map(float, near)) <= 2**-8 * float(torch.linalg.vector_norm(values)):
                for names in (promise.parameters, promise.names, promise.components):
                    names[id(master)] = names.pop(key)  # pyright: ignore[reportArgumentType]
                promise.parameters[id(master)] = master
                spare = [other for other in spare if other is not master]
                count += 1
                break
    return count


def judge_membership(watch: LoopWatch, promise: Promise, stepped: list[Optimizer], notes: list[str]) -> Faults:
    """In no optimizer, in one that is never stepped, in several."""
    containers = {id(o) for o in watch.containers}
    known = list({id(o): o for o in (*watch.optimizers, *stepped) if id(o) not in containers}.values())
    homes: dict[int, list[tuple[Optimizer, int]]] = {}
    for optimizer in known:
        for parameter, group in _members(optimizer):
            homes.setdefault(parameter, []).append((optimizer, group))
    strangers = sum(p not in promise.names for p in homes)
    for key, parameter in promise.parameters.items():
        if parameter.requires_grad and key not in homes:
            yield key, Fault("missing", 0.0, *_why_missing(strangers, len(homes)))
    together = _stepping_together(watch)
    for key, places in homes.items():
        places = [place for place in places if id(place[0]) in together]
        if len(places) > 1:
            optimizers = {id(optimizer) for optimizer, _ in places}
            if len(optimizers) > 1:
                kinds = " and ".join(type(optimizer).__name__ for optimizer, _ in places)
                cause = f"in {len(optimizers)} optimizers ({kinds}), each of which takes its step"
            else:
                groups = ", ".join(group_label(*place) for place in places)
                cause = f"{len(places)} times in one optimizer (groups {groups}), and as often stepped"
            remedy = "give every parameter to one group of one optimizer"
            yield key, Fault("two_groups", float(len(places)), cause, remedy)
    for optimizer in watch.optimizers:
        if not any(optimizer is o for o in (*stepped, *watch.containers)):
            mine = {key for key, _ in _members(optimizer)}
            others = any(not mine.isdisjoint(step.parameters) for step in watch.steps)
            how = "while others, made in the loop, move it" if others else "while others were"
            cause = f"its optimizer ({type(optimizer).__name__}) was never stepped, {how}"
            for key, _ in _members(optimizer):
                yield key, Fault("inert", 0.0, cause, "call its step() after backward(), like the others'")
    if strangers and all(key in homes for key in promise.names):
        notes.append(f"the optimizers have {strangers} tensors that are not the model's")


def judge_labels(watch: LoopWatch, promise: Promise, stepped: list[Optimizer]) -> Faults:
    """Groups that carry the name of others' parameters: a state that was loaded by position."""
    remedy = "load states by name: make groups in the saved order, or use RelativeLR, which puts them in order"
    for optimizer in stepped:
        held = {i: [promise.component(id(p)) for p in g["params"]] for i, g in enumerate(optimizer.param_groups)}
        anywhere = {c for components in held.values() for c in components}
        for index, group in enumerate(optimizer.param_groups):
            names = group.get("param_names")
            if names and len(names) == len(group["params"]):
                for parameter, said in zip(group["params"], names, strict=True):
                    real = promise.names.get(id(parameter))
                    others = {canonical_name(n) for n in promise.names.values()}
                    if real and canonical_name(said) in others and canonical_name(said) != canonical_name(real):
                        cause = f"group {group_label(optimizer, index)} has it under the name {said}"
                        yield id(parameter), Fault("misplaced", None, cause, remedy)
            said = str(group.get("component", group.get("name", ""))).partition("/")[0]
            if said in anywhere and held[index] and said not in held[index]:
                cause = f"in the group of {said}: the state of groups in another order was loaded by position"
                for parameter in group["params"]:
                    yield id(parameter), Fault("misplaced", None, cause, remedy)


def _stepping_together(watch: LoopWatch) -> set[int]:
    """Optimizers (by id) that were named, or step after the same backward pass as another does, or more than once."""
    passes: dict[int, list[int]] = {}
    for step in watch.steps:
        passes.setdefault(id(step.optimizer), []).append(step.backwards)
    shared = Counter(number for numbers in passes.values() for number in set(numbers))
    named = {id(optimizer) for optimizer in watch.optimizers}
    return named | {o for o, numbers in passes.items() if len(numbers) > 1 or shared[numbers[0]] > 1}


def _why_missing(strangers: int, held: int) -> tuple[str, str]:
    if strangers and strangers == held:
        return (
            f"in no optimizer: the {held} tensors there are others, of the model before it was wrapped, copied, "
            "resized or converted",
            "make the optimizer after the last change to the model's parameters",
        )
    if strangers:
        return (
            f"in no optimizer, which has {strangers} tensors that are not the model's: this one was replaced after it "
            "was made (resized embedding, new head, tied or wrapped)",
            "make the optimizer after the last change to the model's parameters",
        )
    return (
        "in no optimizer: no group takes it",
        "add it to a group; or requires_grad_(False) if it should stay as it is",
    )


def _members(optimizer: Optimizer) -> Iterator[tuple[int, int]]:
    """Pairs of a parameter (by id) and its group, as often as it is in one."""
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            yield id(parameter), index
