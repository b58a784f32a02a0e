"""Relative rates for training stacks that own their loop, in each stack's own form.

exported = export(ratios, "megatron", schedule=BaseSchedule(total_steps=10_240, warmup_steps=102), lr=3e-3)
Path("overrides.py").write_text(exported.text)
print(*exported.losses, sep="\n", file=sys.stderr)

What a stack's format cannot say is said in words: in the head of the file, and in `Exported.losses`.

| target | form | what it can say |
| --- | --- | --- |
| `megatron` | `ParamGroupOverride(max_lr, min_lr)` per parameter glob | start and end ratios, all shapes |
| `torchtitan` | `ParamGroupConfig(pattern, ...)`, one schedule for all groups | one ratio per component, held |
| `olmo-core` | `OptimGroupOverride(params, opts)`, one schedule for all groups | one ratio per component, held |
| `deepspeed` | plain torch parameter groups and a `LambdaLR`, without a dependency on rlrs | everything |
| `nanotron` | one schedule in its YAML | the base schedule only |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rlrs.components import Partition, partition, refine
from rlrs.integrations.export import _deepspeed, _megatron, _nanotron, _olmo_core, _torchtitan
from rlrs.integrations.export._plan import ExportError, Plan, make_plan
from rlrs.ratios import Ratios
from rlrs.schedules import BaseSchedule

__all__ = ["TARGETS", "ExportError", "Exported", "components_for", "export"]

_WRITERS: dict[str, Callable[[Plan], str]] = {
    "megatron": _megatron.write,
    "torchtitan": _torchtitan.write,
    "olmo-core": _olmo_core.write,
    "deepspeed": _deepspeed.write,
    "nanotron": _nanotron.write,
}
TARGETS = tuple(_WRITERS)
"""Stacks that `export` writes for."""


@dataclass(frozen=True)
class Exported:
    """A file for another training stack."""

    text: str
    losses: tuple[str, ...]
    """What the stack does otherwise than `RelativeLR`, a sentence each; empty if nothing."""
    suffix: str
    """Of the file: `.py` or `.yaml`."""


def components_for(model: nn.Module, ratios: Ratios, to: str) -> Partition:
    """A model's parameter names per component, as fine as the ratios.

    Raises:
        ExportError: a ratio for some of the experts or tokens in one tensor, which has one rate in any other stack.
        PartitionError: a ratio for layers or experts that the model does not have.
    """
    finer = refine(model, partition(model), ratios)
    if finer.slices:
        name = next(iter(finer.slices))
        raise ExportError(
            f"{name} is one tensor with ratios for parts of it (experts, tokens), which has one rate in {to}"
        )
    return finer.parts


def export(
    ratios: Ratios | Mapping[str, Any],
    to: str,
    *,
    schedule: BaseSchedule,
    lr: float,
    weight_decay: float = 0.0,
    weight_decays: Mapping[str, float] | None = None,
    found_with: Sequence[str] = (),
    betas: tuple[float, float] | None = None,
    components: Mapping[str, Sequence[str]] | None = None,
) -> Exported:
    """Write relative rates in the form of another training stack.

    Args:
        ratios: relative rates per component.
        to: one of `TARGETS`.
        schedule: the base schedule, in optimizer steps.
        lr: base peak rate.
        weight_decay: of the decayed parameters, where the form wants one.
        weight_decays: of components that have their own.
        found_with: what else the rates were found with, in words, for the head of the file.
        betas: AdamW's, with which the rates were found; written where the form has a place for them, then with
            `weight_decay`. None if they are not known.
        components: the model's parameter names per component, as `rlrs.partition(model)` gives them, or
            `rlrs.components.refine` for ratios per layer. If None, the
            stack's own names for its own models (not for `deepspeed`, which has none). Norms and biases, told by
            component and name, are not decayed.

    Raises:
        ExportError: no such target, a component whose parameters are not known, or a value that the stack refuses.
    """
    if to not in _WRITERS:
        raise ExportError(f"no export to {to!r}; there are {', '.join(TARGETS)}")
    ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
    if components is not None:  # a component that is wholly divided by layers has no parameter of its own left
        divided = {name.partition("/")[0] for name in components if "/" in name} - set(components)
        ratios = Ratios({name: ratio for name, ratio in ratios.items() if name not in divided}, ratios.provenance)
    idle = [name for name in ratios if name in getattr(components, "tied_components", ())]
    notes = Ratios({name: ratios[name] for name in idle}).check_used(components or (), "the model")
    ratios = Ratios({name: ratio for name, ratio in ratios.items() if name not in idle}, ratios.provenance)
    plan = make_plan(ratios, to, schedule, lr, weight_decay, components, weight_decays or {}, found_with, betas)
    plan.losses.extend(notes)
    plan.losses.extend(
        f"{component}: its own weight decay {decay:g} is lost, it has {weight_decay:g} like the rest"
        for component, decay in plan.weight_decays.items()
        if not _has_own_decay(plan, component)
    )
    text = _WRITERS[to](plan)
    return Exported(text, tuple(plan.losses), ".yaml" if to == "nanotron" else ".py")


def _has_own_decay(plan: Plan, component: str) -> bool:
    """Whether the form has a weight decay for a component alone."""
    if plan.to == "deepspeed" or (plan.to == "torchtitan" and plan.components is not None):
        return True
    return plan.to in ("torchtitan", "olmo-core") and component in plan.ratios
