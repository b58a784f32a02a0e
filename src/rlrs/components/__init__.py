"""Parameter -> component: `partition` decides by rules, ownership, structure and names, in that order."""

from rlrs.components.granularity import Refined, Slice, expert_of, layer_of, refine
from rlrs.components.parts import (
    COMPONENTS,
    Partition,
    PartitionError,
    Rule,
    canonical_name,
    coarse,
    partition,
    suggest_rule,
    undecayed,
)

__all__ = [
    "COMPONENTS",
    "Partition",
    "PartitionError",
    "Refined",
    "Rule",
    "Slice",
    "canonical_name",
    "coarse",
    "expert_of",
    "layer_of",
    "partition",
    "refine",
    "suggest_rule",
    "undecayed",
]
