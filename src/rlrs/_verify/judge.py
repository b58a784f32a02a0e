"""From what was seen of a loop to a report."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from rlrs._verify.gradients import judge_gradients
from rlrs._verify.loop_watch import LoopWatch
from rlrs._verify.measuring import ParameterStep
from rlrs._verify.membership import adopt_masters, judge_labels, judge_membership
from rlrs._verify.promise import FOREIGN, Fault, Faults, Promise
from rlrs._verify.promised_rates import judge_pace, judge_rates
from rlrs._verify.report import Finding, Kind, Report
from rlrs._verify.updates import UNTOLD, judge_decays, judge_elsewhere, judge_repeated, judge_responses


def judge(watch: LoopWatch, promise: Promise) -> Report:
    """The report on a watched loop."""
    notes: list[str] = []
    if adopt_masters(watch, promise):
        notes.append("the optimizers have float32 copies of 16-bit weights; they are judged in their place")
    verdicts: dict[int, list[Fault]] = {}
    stepped = list({id(step.optimizer): step.optimizer for step in watch.steps}.values())
    if watch.steps:
        sources: list[Faults] = [
            judge_membership(watch, promise, stepped, notes),
            judge_labels(watch, promise, stepped),
            judge_responses(watch, promise, notes),
            judge_decays(watch, promise, notes),
            judge_gradients(watch, promise, notes),
            judge_repeated(watch),
            judge_elsewhere(watch, promise, notes),
            judge_rates(watch, promise, notes),
            judge_pace(watch, promise, notes),
        ]
        for source in sources:
            for parameter, verdict in source:
                verdicts.setdefault(parameter, []).append(verdict)
    _say_what_was_not_judged(watch, promise, verdicts, notes)
    tried = {promise.component(p) for s in watch.steps for p, seen in s.parameters.items() if _is_tried(seen)}
    order = [*promise.order, FOREIGN]
    return Report(
        findings=tuple(_gather(verdicts, promise, order)),
        notes=tuple(dict.fromkeys(notes)),
        steps=len(watch.steps),
        components=tuple(c for c in order if c in tried),
    )


def _is_tried(seen: ParameterStep) -> bool:
    return bool(seen.responses) and seen.tolerance <= UNTOLD


def _gather(verdicts: Mapping[int, list[Fault]], promise: Promise, order: list[str]) -> list[Finding]:
    """One finding for all parameters of a component of which the same is said."""
    together: dict[tuple[str, Kind, str, str], tuple[list[str], list[Fault]]] = {}
    for parameter in (*promise.names, *(p for p in verdicts if p not in promise.names)):
        for verdict in dict.fromkeys(verdicts.get(parameter, ())):
            key = (promise.component(parameter), verdict.kind, verdict.cause, verdict.remedy)
            names, said = together.setdefault(key, ([], []))
            names.append(promise.names.get(parameter, "(a tensor of the optimizer)"))
            said.append(verdict)
    findings = []
    causes = list(dict.fromkeys(cause for _, _, cause, _ in together))
    by_cause = sorted(together.items(), key=lambda item: (causes.index(item[0][2]), order.index(item[0][0])))
    for (component, kind, cause, remedy), (names, said) in by_cause:
        known = [verdict.factor for verdict in said if verdict.factor is not None]
        groups = sorted({verdict.group for verdict in said})
        findings.append(
            Finding(
                kind=kind,
                component=component,
                factor=median(known) if known else None,
                cause=cause.replace("{group}", ("group " if len(groups) == 1 else "groups ") + " and ".join(groups)),
                remedy=remedy,
                parameters=tuple(dict.fromkeys(names)),
            )
        )
    return findings


def _say_what_was_not_judged(
    watch: LoopWatch, promise: Promise, verdicts: Mapping[int, list[Fault]], notes: list[str]
) -> None:
    notes += [
        f"{type(step.optimizer).__name__} could not be replayed ({step.problem}): its rates are not judged"
        for step in watch.steps
        if step.problem
    ]
    judged = {key for step in watch.steps for key, seen in step.parameters.items() if seen.responses}
    for component in promise.order:
        members = [k for k, c in promise.components.items() if c == component and promise.parameters[k].requires_grad]
        if members and not any(key in judged or verdicts.get(key) for key in members):
            notes.append(f"{component}: no gradient, or a rate of 0, in the steps that were seen; not judged")
