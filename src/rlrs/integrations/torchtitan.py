"""Relative learning rates in torchtitan: a container of schedulers, chosen in a run's configuration.

lr_scheduler=RelativeLRSchedulers.Config(ratios="ratios.yaml", warmup_steps=200, decay_type="cosine", min_lr_factor=0.1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlrs.components import partition, refine
from rlrs.integrations import require
from rlrs.integrations._ends import check_ends
from rlrs.ratios import BASE, PRESETS, Ratios
from rlrs.schedules import BaseSchedule, Curve

require("torchtitan.components.optimizer", "torchtitan")

from torchtitan.components.optimizer import LRSchedulersContainer  # noqa: E402  # pyright: ignore[reportMissingImports]

__all__ = ["RelativeLRSchedulers"]


class RelativeLRSchedulers(LRSchedulersContainer):
    """torchtitan's container of schedulers, with a rate per component.

    The parameter groups of the configuration stay as they are, with their rates and decay, and are split by
    component: a catch-all group will do. Nothing is added to the groups, and the state is torchtitan's own (the step
    alone), so checkpoints are what they were. Rates in the log are named `lr/COMPONENT`.

    Args:
        optimizers: the container of optimizers; no step has been taken.
        ratios: relative rates per component.
        schedule: the base schedule.
        partial: the model is one stage of a pipeline, where a component may be on another rank.

    Raises:
        ValueError: an optimizer, other than Adam and AdamW, whose group mixes components.
        RatiosError: a ratio for a component that the model does not have.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        """torchtitan's settings and the ratios; `decay_type` linear or cosine, with `decay_ratio` linear only."""

        ratios: str = "ratios.yaml"
        """A ratios.yaml, or the name of a preset."""

        partial: bool = False
        """The model is one stage of a pipeline: ratios for components that are not on this rank are no error."""

        def build(self, *, optimizers: Any, training_steps: int) -> RelativeLRSchedulers:
            """The schedulers for optimizers that have not taken a step."""
            if self.decay_type == "sqrt" or (self.decay_type == "cosine" and self.decay_ratio is not None):
                raise ValueError(
                    f"decay_type={self.decay_type!r} with decay_ratio={self.decay_ratio!r} has no relative form: use "
                    "'linear', or 'cosine' without decay_ratio"
                )
            shape = self.decay_type if self.decay_ratio is None else "wsd"
            schedule = BaseSchedule(
                total_steps=training_steps if self.total_steps is None else self.total_steps,
                warmup_steps=int(self.warmup_steps),
                final_fraction=self.min_lr_factor,
                shape=shape,
                **({} if self.decay_ratio is None else {"decay_fraction": self.decay_ratio}),
            )
            ratios = Ratios.preset(self.ratios) if self.ratios in PRESETS else Ratios.load(self.ratios)
            if self.min_lr_factor == 0:
                check_ends(ratios, "min_lr_factor=0", "min_lr_factor=0.1")
            return RelativeLRSchedulers(optimizers, ratios, schedule, partial=self.partial)

    def __init__(self, optimizers: Any, ratios: Ratios, schedule: BaseSchedule, *, partial: bool = False) -> None:
        component_of: dict[int, str] = {}
        for part in optimizers.model_parts:
            component_of |= _components(part, ratios)
        if not partial:
            there = {*component_of.values(), *(name.partition("/")[0] for name in component_of.values())}
            ratios.check_used(sorted(there), "the model")
        self.components: list[list[str]] = []
        self.schedulers = []
        for optimizer in optimizers:
            names = _split(optimizer, component_of)
            curves = [Curve(schedule, ratios.get(name, BASE).knots) for name in names]
            self.components.append(names)
            self.schedulers.append(LambdaLR(optimizer, curves))

    def get_metrics(self) -> dict[str, float]:
        """Present rate of every component, `lr/COMPONENT`; of its largest where groups of one component differ."""
        rates: dict[str, float] = {}
        for scheduler, names in zip(self.schedulers, self.components, strict=True):
            for name, rate in zip(names, scheduler.get_last_lr(), strict=True):
                rates[f"lr/{name}"] = max(float(rate), rates.get(f"lr/{name}", 0.0))
        return rates


def _components(part: nn.Module, ratios: Ratios) -> dict[int, str]:
    """Identity of a parameter -> the name of its ratio; a part is one stage of perhaps several."""
    parameters = dict(part.named_parameters())
    finer = refine(part, partition(part), ratios, partial=True)
    if finer.slices:
        raise ValueError(f"{next(iter(finer.slices))} is one tensor with ratios for parts of it: use rlrs.RelativeLR")
    return {id(parameters[name]): component for name, component in finer.parts.component_of().items()}


def _split(optimizer: Optimizer, component_of: dict[int, str]) -> list[str]:
    """Split every group of an optimizer into one per component, in place; the component of each."""
    groups, names = [], []
    for group in optimizer.param_groups:
        members: dict[str, list[int]] = {}
        for index, parameter in enumerate(group["params"]):
            members.setdefault(component_of[id(parameter)], []).append(index)
        if len(members) > 1 and type(optimizer) not in (Adam, AdamW):
            raise ValueError(
                f"a parameter group of {type(optimizer).__name__} has parameters of {', '.join(members)}: give each "
                "component a ParamGroupConfig of its own"
            )
        for component, indices in members.items():
            part = {key: [group[key][i] for i in indices] for key in ("params", "param_names")}
            groups.append({**group, **part})
            names.append(component)
    optimizer.param_groups[:] = groups
    return names
