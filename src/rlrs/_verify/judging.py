"""From what was seen of a loop to findings: one function per question, each with its threshold beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from rlrs._verify.measuring import ParameterStep, Step
from rlrs._verify.watching import Watch
from rlrs.components import Partition
from rlrs.ratios import Ratios
from rlrs.verify import Finding, Kind, Report

FOREIGN = "not in the model"


class Verdict(NamedTuple):
    """What is wrong with one parameter."""

    kind: Kind
    factor: float | None
    cause: str
    remedy: str


Verdicts = Iterator[tuple[int, Verdict]]
"""Pairs of a parameter (by id) and what is wrong with it."""


class Promise:
    """Names of a model's parameters, their components, and the rates that these should have."""

    def __init__(
        self,
        model: nn.Module,
        parts: Partition,
        ratios: Ratios | Mapping[str, Any] | None,
        rates: Callable[[int], Mapping[str, float]] | None,
    ) -> None:
        component = parts.component_of()
        self.parameters = {id(p): p for _, p in model.named_parameters()}
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.components = {id(p): component.get(name, "other") for name, p in model.named_parameters()}
        self.order = list(parts)
        self.ratios = None if ratios is None else ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        if self.ratios is not None:
            coarse = Ratios({c.partition("/")[0]: r for c, r in self.ratios.items()})
            coarse.check_used([*parts, *parts.tied_components], "the model")
        self.rates = rates

    def component(self, parameter: int) -> str:
        """The component of a parameter, by id."""
        return self.components.get(parameter, FOREIGN)


def judge(watch: Watch, promise: Promise) -> Report:
    """The report on a watched loop."""
    from rlrs._verify.rates import judge_pace, judge_rates

    notes: list[str] = []
    verdicts: dict[int, list[Verdict]] = {}
    stepped = list({id(step.optimizer): step.optimizer for step in watch.steps}.values())
    if watch.steps:
        sources: list[Verdicts] = [
            _membership(watch, promise, stepped, notes),
            _labels(watch, promise, stepped),
            _responses(watch, promise, notes),
            _decays(watch, promise, notes),
            _gradients(watch, promise, notes),
            _repeated(watch),
            judge_rates(watch, promise, notes),
            judge_pace(watch, promise, notes),
        ]
        for source in sources:
            for parameter, verdict in source:
                verdicts.setdefault(parameter, []).append(verdict)
    _say_what_was_not_judged(watch, promise, verdicts, notes)
    tried = {promise.component(p) for s in watch.steps for p, seen in s.parameters.items() if seen.responses}
    order = [*promise.order, FOREIGN]
    return Report(
        findings=tuple(_gather(verdicts, promise, order)),
        notes=tuple(dict.fromkeys(notes)),
        steps=len(watch.steps),
        components=tuple(c for c in order if c in tried),
    )


def _gather(verdicts: Mapping[int, list[Verdict]], promise: Promise, order: list[str]) -> list[Finding]:
    """One finding for all parameters of a component of which the same is said."""
    together: dict[tuple[str, Kind, str, str], tuple[list[str], list[float | None]]] = {}
    for parameter in (*promise.names, *(p for p in verdicts if p not in promise.names)):
        for verdict in dict.fromkeys(verdicts.get(parameter, ())):
            key = (promise.component(parameter), verdict.kind, verdict.cause, verdict.remedy)
            names, factors = together.setdefault(key, ([], []))
            names.append(promise.names.get(parameter, "(a tensor of the optimizer)"))
            factors.append(verdict.factor)
    findings = []
    for (component, kind, cause, remedy), (names, factors) in together.items():
        known = [factor for factor in factors if factor is not None]
        findings.append(
            Finding(
                kind=kind,
                component=component,
                factor=median(known) if known else None,
                cause=cause,
                remedy=remedy,
                parameters=tuple(dict.fromkeys(names)),
            )
        )
    return sorted(findings, key=lambda finding: order.index(finding.component))


def group_label(optimizer: Optimizer, index: int) -> str:
    """How a group is called in messages."""
    return repr(optimizer.param_groups[index].get("name", index))


def _members(optimizer: Optimizer) -> Iterator[tuple[int, int]]:
    """Pairs of a parameter (by id) and its group, as often as it is in one."""
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            yield id(parameter), index


