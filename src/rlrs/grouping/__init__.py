"""Components found by how tensors learn: clusters of their statistics, as ordinary rules.

found = find_components([RunStatistics.load("statistics.npz")])
save_components(found, "components.yaml")
groups = rlrs.param_groups(model, ratios, lr=3e-3, rules=rlrs.load_rules("components.yaml"))

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrs.grouping.clustering import FIGURES_USED, agreement, find_components
    from rlrs.grouping.found_components import (
        FoundComponent,
        FoundComponents,
        GroupingError,
        Place,
        read_components,
        save_components,
    )
    from rlrs.grouping.larger_models import carry_components

__all__ = [
    "FIGURES_USED",
    "FoundComponent",
    "FoundComponents",
    "GroupingError",
    "Place",
    "agreement",
    "carry_components",
    "find_components",
    "read_components",
    "save_components",
]

_MODULES = {"clustering": ("FIGURES_USED", "agreement", "find_components"), "larger_models": ("carry_components",)}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "found_components")
    return getattr(import_module(f"rlrs.grouping.{module}"), name)
