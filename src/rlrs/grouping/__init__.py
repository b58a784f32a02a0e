"""Components found by how tensors learn: clusters of their statistics, as ordinary rules.

found = find_components([RunStatistics.load("statistics.npz")])
save_components(found, "components.yaml")
groups = rlrs.param_groups(model, ratios, lr=3e-3, rules=rlrs.load_rules("components.yaml"))
"""

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
