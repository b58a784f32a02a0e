"""Parameter -> component: `partition` decides by rules, ownership, structure and names, in that order."""

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
    "Rule",
    "canonical_name",
    "coarse",
    "partition",
    "suggest_rule",
    "undecayed",
]
