"""Parameter -> component: `partition` decides by rules, ownership, structure and names, in that order."""

from rlrs.components.adapters import is_lora_b
from rlrs.components.granularity import Refined, Slice, divided_component, refine, token_rows, vocabulary_rows
from rlrs.components.layers import Depth
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
from rlrs.components.synonyms import standard_name, suggest_component
from rlrs.components.towers import tower_rules

__all__ = [
    "COMPONENTS",
    "Depth",
    "Partition",
    "PartitionError",
    "Refined",
    "Rule",
    "Slice",
    "canonical_name",
    "coarse",
    "divided_component",
    "is_lora_b",
    "partition",
    "refine",
    "standard_name",
    "suggest_component",
    "suggest_rule",
    "token_rows",
    "tower_rules",
    "undecayed",
    "vocabulary_rows",
]
