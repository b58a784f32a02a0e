"""Decoupled relative learning-rate schedules for Transformers and mixtures of experts (arXiv:2507.03526).

ratios = rlrs.Ratios.preset("paper-moe")
optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=3e-3, weight_decay=0.1))
scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=10_240, warmup_steps=102, final_fraction=0.0444)
"""

from importlib.metadata import PackageNotFoundError, version

from rlrs.components import Partition, PartitionError, Rule, partition
from rlrs.lr_scheduler import RelativeLR
from rlrs.param_groups import layer_decay, param_groups, split_groups
from rlrs.ratios import Ratio, Ratios, RatiosError
from rlrs.schedules import BaseSchedule, relative_factor
from rlrs.verify import verify

try:
    __version__ = version("rlrs")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "BaseSchedule",
    "Partition",
    "PartitionError",
    "Ratio",
    "Ratios",
    "RatiosError",
    "RelativeLR",
    "Rule",
    "__version__",
    "layer_decay",
    "param_groups",
    "partition",
    "relative_factor",
    "split_groups",
    "verify",
]
