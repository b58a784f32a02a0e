"""torchtitan: a regular expression and an optimizer per group, and one schedule that multiplies all rates.

Its rule (`LRSchedulersContainer`), with `D` the steps of decay and a group's own `lr`:

    t < W            lr(t) = lr * (t + 1) / W
    t < T + 1 - D    lr(t) = lr
    else             lr(t) = lr * (f + (1 - f) * c((t - (T - D)) / D))

which is ours at every step for a ratio that is held, with `f` the final fraction.
"""

from __future__ import annotations

from rlrs.integrations.export._names import TORCHTITAN
from rlrs.integrations.export._plan import Plan, regex, string
from rlrs.ratios import BASE

_FILE = '''{header}
from torchtitan.components.optimizer import ParamGroupConfig

# config.lr_scheduler = LRSchedulersContainer.Config(**LR_SCHEDULER)
LR_SCHEDULER = {{
{scheduler}}}


# config.optimizer = OptimizersContainer.Config(param_groups=param_groups({example}))
# The first pattern that matches wins. torchtitan refuses a pattern without a match, also in a single pipeline stage:
# take out the entries of components that a model or a stage lacks.
def param_groups(**adamw):
    """Groups for AdamW; further options of it go to all of them."""
    return [
        ParamGroupConfig(
            pattern=pattern,
            optimizer_name="AdamW",
            optimizer_kwargs={{"lr": lr, "weight_decay": decay, {betas}**adamw}},
        )
        for pattern, lr, decay in [
{rows}        ]
    ]
'''


def write(plan: Plan) -> str:
    """The module that defines `LR_SCHEDULER` and `param_groups`."""
    schedule = plan.schedule
    rows = _rows(plan, plan.patterns(TORCHTITAN, regex))
    plan.hold()
    decay: dict[str, object] = {"decay_type": "cosine" if schedule.shape == "cosine" else "linear"}
    if schedule.shape == "constant":
        decay["decay_ratio"] = 0.0
    elif schedule.shape == "wsd":
        decay["decay_ratio"] = plan.whole_decay_steps() / schedule.total_steps
    options = {
        "warmup_steps": schedule.warmup_steps,
        "total_steps": schedule.total_steps,
        "min_lr_factor": schedule.alpha,
        **decay,
    }
    if plan.components is None and plan.weight_decay:
        plan.losses.append("norms and biases are decayed, as torchtitan does by default")
    return _FILE.format(
        header=plan.header(),
        example="" if plan.betas else "betas=(0.9, 0.95)",
        betas=f'"betas": {plan.betas!r}, ' if plan.betas else "",
        scheduler="".join(f"    {name!r}: {value!r},\n" for name, value in options.items()),
        rows="".join(f"            ({string(pattern)}, {lr!r}, {decay!r}),\n" for pattern, lr, decay in rows),
    )


def _rows(plan: Plan, patterns: dict[str, list[str]]) -> list[tuple[str, float, float]]:
    """Pattern, rate and weight decay of each group."""
    if plan.components is None:
        named = [
            (p, plan.lr * plan.ratios[c].start, plan.component_decay(c))
            for c, listed in patterns.items()
            for p in listed
        ]
        return [*named, (".*", plan.lr, plan.weight_decay)]
    rows: dict[tuple[str, float], list[str]] = {}
    for component, names in plan.folded().items():
        for name in names:
            rows.setdefault((component, plan.parameter_decay(component, name)), []).append(regex(name))
    return [
        ("|".join(listed), plan.lr * plan.ratios.get(component, BASE).start, decay)
        for (component, decay), listed in rows.items()
    ]
