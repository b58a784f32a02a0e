"""Megatron-LM: end points per parameter glob, read by its `OptimizerParamScheduler`.

Its rule (`megatron/core/optimizer_param_scheduler.py`), with a group's `max_lr` and `min_lr`, in iterations:

    0 < t <= W    lr(t) = init_lr + (max_lr - init_lr) * t / W
    W < t <= T    lr(t) = min_lr + (max_lr - min_lr) * c(t)

with the same `c` as ours for `cosine`, `linear` and `WSD` with linear decay; so both ends of a component are exact.
"""

from __future__ import annotations

from rlrs.integrations.export._names import MEGATRON
from rlrs.integrations.export._plan import Plan, glob, strings
from rlrs.ratios import Ratio

_FILE = """{header}
from megatron.core.optimizer.optimizer_config import ParamKey
from megatron.core.optimizer_param_scheduler import ParamGroupOverride

# In pretrain_gpt.py's arguments, `--lr-warmup-iters` for `lr_warmup_iters` and so on, and no `--decoupled-lr`:
ARGUMENTS = {{
{arguments}}}

# In get_megatron_optimizer_config(args):
#     return config, {{**get_standard_config_overrides(config=config), **OVERRIDES}}
# With tied embeddings that a pipeline keeps on two stages, both copies should have one override.
OVERRIDES = {{
{overrides}}}
"""


def write(plan: Plan) -> str:
    """The module that defines `ARGUMENTS` and `OVERRIDES`."""
    schedule = plan.schedule
    keys = plan.patterns(MEGATRON, lambda name: f"*{glob(name)}")
    kept = {
        component: plan.keep(
            component, Ratio.of((ratio.start, ratio.end)), "only its start and end ratios are kept, not those between"
        )
        for component, ratio in plan.ratios.items()
    }
    if schedule.warmup_steps:
        plan.losses.append("the warm-up runs one step behind, lr(t) = peak * t / W, for all components alike")
    arguments: dict[str, object] = {
        "lr": plan.lr,
        "min_lr": plan.lr * schedule.alpha,
        "lr_warmup_init": 0.0,
        "lr_warmup_iters": schedule.warmup_steps,
        "lr_decay_iters": schedule.total_steps,
        # Its `constant` has no second end; linear between two equal ends is constant, and moves where ratios do.
        "lr_decay_style": {"wsd": "WSD", "constant": "linear"}.get(str(schedule.shape), schedule.shape),
    }
    if schedule.shape == "wsd":
        arguments |= {"lr_wsd_decay_iters": plan.whole_decay_steps(), "lr_wsd_decay_style": "linear"}
    if plan.betas:
        arguments |= {"weight_decay": plan.weight_decay}
        arguments |= {"adam_beta1": plan.betas[0], "adam_beta2": plan.betas[1]}
    overrides = "".join(
        f"    # {component}\n"
        f"    ParamKey(\n        name=(\n{strings(keys[component], 12)}        )\n"
        f"    ): ParamGroupOverride(\n"
        f"        max_lr={plan.lr * ratio.start!r}, min_lr={plan.lr * schedule.alpha * ratio.end!r}\n"
        "    ),\n"
        for component, ratio in kept.items()
    )
    listed = "".join(f"    {name!r}: {value!r},\n" for name, value in arguments.items())
    return _FILE.format(header=plan.header(), arguments=listed, overrides=overrides)