def _membership(watch: Watch, promise: Promise, stepped: list[Optimizer], notes: list[str]) -> Verdicts:
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
            yield key, Verdict("missing", 0.0, *_why_missing(strangers, len(homes)))
    for key, places in homes.items():
        if len(places) > 1:
            optimizers = {id(optimizer) for optimizer, _ in places}
            if len(optimizers) > 1:
                kinds = " and ".join(type(optimizer).__name__ for optimizer, _ in places)
                cause = f"in {len(optimizers)} optimizers ({kinds}), each of which takes its step"
            else:
                groups = ", ".join(group_label(*place) for place in places)
                cause = f"{len(places)} times in one optimizer (groups {groups}), and as often stepped"
            remedy = "give every parameter to one group of one optimizer"
            yield key, Verdict("two_groups", float(len(places)), cause, remedy)
    for optimizer in watch.optimizers:
        if not any(optimizer is o for o in (*stepped, *watch.containers)):
            cause = f"its optimizer ({type(optimizer).__name__}) was never stepped, while others were"
            for key, _ in _members(optimizer):
                yield key, Verdict("inert", 0.0, cause, "call its step() after backward(), like the others'")
    if strangers and all(key in homes for key in promise.names):
        notes.append(f"the optimizers have {strangers} tensors that are not the model's")


