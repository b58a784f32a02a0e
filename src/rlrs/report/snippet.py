"""The lines that put what a study decided for into a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlrs.records import Recipe


def snippet(recipe: Recipe, steps: int, training: Mapping[str, Any] | None = None) -> str:
    """Lines for a training script, imports included, with everything that was found for the target filled in.

    Args:
        recipe: of the arm that was decided for.
        steps: of the target's run.
        training: of the study's settings, for the optimizer; AdamW if None.
    """
    training, schedule = training or {}, recipe.base_schedule(steps)
    groups = [f"lr={recipe.target_lr or recipe.lr:.4g}", f"weight_decay={recipe.weight_decay:g}"]
    if recipe.component_weight_decay:
        own = ", ".join(f"{name!r}: {decay:g}" for name, decay in recipe.component_weight_decay.items())
        groups.append(f"weight_decays={{{own}}}")
    made = f"rlrs.param_groups(model, ratios, {', '.join(groups)})"
    lengths = f"total_steps={schedule.total_steps}, warmup_steps={schedule.warmup_steps}"
    shape = "" if schedule.shape == "cosine" else f', schedule="{schedule.shape}"'
    final = "" if schedule.shape == "constant" else f", final_fraction={schedule.alpha:.4g}"
    lines = [
        "import torch",
        "",
        "import rlrs",
        "",
        'ratios = rlrs.Ratios.load("ratios.yaml")',
        f"optimizer = {_optimizer(made, recipe, training)}",
        f"scheduler = rlrs.RelativeLR(optimizer, ratios, {lengths}{final}{shape})",
        "scheduler.step()  # in the training loop, after optimizer.step()",
    ]
    if training.get("optimizer") == "muon":
        lines.append("# The study had Muon for the matrices of hidden layers: split the groups with rlrs.split_groups.")
        if recipe.muon_rate not in (None, 1.0):
            rate = (recipe.target_lr or recipe.lr) * recipe.muon_rate
            lines.append(f"# Muon's groups have a base rate of their own: split_groups(..., lr={rate:.4g}).")
    if recipe.init_scale is not None:
        lines.append(
            f"# The search also found init_scale={recipe.init_scale:.4g}: "
            "initialise matrices with the standard deviation sqrt(init_scale / fan_in)."
        )
    return "\n".join(lines)


def _optimizer(groups: str, recipe: Recipe, training: Mapping[str, Any]) -> str:
    if training.get("optimizer") == "sgd":
        momentum = training.get("momentum", 0.0)
        return f"torch.optim.SGD({groups}, momentum={momentum:g}, nesterov={bool(momentum)})"
    # Torch's own default for the second is 0.999, which the study did not have.
    return f"torch.optim.AdamW({groups}, betas=({recipe.betas[0]:.6g}, {recipe.betas[1]:.6g}))"
