"""nanotron: one schedule in its YAML, one rate for all parameters."""

from __future__ import annotations

from rlrs.integrations.export._plan import Plan
from rlrs.ratios import BASE
from rlrs.yaml_files import dump_yaml


def write(plan: Plan) -> str:
    """The `optimizer` section of its configuration, as far as the schedule goes."""
    schedule = plan.schedule
    for component in plan.ratios:
        plan.keep(component, BASE, "follows the base rate, its ratio is lost: nanotron has one rate for all parameters")
    plan.losses.append(
        "the warm-up runs one step behind, lr(t) = peak * t / W"
        if schedule.warmup_steps
        else "the first step has the rate 0"
    )
    length = plan.whole_decay_steps() if schedule.shape == "wsd" else schedule.total_steps - schedule.warmup_steps
    section = {
        "weight_decay": plan.weight_decay,
        "learning_rate_scheduler": {
            "learning_rate": plan.lr,
            "lr_warmup_steps": schedule.warmup_steps,
            "lr_warmup_style": "linear",
            "lr_decay_starting_step": schedule.total_steps - length,
            "lr_decay_steps": length,
            "lr_decay_style": "cosine" if schedule.shape == "cosine" else "linear",
            "min_decay_lr": plan.lr * schedule.alpha,
        },
    }
    return plan.header() + dump_yaml({"optimizer": section})