def _why_missing(strangers: int, held: int) -> tuple[str, str]:
    if strangers and strangers == held:
        return (
            f"in no optimizer: the {held} tensors there are others, of the model before it was wrapped, copied, resized "
            "or converted",
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


def _labels(watch: Watch, promise: Promise, stepped: list[Optimizer]) -> Verdicts:
    """Groups that carry the name of others' parameters: a state that was loaded by position."""
    remedy = "load states by name: make groups in the saved order, or use RelativeLR, which puts them in order"
    for optimizer in stepped:
        held = {i: [promise.component(id(p)) for p in g["params"]] for i, g in enumerate(optimizer.param_groups)}
        anywhere = {c for components in held.values() for c in components}
        for index, group in enumerate(optimizer.param_groups):
            names = group.get("param_names")
            if names and len(names) == len(group["params"]):
                from rlrs.components import canonical_name

                for parameter, said in zip(group["params"], names, strict=True):
                    real = promise.names.get(id(parameter))
                    others = {canonical_name(n) for n in promise.names.values()}
                    if real and canonical_name(said) in others and canonical_name(said) != canonical_name(real):
                        cause = f"group {group_label(optimizer, index)} has it under the name {said}"
                        yield id(parameter), Verdict("misplaced", None, cause, remedy)
            said = str(group.get("component", group.get("name", ""))).partition("/")[0]
            if said in anywhere and held[index] and said not in held[index]:
                cause = f"in the group of {said}: the state of groups in another order was loaded by position"
                for parameter in group["params"]:
                    yield id(parameter), Verdict("misplaced", None, cause, remedy)


def _often(found: list[Verdict | None]) -> Verdict | None:
    """What is said of a parameter in at least half of the steps that could judge it."""
    counts = Counter((v.kind, v.cause, v.remedy) for v in found if v)
    if not counts:
        return None
    best, count = counts.most_common(1)[0]
    if 2 * count < len(found):
        return None
    factors = [v.factor for v in found if v and (v.kind, v.cause, v.remedy) == best and v.factor is not None]
    return Verdict(best[0], median(factors) if factors else None, best[1], best[2])


def _per_parameter(watch: Watch, look: Callable[[Step, int, ParameterStep], Verdict | bool | None]) -> Verdicts:
    """Judge parameters step by step; `look` answers None for fine and False for "cannot be judged here"."""
    found: dict[int, list[Verdict | None]] = {}
    for step in watch.steps:
        if step.problem is None:
            for key, seen in step.parameters.items():
                if (verdict := look(step, key, seen)) is not False:
                    found.setdefault(key, []).append(verdict or None)  # pyright: ignore[reportArgumentType]
    for key, verdicts in found.items():
        if verdict := _often(verdicts):
            yield key, verdict


def _responses(watch: Watch, promise: Promise, notes: list[str]) -> Verdicts:
    """What doubled rates do to a step."""

    def look(step: Step, key: int, seen: ParameterStep) -> Verdict | bool | None:
        frozen = key in promise.parameters and not promise.parameters[key].requires_grad
        if frozen and seen.moved:
            return Verdict(
                "moved",
                None,
                "frozen (requires_grad is False), and still moved: an old gradient is in its .grad, so that momentum and "
                "weight decay go on",
                "set .grad to None when freezing (zero_grad(set_to_none=True)), or take it out of the optimizer",
            )
        rate = step.rates[seen.group]
        name = type(step.optimizer).__name__
        if rate is None:
            return Verdict(
                "inert", 0.0, f"the group has no rate: {name} sets its own", f"give {name} a rate (relative_step=False)"
            )
        if not rate or not seen.gradient:
            return False
        if not seen.expected:
            return Verdict("inert", 0.0, f"{name} has a gradient and a rate, and does not move it", _OWN_STEP)
        return _outside(seen) or _of_rate(step, seen, notes, promise.component(key))

    return _per_parameter(watch, look)


_OWN_STEP = "use an optimizer whose step is proportional to its group's rate, or leave this component's ratio at 1"


def _outside(seen: ParameterStep) -> Verdict | None:
    """Something beside the optimizer: the replay is the same arithmetic, so that 1 % is far outside of its rounding."""
    allowed = 0.01 + (seen.tolerance - 0.02)
    if seen.gain < 0.5:
        cause = "rounding of a 16-bit weight swallows more than half of its step"
        if seen.off > 0.05 * seen.gain or seen.gain < 0.05:
            return Verdict("inert", 0.0 if seen.gain < 0.005 else seen.gain, cause, _NARROW)
    if seen.off <= 0.05 * seen.gain and abs(seen.gain - 1) > allowed:
        return Verdict(
            "rescaled",
            seen.gain,
            "its step is multiplied beside the optimizer's own: a step hook, or a step() that was replaced",
            "put the factor into the group's rate, where schedules and logs see it",
        )
    return None


_NARROW = "keep float32 weights (autocast to bfloat16 for the forward pass), or round stochastically"


def _of_rate(step: Step, seen: ParameterStep, notes: list[str], component: str) -> Verdict | None:
    """The number that the responses spell: its own group's, none, another's, or not a number at all."""
    name, code = type(step.optimizer).__name__, seen.group + 1
    if seen.decay and seen.decay.said and abs(seen.decay.response - 2) > 0.1:
        return None  # its decay does not follow the rate, which is said of the decay
    if seen.tolerance > 0.3:
        notes.append(f"{component}: steps are too small beside rounding of the weights to tell what the rate does")
        return None
    near = [1 if abs(r - 1) <= seen.tolerance else 2 if abs(r - 2) <= seen.tolerance else None for r in seen.responses]
    spelt = None if None in near else sum(1 << bit for bit, value in enumerate(near) if value == 2)
    if spelt == code:
        return None
    if spelt == 0:
        return Verdict(
            "inert", 0.0, f"{name} takes the same step at twice the rate: {_why_inert(step, seen)}", _OWN_STEP
        )
    if spelt is not None and spelt <= len(step.rates):
        other, own = step.rates[spelt - 1], step.rates[seen.group]
        label = group_label(step.optimizer, spelt - 1)
        return Verdict(
            "inert",
            (other or 0.0) / own if own else None,
            f"{name} moves it at the rate of group {label}: its step() reads one group's rate for all",
            "read group['lr'] in the loop over groups of that step()",
        )
    own = [r for bit, r in enumerate(seen.responses) if code >> bit & 1]
    first, grown = seen.fresh_response, max(own)
    if first is None or (abs(first - 2) <= seen.tolerance and grown < 2):
        notes.append(
            f"{component}: {name} keeps earlier rates in its state, so that a new rate acts over several steps"
        )
        return None
    if grown > 2 + seen.tolerance:
        cause = f"twice the rate makes {grown:.3g} times the step of {name}: the rate counts more than once"
        return Verdict("twice", grown / 2, cause, "let the rate multiply the update once")
    cause = f"twice the rate makes {grown:.3g} times the step of {name}: something cuts the update after the rate"
    return Verdict("clipped", grown / 2, cause, "clip the update before it is multiplied by the rate, or not at all")


def _why_inert(step: Step, seen: ParameterStep) -> str:
    name, group = type(step.optimizer).__name__, step.optimizer.param_groups[seen.group]
    if "Adafactor" in name:
        return "it caps the rate at 1 / sqrt(step), or sets its own (relative_step)"
    if "Rprop" in name:
        return "it has a step size of its own per weight"
    if "d" in group or "d_coef" in group:
        return "it finds its own"
    return "it keeps a rate of its own, read once when it was made, or none"


def _decays(watch: Watch, promise: Promise, notes: list[str]) -> Verdicts:
    """What an optimizer's weight decay does to a weight, against what the group says."""

    def look(step: Step, key: int, seen: ParameterStep) -> Verdict | bool | None:
        decay, name = seen.decay, type(step.optimizer).__name__
        if decay is None:
            return False
        where = f"weight_decay={decay.said:g} in group {group_label(step.optimizer, seen.group)}"
        if decay.said and not decay.done and not decay.off:
            if decay.acts:
                return None
            cause = f"{where}, and {name} does not decay it"
            return Verdict("decay", 0.0, cause, "apply group['weight_decay'] in step(), or set it to 0")
        if not decay.said:
            if decay.off < 0.1 and decay.done > 0:
                cause = f"{where}, and {name} shrinks it by {decay.done:.3g} times the rate a step"
                return Verdict("decay", None, cause, "read group['weight_decay'] in step(), not a default")
            return None
        if decay.off > 0.1:
            return Verdict(
                "decay",
                None,
                f"{name} adds {where} to the gradient (L2), and then divides it by the gradient's size: not a decay by "
                "rate x weight_decay",
                "use decoupled decay (AdamW)",
            )
        if abs(decay.response - 2) > 0.1:
            cause = f"{where}, and {name} does not multiply it by the rate: it shrinks at the same pace at any rate"
            return Verdict("decay", decay.done / decay.said, cause, "multiply the decay by group['lr']")
        if not 0.45 < decay.done / decay.said < 2.2:
            notes.append(
                f"{promise.component(key)}: {name} decays by {decay.done / decay.said:.3g} times rate x weight_decay"
            )
        return None

    return _per_parameter(watch, look)


def _gradients(watch: Watch, promise: Promise, notes: list[str]) -> Verdicts:
    from rlrs._verify.gradients import judge_gradients

    return judge_gradients(watch, promise, notes)


def _repeated(watch: Watch) -> Verdicts:
    """Two steps of one optimizer for one backward pass, with the same gradients."""
    for optimizer in {id(s.optimizer): s.optimizer for s in watch.steps}.values():
        seen = watch.seen(optimizer)
        again: dict[int, int] = {}
        for one, two in zip(seen, seen[1:], strict=False):
            if one.backwards == two.backwards > 0:
                for key in two.gradients.keys() & one.gradients.keys():
                    if bool(two.gradients[key].any()) and bool((two.gradients[key] == one.gradients[key]).all()):
                        again[key] = again.get(key, 0) + 1
        for key, count in again.items():
            cause = f"{type(optimizer).__name__} is stepped twice for one backward pass ({count} of {len(seen)} steps)"
            remedy = "call step() once: a trainer, GradScaler.step or an automatic optimization may do it already"
            yield key, Verdict("twice", 2.0, cause, remedy)


def _say_what_was_not_judged(
    watch: Watch, promise: Promise, verdicts: Mapping[int, list[Verdict]], notes: list[str]
) -> None:
    for step in watch.steps:
        if step.problem:
            notes.append(
                f"{type(step.optimizer).__name__} could not be replayed ({step.problem}): its rates are not judged"
            )
    judged = {key for step in watch.steps for key, seen in step.parameters.items() if seen.responses}
    for component in promise.order:
        members = [k for k, c in promise.components.items() if c == component and promise.parameters[k].requires_grad]
        if members and not any(key in judged or verdicts.get(key) for key in members):
            notes.append(f"{component}: no gradient, or a rate of 0, in the steps that were seen; not judged")
