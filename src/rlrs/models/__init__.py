"""Language models to search ratios on: our own, dense or a mixture of experts, and any of transformers by config."""

from rlrs.models.build import build_model
from rlrs.models.counts import ParameterCount, count_parameters, training_flops
from rlrs.models.language_model import LanguageModel, ModelOutput
from rlrs.models.moe import RouterStatistics, Routing, router_statistics
from rlrs.models.scaled import Rung, concrete, ladder
from rlrs.models.sizes import at_depth, at_width, size_steps
from rlrs.models.transformer import Transformer

__all__ = [
    "LanguageModel",
    "ModelOutput",
    "ParameterCount",
    "RouterStatistics",
    "Routing",
    "Rung",
    "Transformer",
    "at_depth",
    "at_width",
    "build_model",
    "concrete",
    "count_parameters",
    "ladder",
    "router_statistics",
    "size_steps",
    "training_flops",
]
