"""OLMo-core: a rate per parameter glob, and one scheduler that multiplies all rates.

Its schedulers count steps from 1, with `current` = t + 1, and take the warm-up as `current / W`; a sequence of two
(held for `W + 1` steps, warm-up included, then a decay of `T - W`) is ours at every step for a ratio that is held.
"""

from __future__ import annotations

from rlrs.integrations.export._names import OLMO_CORE
from rlrs.integrations.export._plan import ExportError, Plan, glob, strings

_FILE = """{header}
from olmo_core.optim import {imports}

# OptimConfig(lr={lr!r}, {found}group_overrides=GROUP_OVERRIDES, ...)
GROUP_OVERRIDES = [
{groups}]

SCHEDULER = {scheduler}
"""


def write(plan: Plan) -> str:
    """The module that defines `GROUP_OVERRIDES` and `SCHEDULER`."""
    schedule = plan.schedule
    zero = [component for component, ratio in plan.ratios.items() if ratio.start == 0]
    if zero:
        raise ExportError(f"OLMo-core refuses a rate of 0: freeze {zero[0]} instead of giving it the start ratio 0")
    globs = plan.patterns(OLMO_CORE, glob)
    groups = "".join(
        f"    OptimGroupOverride(  # {component}\n        params=[\n{strings(globs[component], 12)}        ],\n"
        f"        opts={_options(plan, component, ratio.start)!r},\n    ),\n"
        for component, ratio in plan.hold().items()
    )
    warmup = f"ConstantWithWarmup(warmup={schedule.warmup_steps})"
    imports = ["ConstantWithWarmup", "OptimGroupOverride"]
    if schedule.shape == "constant":
        scheduler = warmup
    else:
        length = plan.whole_decay_steps() if schedule.shape == "wsd" else schedule.total_steps - schedule.warmup_steps
        kind = "CosWithWarmup" if schedule.shape == "cosine" else "LinearWithWarmup"
        decay = f"{kind}(warmup=0, t_max={length}, alpha_f={schedule.alpha!r})"
        held = schedule.total_steps - length + 1
        scheduler = (
            f"SequentialScheduler(\n    schedulers=[\n        {warmup},\n        {decay},\n    ],\n"
            f"    schedulers_max=[{held}],\n)"
        )
        imports += [kind, "SequentialScheduler"]
    found = f"weight_decay={plan.weight_decay!r}, betas={plan.betas!r}, " if plan.betas else ""
    return _FILE.format(
        header=plan.header(),
        imports=", ".join(sorted(imports)),
        lr=plan.lr,
        found=found,
        groups=groups,
        scheduler=scheduler,
    )


def _options(plan: Plan, component: str, start: float) -> dict[str, float]:
    own = {"weight_decay": plan.weight_decays[component]} if component in plan.weight_decays else {}
    return {"lr": plan.lr * start, **own}
