"""What is said of a parameter, and what was promised of it: the words that all judges share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from rlrs._verify.report import Kind
from rlrs.components import Partition
from rlrs.ratios import Ratios

FOREIGN = "not in the model"


class Fault(NamedTuple):
    """What is wrong with one parameter."""

    kind: Kind
    factor: float | None
    cause: str
    """`{group}` in it stands for the groups of all parameters that it is said of."""
    remedy: str
    group: str = ""


Faults = Iterator[tuple[int, Fault]]
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


def group_label(optimizer: Optimizer, index: int) -> str:
    """How a group is called in messages."""
    return repr(optimizer.param_groups[index].get("name", index))
