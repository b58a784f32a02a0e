"""DeepSpeed, or any loop over a torch optimizer: plain parameter groups and a `LambdaLR`, and no need of rlrs there.

DeepSpeed's own schedulers have one shape for all groups; it takes a scheduler of the client's as well, as
`deepspeed.initialize(..., model_parameters=param_groups(model), lr_scheduler=lr_scheduler)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

from rlrs import schedules
from rlrs.integrations.export._plan import ExportError, Plan, regex, strings
from rlrs.ratios import BASE
from rlrs.schedules import BaseSchedule, Curve, Points

_FILE = '''{header}
from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence

from torch.optim.lr_scheduler import LambdaLR

TOTAL, WARMUP = {total}, {warmup}  # steps

# Each group: name, peak rate, weight decay, patterns of its parameters' names (the first that is found wins), and its
# points: steps after the warm-up, the decay c there from 1 to 0, and the rate over the peak rate.
GROUPS = [
{groups}]


def param_groups(model):
    """Groups for a torch optimizer, and for model_parameters of deepspeed.initialize."""
    members = {{name: [] for name, *_ in GROUPS}}
    for parameter_name, parameter in model.named_parameters():
        found = [name for name, _, _, patterns, _ in GROUPS if any(re.search(p, parameter_name) for p in patterns)]
        if not found:
            raise ValueError(f"no pattern matches {{parameter_name}}")
        if parameter.requires_grad:
            members[found[0]].append(parameter)
    return [
        {{"name": name, "params": members[name], "lr": lr, "weight_decay": weight_decay}}
        for name, lr, weight_decay, _, _ in GROUPS
        if members[name]
    ]


def lr_scheduler(optimizer):
    """A scheduler for these groups, and for lr_scheduler of deepspeed.initialize; one step per optimizer step."""
    points = {{name: listed for name, _, _, _, listed in GROUPS}}
    return LambdaLR(optimizer, [functools.partial(_factor, points[group["name"]]) for group in optimizer.param_groups])


def _factor(points, step):
    share = (step + 1) / WARMUP if step < WARMUP else {decay}
    return equation(step, share, [points], WARMUP, TOTAL)[0]


# From rlrs.schedules, as it is there:

Points = Sequence[tuple[float, float, float]]


{source}'''


def write(plan: Plan) -> str:
    """The module that defines `param_groups` and `lr_scheduler`."""
    if plan.components is None:
        raise ExportError("deepspeed has no names of its own: give the model, or its components' parameter names")
    plan.patterns({}, regex)  # complains of ratios that name what the model lacks
    rows: list[str] = []
    for component, names in plan.folded().items():
        decayed = [name for name in names if plan.parameter_decay(component, name)]
        plain = [name for name in names if name not in decayed]
        rows += [_row(plan, component, decayed, plan.component_decay(component))] if decayed else []
        rows += [_row(plan, f"{component}/no_decay" if decayed else component, plain, 0.0)] if plain else []
    schedule = plan.schedule
    return _FILE.format(
        header=plan.header(),
        total=schedule.total_steps,
        warmup=schedule.warmup_steps,
        groups="".join(rows),
        decay=_decay_source(schedule),
        source="\n\n".join(inspect.getsource(part) for part in (schedules.equation, _decay_function(schedule))),
    )


def _row(plan: Plan, name: str, names: list[str], decay: float) -> str:
    schedule, knots = plan.schedule, plan.ratios.get(name.removesuffix("/no_decay"), BASE).knots
    peak = knots[0][1] or 1.0  # a component that starts at 0 has the base rate as its unit
    listed = [(at, c, level / peak) for at, c, level in cast(Points, Curve(schedule, knots).points)]
    patterns = strings((regex(parameter) for parameter in names), 12)
    return (
        f"    (\n        {name!r},\n        {plan.lr * peak!r},\n        {decay!r},\n        [\n{patterns}        ],\n"
        f"        {listed!r},\n    ),\n"
    )


def _decay_function(schedule: BaseSchedule) -> Callable[..., float]:
    return {"cosine": schedules.cosine, "wsd": schedules.wsd}.get(str(schedule.shape), schedules.linear)


def _decay_source(schedule: BaseSchedule) -> str:
    """The call of that function, as in `BaseSchedule.decay`."""
    last = [schedule.decay_fraction * schedule.total_steps] if schedule.shape == "wsd" else []
    arguments = ", ".join(["step - WARMUP", *(repr(value) for value in (schedule.decay_steps, *last))])
    return f"{_decay_function(schedule).__name__}({arguments})"
