"""Small language models to search ratios on: decoder-only, dense or Switch mixture of experts."""

from rlrs.models.moe import RouterStatistics, Routing, router_statistics
from rlrs.models.transformer import ModelOutput, ParameterCount, Transformer, count_parameters

__all__ = [
    "ModelOutput",
    "ParameterCount",
    "RouterStatistics",
    "Routing",
    "Transformer",
    "count_parameters",
    "router_statistics",
]
